//go:build !failpoints

package listener

// failpoint does nothing in a release build; under the failpoints tag it can kill the process.
func failpoint(string) {}
