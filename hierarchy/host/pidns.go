package host

import (
	"errors"
	"math"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPidNamespaces bounds the namespaces kept open. One that is dropped while in use stays open for its users.
const maxPidNamespaces = 256

// PidNamespace is a pid namespace: the server's own or one below it. It stays usable until its Host is closed, even
// after its last process has exited.
type PidNamespace struct {
	file  *os.File // immutable; nsfs, which keeps the namespace and its inode number alive
	raw   syscall.RawConn
	inode uint64 // immutable
	own   bool   // immutable

	scan  bool // immutable; read /proc, since the kernel lacks the ioctl
	depth int  // immutable; generations below the server's own namespace, with scan only
}

// pidNamespaces keeps namespaces open, by their inode number. The zero value is ready.
type pidNamespaces struct {
	scan bool // immutable; set before the first use if the kernel lacks the ioctl

	mu      sync.Mutex
	own     uint64                 // guarded by mu; the server's own, 0 before the first use
	entries map[uint64]*pidnsEntry // guarded by mu
	clock   uint64                 // guarded by mu
	closed  bool                   // guarded by mu
}

type pidnsEntry struct {
	ns   *PidNamespace
	used uint64 // clock at the last use
}

// PidNamespaceOf returns the active pid namespace of a task, in which the kernel reads and prints pid numbers for
// it. tid is a thread id in the server's own pid namespace, of any thread; unshare(CLONE_NEWPID) moves only the
// thread's children, not the thread. ESRCH if there is no such task, EACCES if the server has no access to it.
func (h *Host) PidNamespaceOf(tid int) (*PidNamespace, error) { return h.pidns.of(tid) }

func (c *pidNamespaces) of(tid int) (*PidNamespace, error) {
	if tid <= 0 {
		return nil, unix.ESRCH
	}
	// This also works for threads other than leaders, which /proc does not list.
	path := "/proc/" + strconv.Itoa(tid) + "/ns/pid"
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, taskErrno(err)
	}
	ns, own, err := c.known(st.Ino)
	if ns != nil || err != nil {
		return ns, err
	}
	if ns, err = openPidNamespace(path, own, c.scan); err != nil {
		return nil, err
	}
	return c.keep(ns)
}

// known returns the kept namespace with an inode number, or nil, and the inode number of the server's own.
func (c *pidNamespaces) known(inode uint64) (*PidNamespace, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.start(); err != nil {
		return nil, 0, err
	}
	if e := c.entries[inode]; e != nil {
		c.clock++
		e.used = c.clock
		return e.ns, c.own, nil
	}
	return nil, c.own, nil
}

// start reads the server's own namespace and checks that /proc belongs to it: otherwise every number would mean
// another task. Called with mu held.
func (c *pidNamespaces) start() error {
	if c.closed {
		return os.ErrClosed
	}
	if c.own != 0 {
		return nil
	}
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return err
	}
	if self != strconv.Itoa(os.Getpid()) {
		return errors.New("cannot use /proc: it was mounted for another pid namespace than the server's own")
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return &os.PathError{Op: "stat", Path: "/proc/self/ns/pid", Err: err}
	}
	c.own, c.entries = st.Ino, map[uint64]*pidnsEntry{}
	return nil
}

// keep stores ns, or returns the same namespace if another call was quicker. Beyond the bound it drops the least
// recently used one. It does not close that one, which may be in use: os.File closes itself with its last reference.
func (c *pidNamespaces) keep(ns *PidNamespace) (*PidNamespace, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		ns.file.Close()
		return nil, os.ErrClosed
	}
	if e := c.entries[ns.inode]; e != nil {
		ns.file.Close()
		return e.ns, nil
	}
	if len(c.entries) >= maxPidNamespaces {
		var oldest *pidnsEntry
		for _, e := range c.entries {
			if oldest == nil || e.used < oldest.used {
				oldest = e
			}
		}
		delete(c.entries, oldest.ns.inode)
	}
	c.clock++
	c.entries[ns.inode] = &pidnsEntry{ns, c.clock}
	return ns, nil
}

// close closes all kept namespaces.
func (c *pidNamespaces) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		e.ns.file.Close()
	}
	c.entries, c.closed, c.own = nil, true, 0
}

func openPidNamespace(path string, own uint64, scan bool) (*PidNamespace, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, taskErrno(err)
	}
	ns := &PidNamespace{file: os.NewFile(uintptr(fd), path), scan: scan}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		ns.inode, ns.own = st.Ino, st.Ino == own
		ns.raw, err = ns.file.SyscallConn()
	}
	if err == nil && scan {
		ns.depth, err = pidnsDepth(fd, own)
	}
	if err != nil {
		ns.file.Close()
		return nil, err
	}
	return ns, nil
}

// taskErrno maps the two errors of /proc for a dead task to ESRCH, and returns any other error unchanged.
func taskErrno(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return unix.ESRCH
	}
	return err
}

// Own reports the server's own pid namespace, whose numbers need no translation.
func (ns *PidNamespace) Own() bool { return ns.own }

// ToHost returns the server's number of the task nr of ns. Without thread it is the number of the task's process,
// since cgroup.procs accepts any thread's number for its process (cgroup_procs_write_start). The number may belong
// to another task by the time of its use: hold the task (HoldTask), then check again. ESRCH if ns has no such task,
// os.ErrClosed after the host was closed.
func (ns *PidNamespace) ToHost(nr int, thread bool) (int, error) {
	// The ioctl's argument is a pid_t, which drops higher bits.
	if nr <= 0 || nr > math.MaxInt32 {
		return 0, unix.ESRCH
	}
	if ns.scan {
		return ns.toHostByScan(nr, thread)
	}
	op := uint(unix.NS_GET_TGID_FROM_PIDNS)
	if thread {
		op = unix.NS_GET_PID_FROM_PIDNS
	}
	pid, errno := 0, unix.Errno(0)
	if err := ns.raw.Control(func(fd uintptr) { pid, errno = pidnsIoctl(fd, op, nr) }); err != nil {
		return 0, os.ErrClosed
	}
	if errno != 0 {
		return 0, errno
	}
	return pid, nil
}

// FromHost translates the server's numbers to numbers in ns, 0 for a task that ns does not see or that does not
// exist. Without thread it returns the number of the task's process.
func (ns *PidNamespace) FromHost(host []int, thread bool) []int {
	out := make([]int, len(host))
	if ns.scan {
		for i, pid := range host {
			out[i] = ns.fromHostByStatus(pid, thread)
		}
		return out
	}
	op := uint(unix.NS_GET_TGID_IN_PIDNS)
	if thread {
		op = unix.NS_GET_PID_IN_PIDNS
	}
	// An error means closed: no task is visible.
	ns.raw.Control(func(fd uintptr) {
		for i, pid := range host {
			if pid <= 0 || pid > math.MaxInt32 {
				continue
			}
			if nr, errno := pidnsIoctl(fd, op, pid); errno == 0 {
				out[i] = nr
			}
		}
	})
	return out
}

// pidnsIoctl is an NS_GET_*PID_*_PIDNS ioctl (include/uapi/linux/nsfs.h, Linux 6.11). The kernel answers it under
// RCU and does not sleep, so Go's scheduler need not know of the call.
func pidnsIoctl(fd uintptr, op uint, nr int) (int, unix.Errno) {
	r, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, uintptr(op), uintptr(nr))
	return int(r), errno
}
