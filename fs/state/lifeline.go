package state

import (
	"math"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A killed process does not exit at once: one of its threads may wait in the kernel, perhaps for an answer that only
// the next worker can give, and the parent learns of the exit from the last thread. A lifeline reports the kill at
// once: the kernel marks a robust futex when the thread that holds it exits (set_robust_list(2),
// Documentation/locking/robust-futex-ABI.rst), and a thread that only holds it exits without delay.

// Lifeline is a robust list of one entry, in shared memory, which does not move.
type Lifeline struct {
	head struct {
		list    uintptr
		offset  int
		pending uintptr
	}
	next  uintptr // of the entry
	futex uint32  // atomic
	_     uint32
}

// Of include/uapi/linux/futex.h.
const (
	futexWaiters   = 0x80000000
	futexOwnerDied = 0x40000000
	futexWait      = 0
	futexWake      = 1
)

func (l *Lifeline) addr() uintptr { return uintptr(unsafe.Pointer(&l.futex)) }

// Worker returns the worker's lifeline.
func (a *Arena) Worker() *Lifeline { return &a.head().life }

// Hold holds the lifeline by a thread of its own until this process ends. The errors are those of set_robust_list.
func (l *Lifeline) Hold() error {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		l.next = uintptr(unsafe.Pointer(&l.head.list))
		l.head.list = uintptr(unsafe.Pointer(&l.next))
		l.head.offset = int(unsafe.Offsetof(l.futex) - unsafe.Offsetof(l.next))
		l.head.pending = 0
		_, _, errno := unix.Syscall(unix.SYS_SET_ROBUST_LIST, uintptr(unsafe.Pointer(&l.head)), unsafe.Sizeof(l.head), 0)
		if errno != 0 {
			failed <- os.NewSyscallError("set_robust_list", errno)
			return
		}
		atomic.StoreUint32(&l.futex, uint32(unix.Gettid())|futexWaiters)
		l.Wake()
		failed <- nil
		for {
			// Until the process ends; Go's own signals interrupt it.
			_, _ = unix.Ppoll(nil, nil, nil)
		}
	}()
	return <-failed
}

// Renew prepares the lifeline for the next holder. Only the process that waits for it calls this.
func (l *Lifeline) Renew() { atomic.StoreUint32(&l.futex, 0) }

// Wake has Severed call quit.
func (l *Lifeline) Wake() { unix.Syscall(unix.SYS_FUTEX, l.addr(), futexWake, math.MaxInt32) }

// severedLimit bounds one wait of Severed. A Wake between its call of quit and its wait is lost.
const severedLimit = time.Minute

// Severed waits until the lifeline's holder ends, or quit returns true: who changes that calls Wake until Severed has
// returned.
func (l *Lifeline) Severed(quit func() bool) bool {
	for !quit() {
		v := atomic.LoadUint32(&l.futex)
		if v&futexOwnerDied != 0 {
			return true
		}
		limit := unix.NsecToTimespec(int64(severedLimit))
		unix.Syscall6(unix.SYS_FUTEX, l.addr(), futexWait, uintptr(v), uintptr(unsafe.Pointer(&limit)), 0, 0)
	}
	return false
}
