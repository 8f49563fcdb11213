package conn

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A serving goroutine that always finds a request never parks: read, write and nanosleep are system calls, in which it keeps its
// place among Go's scheduler's processors. As long as nobody parks nobody may poll the network: findRunnable of Go 1.26 (runtime/proc.go)
// runs what a poll without waiting has found, and wakes no other thread to poll on. Then only the runtime's monitor polls, every
// 10 ms (sysmon), and that is what a request of another connection waits. So whoever gives way parks, on a timer of the kernel that
// Go's poller waits for. time.Sleep would park, too, but rounds up to the millisecond of epoll_wait(2).

// maxSpareNaps is how many timers are kept that nobody waits on.
const maxSpareNaps = 16

// nap is a timer of the kernel (timerfd_create(2)).
type nap struct {
	file *os.File              // immutable
	raw  syscall.RawConn       // immutable
	wait func(fd uintptr) bool // immutable; step, bound once
	d    time.Duration         // of the goroutine that has the nap
	set  bool                  // the same
}

// spareNaps are the timers that nobody waits on.
var spareNaps struct {
	mu  sync.Mutex
	all []*nap // guarded by mu
}

// rest parks the goroutine for a while, and so lets Go's scheduler poll for others. Where the process has no descriptor left the
// goroutine sleeps in a system call.
func rest(d time.Duration) {
	n, err := borrowNap()
	if err == nil {
		err = n.rest(d)
		n.giveBack(err)
	}
	if err != nil {
		t := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&t, nil)
	}
}

func borrowNap() (*nap, error) {
	spareNaps.mu.Lock()
	if last := len(spareNaps.all) - 1; last >= 0 {
		n := spareNaps.all[last]
		spareNaps.all = spareNaps.all[:last]
		spareNaps.mu.Unlock()
		return n, nil
	}
	spareNaps.mu.Unlock()
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	n := &nap{file: os.NewFile(uintptr(fd), "timerfd")}
	if n.raw, err = n.file.SyscallConn(); err != nil {
		n.file.Close()
		return nil, err
	}
	n.wait = n.step
	return n, nil
}

// giveBack keeps the timer for the next one, unless it failed or there are enough.
func (n *nap) giveBack(failed error) {
	spareNaps.mu.Lock()
	keep := failed == nil && len(spareNaps.all) < maxSpareNaps
	if keep {
		spareNaps.all = append(spareNaps.all, n)
	}
	spareNaps.mu.Unlock()
	if !keep {
		n.file.Close()
	}
}

func (n *nap) rest(d time.Duration) error {
	n.d, n.set = d, false
	return n.raw.Read(n.wait)
}

// step arms the timer when it is called first, and is called again when that has expired. Nobody reads the timer: arming it anew
// forgets that it has expired (timerfd_settime(2)).
func (n *nap) step(fd uintptr) (expired bool) {
	if n.set {
		return true
	}
	n.set = true
	return unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(n.d))}, nil) != nil
}
