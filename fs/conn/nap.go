package conn

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A serving goroutine with a never-empty queue does not park: during read, write and nanosleep it keeps its
// processor of Go's scheduler (P). While no goroutine parks, no thread polls the network: findRunnable of Go 1.26
// (runtime/proc.go) runs the results of a poll without waiting and wakes no other thread to poll again. Then only
// the runtime's monitor polls, every 10 ms (sysmon), and a request of another connection waits that long. So a
// yielding goroutine parks on a timer of the kernel, which Go's poller waits for. time.Sleep would park too, but
// rounds up to the millisecond of epoll_wait(2).

// maxSpareNaps bounds the unused timers that are kept.
const maxSpareNaps = 16

// nap is a timer of the kernel (timerfd_create(2)).
type nap struct {
	file *os.File              // immutable
	raw  syscall.RawConn       // immutable
	wait func(fd uintptr) bool // immutable; step, bound once
	d    time.Duration         // used by the goroutine with the nap only
	set  bool                  // the same
}

// spareNaps are the unused timers.
var spareNaps struct {
	mu  sync.Mutex
	all []*nap // guarded by mu
}

// rest parks the goroutine for a while, and so lets Go's scheduler poll for others. If the process has no descriptor
// left, the goroutine sleeps in a system call.
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
	file, raw, err := newTimer()
	if err != nil {
		return nil, err
	}
	n := &nap{file: file, raw: raw}
	n.wait = n.step
	return n, nil
}

// newTimer makes a timer of the kernel that Go's poller waits for.
func newTimer() (*os.File, syscall.RawConn, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("timerfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "timerfd")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, raw, nil
}

// setTimer has a timer expire once, after a time; 0 stops it. It clears an earlier expiry (timerfd_settime(2)).
func setTimer(fd uintptr, d time.Duration) error {
	return unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
}

// giveBack keeps the timer for reuse, unless it failed or there are enough.
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

// step arms the timer at its first call; the second call follows the expiry. The timer is never read: arming it
// again clears the expiry (timerfd_settime(2)).
func (n *nap) step(fd uintptr) (expired bool) {
	if n.set {
		return true
	}
	n.set = true
	return setTimer(fd, n.d) != nil
}
