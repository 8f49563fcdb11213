// Package notify answers some calls of a guest instead of the kernel, by seccomp user notification
// (seccomp_unotify(2)): statfs of a view reports the type of the kernel's own mount, mount of cgroup or cgroup2
// attaches the guest's own view, and an open of a task's cgroup, mountinfo or mounts in /proc gives a file that has the
// view's hierarchies in place of the host's.
//
// # Words
//
// A listener is the descriptor that delivers the calls of all processes under one filter. A Request is one call; a
// Caller is the thread waiting in it. A Supervisor answers the calls of one guest. To pass a call on is to let the
// kernel carry it out as without a filter.
//
// # What always holds
//
// The answers are a convenience, never a boundary: a caller can change its arguments after they were read, so every
// answer must be harmless when it is wrong. A call is passed on when it concerns nothing of this guest, when too many
// calls are under way, or when it takes too long. A mount is attached in the caller's own mount namespace only, is
// never rooted above the caller's cgroup namespace, and never reaches the namespace of this process. A caller's memory
// is written only after the kernel confirmed that the caller still waits. Path lookup uses no more rights than the
// caller has: no errno tells the caller more than it could find out itself. No file of the host is given to a caller: a
// file that it gets is in memory, and tells only of tasks in its own guest.
//
// A Supervisor looks up paths for its callers, and so sends requests to the view's server. It must not run in that
// server's process: a thread waiting for an answer of its own process keeps a killed process from ending
// (request_wait_answer, fs/fuse/dev.c).
//
// The package holds no lock while it acts for a caller. server.mu and texts.mu are leaves.
package notify

import (
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Request is struct seccomp_notif of include/uapi/linux/seccomp.h. The kernel can write into it anywhere, also in
// memory that outlives this process. ID is 0 in a free one.
type Request struct {
	ID    uint64
	Tid   uint32 // of the caller, in this process's pid namespace; 0 if it is not visible there
	Flags uint32

	Nr   int32
	Arch uint32
	IP   uint64
	Args [6]uint64
}

// Guest is the knowledge of a guest that its Supervisor needs. Many goroutines call its methods at once.
type Guest interface {
	// Type returns the type (f_type of statfs) that the kernel's own mount would have where a descriptor (O_PATH) leads; 0
	// for anything but a view of this guest.
	Type(fd int) uint32
	// Tree makes a detached mount: the caller's part of the view for mount(2) of a type ("cgroup", "cgroup2") with
	// options. The error is the kernel's errno, or ErrPassOn.
	Tree(c *Caller, fstype, options string) (mount int, err error)
}

// Default bounds of a Supervisor.
const (
	DefaultThreads = 16
	DefaultTimeout = 10 * time.Second
)

// slowAfter bounds the lookup of a path before other calls with the same path are passed on. roomTime bounds a call's
// wait for others. watchEvery is the period of checks that the caller still waits.
const (
	slowAfter  = 2 * time.Second
	roomTime   = time.Second
	watchEvery = 200 * time.Millisecond
)

// Supervisor answers calls of one guest. Its fields do not change once it serves.
type Supervisor struct {
	Guest Guest
	Log   *logrus.Entry

	// Threads bounds the calls of one listener that may wait for file systems of the guest's own at once, and those that
	// ask the view; 0 is DefaultThreads. At most four times as many calls are under way. Further ones are passed on.
	Threads int
	// Timeout bounds the time of a call until its answer; 0 is DefaultTimeout.
	Timeout time.Duration
	// Stuck is called, perhaps often, when a file system of the guest's own blocks a thread of this process after the
	// caller has stopped waiting. Such a thread can keep the guest's own threads from ending, and ends with this process
	// only. May be nil.
	Stuck func()
	// Admit, if not nil, is asked before a call is answered, and may wait a while for room. leave is called once the call
	// is answered and nothing of it is left. A call refused by Admit is passed on.
	Admit func() (leave func(), ok bool)
	// Observe, if not nil, is called with the outcome of each call.
	Observe func(passedOn bool)
	// Proc, if not nil, has opens of files in /proc answered, as this view shows the guest's cgroups. The view's Root may
	// not be covered by mounts of the guest's.
	Proc *View
	// Inside marks this process as one of the guest's, with its rights and in its namespaces.
	Inside bool
}

func (s *Supervisor) threads() int {
	if s.Threads > 0 {
		return s.Threads
	}
	return DefaultThreads
}

// perThread is the ratio of calls under way to those that may wait for a file system.
const perThread = 4

// Slots returns the most requests received before one of them is answered.
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

// answer is the outcome of a call: an errno, 0 for success, a new descriptor of the caller's, or passing it on.
type answer struct {
	errno  unix.Errno
	passOn bool
	made   bool // a change was made, which a repetition of the call will find

	opened  bool
	file    int // with opened: a descriptor of what the caller gets; whoever has the answer closes it
	cloexec bool
}

// drop closes the file of an answer.
func (a answer) drop() {
	if a.opened {
		unix.Close(a.file)
	}
}

var pass = answer{passOn: true}

// ErrPassOn reports that a guest has no view of the requested tree.
var ErrPassOn = errors.New("the guest has no view of it")

// refuse returns the answer for an error: its errno, or EPERM without one.
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
