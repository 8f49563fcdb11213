package conn

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Waking up is most of a round trip. While requests come fast, a thread of the connection waits for the next one: it
// reads the device again and again for a while, then sleeps in a system call. The first is best if the caller has
// another processor, which must then be woken only for the reply; the second if both share one. Parking costs more than
// most requests, because the thread that then waits for all connections wakes another one to wait in its place.
// docs/bench.md has figures.
const (
	// hotFor is the time for which a thread waits, and the longest wait after which the connection counts as hot.
	hotFor = 2 * time.Millisecond
	// spinFor bounds a spin, and spinAfter the last wait of a connection that spins.
	spinFor   = 50 * time.Microsecond
	spinAfter = 200 * time.Microsecond
	maxVain   = 64
)

// hot counts the connections of this process with a waiting thread.
var hot atomic.Int32

// maxHot bounds them: the callers need the other processors. Each adds a processor to Go's scheduler (P), because a P
// whose thread waits in a system call goes to other goroutines only when the runtime's monitor looks, up to 10 ms
// later.
var maxHot = sync.OnceValue(func() int32 {
	procs := runtime.GOMAXPROCS(0)
	n := max(procs/2, 1)
	runtime.GOMAXPROCS(procs + n)
	return int32(n)
})

// waitHot waits for a request if the last one came fast.
func (s *server) waitHot(fd int) {
	if s.slept > hotFor {
		return
	}
	defer hot.Add(-1)
	if hot.Add(1) > maxHot() {
		return
	}
	if s.slept <= spinAfter && s.spins.worthwhile() {
		for start := time.Now(); s.err == unix.EAGAIN && time.Since(start) < spinFor; {
			s.n, s.err = readRequest(fd, s.m.in)
		}
		if s.spins.ended(s.err != unix.EAGAIN); s.err != unix.EAGAIN {
			return
		}
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := 0, error(unix.EINTR)
	for err == unix.EINTR {
		n, err = unix.Poll(fds, int(hotFor/time.Millisecond))
	}
	if n > 0 {
		s.n, s.err = readRequest(fd, s.m.in)
	}
}

// spins makes spins rarer after vain ones: the caller has no other processor.
type spins struct{ vain, skip int }

// worthwhile reports that the next spin is not to be left out.
func (s *spins) worthwhile() bool {
	if s.skip > 0 {
		s.skip--
		return false
	}
	return true
}

// ended notes the outcome of a spin.
func (s *spins) ended(found bool) {
	if found {
		s.vain /= 2
		return
	}
	s.vain = min(2*s.vain+4, maxVain)
	s.skip = s.vain
}
