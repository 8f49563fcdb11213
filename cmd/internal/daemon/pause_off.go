//go:build !failpoints

package daemon

// pauseForTest does nothing in a release build; under the failpoints tag it delays a new worker.
func pauseForTest() {}
