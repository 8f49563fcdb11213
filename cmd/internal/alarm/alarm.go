// Package alarm is a timer that costs a process which is otherwise idle one wake-up of a thread.
//
// A timer of Go's costs such a process six or seven: the runtime's monitor sleeps until the next timer, too, and looks
// again some times (sysmon), and a goroutine that a timer makes ready wakes a second thread (wakep). A timer of the
// kernel (timerfd_create(2)) is a descriptor like any other that Go's poller waits for. Its system calls cannot
// block, so they are made without the runtime's knowledge: otherwise each wakes the monitor (entersyscall).
package alarm

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Alarm rings once or again and again. One goroutine waits for it, and any may set it.
type Alarm struct {
	file *os.File        // immutable
	raw  syscall.RawConn // immutable; of file
}

// New makes an alarm that is not set. The errors are those of timerfd_create.
func New() (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	a := &Alarm{file: os.NewFile(uintptr(fd), "timerfd")}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.file.Close()
	}
	return a, err
}

// Set has the alarm ring after a time, at once if that is not positive, and not when it was set to before. every is the
// time between further rings, 0 for none. os.ErrClosed after Close.
func (a *Alarm) Set(after, every time.Duration) error {
	// Zero would disarm it.
	value := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(after, 1))),
		Interval: unix.NsecToTimespec(int64(max(every, 0)))}
	var errno syscall.Errno
	if a.raw.Control(func(fd uintptr) {
		_, _, errno = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&value)), 0, 0, 0)
	}) != nil {
		return os.ErrClosed
	}
	if errno != 0 {
		return os.NewSyscallError("timerfd_settime", errno)
	}
	return nil
}

// Wait waits until the alarm rings, and returns how often it did since the last Wait. os.ErrClosed after Close.
func (a *Alarm) Wait() (rings uint64, err error) {
	if a.raw.Read(func(fd uintptr) bool {
		_, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&rings)), unsafe.Sizeof(rings))
		return errno == 0
	}) != nil {
		return 0, os.ErrClosed
	}
	return rings, nil
}

// Close ends the alarm and the wait for it.
func (a *Alarm) Close() error { return a.file.Close() }
