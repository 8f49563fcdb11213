//go:build !failpoints

package daemon

// pauseForTest is where a test can hold a new worker back; in the program that is shipped it is nothing.
func pauseForTest() {}
