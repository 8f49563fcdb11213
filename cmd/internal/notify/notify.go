// Package notify answers some calls of a guest in the kernel's stead, by seccomp user notification (seccomp_unotify(2)): statfs of a
// view says the type of the kernel's own mount, and mount of cgroup or cgroup2 attaches the guest's own view.
//
// # Words
//
// A listener is the descriptor by which the calls of all processes under one filter come. A Request is one call, a Caller the thread that
// waits in it. A Supervisor answers the calls of one guest; to pass a call on is to let the kernel do it as if there were no filter.
//
// # What always holds
//
// This is convenience, never a boundary: a caller's arguments can change after they were read, and whatever is answered is harmless when
// it is wrong. A call is passed on when it is about nothing of this guest, when too many are being answered, or when one takes too long.
// A mount is attached in the caller's own mount namespace only, is never rooted above the caller's cgroup namespace, and never comes into
// the namespace of this process. Memory of a caller is written only after the kernel said that the caller still waits. A path is looked up
// with no more rights than the caller has: no errno tells what the caller could not find out itself.
//
// A Supervisor looks paths up for its callers, which asks the server of the view. It must not run in the process that is that server: a
// thread that waits for an answer of its own process keeps a killed process from ending (request_wait_answer, fs/fuse/dev.c).
//
// The package holds no lock while it does anything for a caller. server.mu is a leaf.
package notify

import (
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Request is struct seccomp_notif of include/uapi/linux/seccomp.h, so that the kernel writes into it wherever it is: also in memory that
// outlives this process. ID is 0 in one that is free.
type Request struct {
	ID    uint64
	Tid   uint32 // of the caller, in this process's pid namespace; 0 where that does not know it
	Flags uint32

	Nr   int32
	Arch uint32
	IP   uint64
	Args [6]uint64
}

// Guest is what a Supervisor must know of the guest for which it answers. Its methods are called by many goroutines at once.
type Guest interface {
	// Type is the type (f_type of statfs) that the kernel's own mount has where a descriptor (O_PATH) leads to; 0 where that is no view of
	// this guest.
	Type(fd int) uint32
	// Tree makes a mount, attached nowhere, of what mount(2) of a type ("cgroup", "cgroup2") with options is to show a caller. The error
	// is the errno of the kernel, or ErrPassOn.
	Tree(c *Caller, fstype, options string) (mount int, err error)
}

// The bounds of a Supervisor, where nothing else is said.
const (
	DefaultThreads = 16
	DefaultTimeout = 10 * time.Second
)

// slowAfter is how long a path may take to be looked up before others with the same path are passed on; roomTime is how long a call waits
// for others; watchEvery is how often it is looked whether somebody waits still.
const (
	slowAfter  = 2 * time.Second
	roomTime   = time.Second
	watchEvery = 200 * time.Millisecond
)

// Supervisor answers calls of one guest. Its fields are not changed once it serves.
type Supervisor struct {
	Guest Guest
	Log   *logrus.Entry

	// Threads bounds the calls of one listener that may wait for file systems of the guest's own at once, and those that ask the view; 0 is
	// DefaultThreads. Four times as many are being answered at most. Others are passed on.
	Threads int
	// Timeout is how long a call may take to be answered; 0 is DefaultTimeout.
	Timeout time.Duration
	// Stuck is called, perhaps often, when a thread of this process is kept by a file system of the guest's own although nobody waits for its
	// call any more. Such a thread can keep the guest's own from ending, and ends with this process only. May be nil.
	Stuck func()
	// Admit, where it is not nil, is asked before a call is answered, and may wait a while for room; leave is called when the call was
	// answered and nothing of it is left. A call that is not admitted is passed on.
	Admit func() (leave func(), ok bool)
	// Observe, where it is not nil, is told what became of each call.
	Observe func(passedOn bool)
	// Inside says that this process is one of the guest's, with its rights and in its namespaces.
	Inside bool
}

func (s *Supervisor) threads() int {
	if s.Threads > 0 {
		return s.Threads
	}
	return DefaultThreads
}

// perThread is how many calls are being answered at once for each that may wait for a file system.
const perThread = 4

// Slots is how many requests are received at most before one of them is answered.
func (s *Supervisor) Slots() int { return s.threads()*perThread + 1 }

func (s *Supervisor) timeout() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return DefaultTimeout
}

func (s *Supervisor) debugf(format string, args ...any) {
	if s.Log != nil {
		s.Log.Debugf(format, args...)
	}
}

// answer is what comes of a call: an errno, 0 for success, or that it is passed on.
type answer struct {
	errno  unix.Errno
	passOn bool
	made   bool // something was changed, which the same call finds when it is made again
}

var pass = answer{passOn: true}

// ErrPassOn says that a guest has no view of what a caller wants.
var ErrPassOn = errors.New("the guest has no view of it")

// refuse is the answer that an error stands for: EPERM where that is no errno.
func refuse(err error) answer {
	var errno unix.Errno
	switch {
	case errors.Is(err, ErrPassOn):
		return pass
	case errors.As(err, &errno):
		return answer{errno: errno}
	}
	return answer{errno: unix.EPERM}
}
