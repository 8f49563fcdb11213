package host

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread runs do on a thread of its own, which ends afterwards, so changes of the thread, its namespaces or its
// working directory affect no other code. It is never the main thread, whose state /proc/self shows.
func OnThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- do()
			// The thread is locked, so it ends with the goroutine.
			return
		}
		done <- OnThread(do)
		runtime.UnlockOSThread()
	}()
	return <-done
}
