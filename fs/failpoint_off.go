//go:build !failpoints

package fs

// failpoint marks a point at which a test can kill the server. It has no effect in the shipped program.
func failpoint(string) {}
