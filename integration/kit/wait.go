package kit

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Scale is VCGROUPFS_SCALE, for emulated processors: 0.2 is a fifth of the guests and of the rounds, at a fifth of the
// pace.
func Scale(t testing.TB) float64 {
	text := os.Getenv("VCGROUPFS_SCALE")
	if text == "" {
		return 1
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f <= 0 || f > 1 {
		t.Fatalf("VCGROUPFS_SCALE is %q; it must be above 0 and at most 1", text)
	}
	return f
}

// Scaled is a part of n, at least least.
func Scaled(t testing.TB, n, least int) int { return max(least, int(float64(n)*Scale(t))) }

// Eventually waits for something that takes its own time, and looks ever more seldom: in an emulated machine looking is
// all the work.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	pause := 2 * time.Millisecond
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		pause = min(pause*5/4, 50*time.Millisecond)
	}
}

// Repeat does something time and again beside the test, until it says that it is enough or end is called.
func Repeat(do func() bool) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for do() {
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	return sync.OnceFunc(func() { close(stop); <-stopped })
}

// HasEnded waits for the end of the process of a pidfd.
func HasEnded(pidfd int, wait time.Duration) bool {
	for deadline := time.Now().Add(wait); ; {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// Patience is how long a thread may take to end, and a daemon: what takes longer hangs. An event that takes longer than
// EventPatience to arrive is lost: an emulated machine whose workers are killed all the time needed 9.8 s for one.
const (
	Patience      = 60 * time.Second
	EventPatience = 30 * time.Second
)
