//go:build !failpoints

package listener

// failpoint is where a test can have the process die; in the program that is shipped it is nothing.
func failpoint(string) {}
