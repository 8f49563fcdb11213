//go:build !failpoints

package fs

// failpoint is where a test can have the server die; in the program that is shipped it is nothing.
func failpoint(string) {}
