package host

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread does something on a thread of its own, which ends afterwards: what do changes of the thread, its namespaces or its
// working directory, nothing else sees. It is never the main thread, of which /proc/self tells.
func OnThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- do()
			return // locked: the thread ends
		}
		done <- OnThread(do)
		runtime.UnlockOSThread()
	}()
	return <-done
}
