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

// maxPidNamespaces bounds the namespaces kept open. One that is dropped while somebody uses it stays open for them.
const maxPidNamespaces = 256

// PidNamespace is a pid namespace: the server's own or one below it. It stays usable until its Host is closed, also when
// the last process in it is gone.
type PidNamespace struct {
	file  *os.File // immutable; nsfs, so the namespace lives and its inode number names no other
	raw   syscall.RawConn
	inode uint64 // immutable
	own   bool   // immutable

	scan  bool // immutable; the kernel has no ioctl for this, /proc is read instead
	depth int  // immutable; generations below the server's own namespace, known only when scan is set
}

// pidNamespaces keeps the namespaces in use open, by their inode number. The zero value is ready.
type pidNamespaces struct {
	scan bool // immutable; set before the first use where the kernel has no ioctl

	mu     sync.Mutex
	own    uint64                 // guarded by mu; the server's own, 0 before the first use
	byIno  map[uint64]*pidnsEntry // guarded by mu
	clock  uint64                 // guarded by mu
	closed bool                   // guarded by mu
}

type pidnsEntry struct {
	ns   *PidNamespace
	used uint64 // the clock when it was last asked for
}

// PidNamespaceOf is the active pid namespace of a task: the one in which the kernel reads and prints pid numbers for it. tid
// is a thread id in the server's own pid namespace, of any thread; one that has called unshare(CLONE_NEWPID) is still
// where it was, only its children are not. ESRCH when there is no such task, EACCES when the server may not look.
func (h *Host) PidNamespaceOf(tid int) (*PidNamespace, error) { return h.pidns.of(tid) }

func (c *pidNamespaces) of(tid int) (*PidNamespace, error) {
	if tid <= 0 {
		return nil, unix.ESRCH
	}
	path := "/proc/" + strconv.Itoa(tid) + "/ns/pid" // works for threads that are no leader, though /proc does not list them
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

// known is the namespace with an inode number when it is kept, and the inode number of the server's own.
func (c *pidNamespaces) known(inode uint64) (*PidNamespace, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.start(); err != nil {
		return nil, 0, err
	}
	if e := c.byIno[inode]; e != nil {
		c.clock++
		e.used = c.clock
		return e.ns, c.own, nil
	}
	return nil, c.own, nil
}

// start learns the server's own namespace and that /proc is of it: every number would name another task if it were not.
// Called with mu held.
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
	c.own, c.byIno = st.Ino, map[uint64]*pidnsEntry{}
	return nil
}

// keep remembers ns, or answers with the same namespace when another call was quicker. Of too many it forgets the one that
// was asked for longest ago. That one is not closed here, for it may be in use: os.File closes itself when nobody refers to
// it any more.
func (c *pidNamespaces) keep(ns *PidNamespace) (*PidNamespace, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		ns.file.Close()
		return nil, os.ErrClosed
	}
	if e := c.byIno[ns.inode]; e != nil {
		ns.file.Close()
		return e.ns, nil
	}
	if len(c.byIno) >= maxPidNamespaces {
		var oldest *pidnsEntry
		for _, e := range c.byIno {
			if oldest == nil || e.used < oldest.used {
				oldest = e
			}
		}
		delete(c.byIno, oldest.ns.inode)
	}
	c.clock++
	c.byIno[ns.inode] = &pidnsEntry{ns, c.clock}
	return ns, nil
}

// close closes every namespace kept.
func (c *pidNamespaces) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.byIno {
		e.ns.file.Close()
	}
	c.byIno, c.closed, c.own = nil, true, 0
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

// taskErrno is ESRCH for the two ways in which /proc says that a task is gone, and any other error as it is.
func taskErrno(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return unix.ESRCH
	}
	return err
}

// Own says whether this is the server's own pid namespace, whose numbers need no translation.
func (ns *PidNamespace) Own() bool { return ns.own }

// ToHost is the server's number of the task that ns calls nr. Without thread it is the number of the process that the task
// belongs to, as cgroup.procs takes any thread's number for its process (cgroup_procs_write_start). The number may be
// another task's by the time it is used: hold it (HoldTask), then look again. ESRCH when ns has no such task,
// os.ErrClosed after the host was closed.
func (ns *PidNamespace) ToHost(nr int, thread bool) (int, error) {
	if nr <= 0 || nr > math.MaxInt32 { // the ioctl takes its argument as a pid_t, higher bits would be lost
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

// FromHost is the number in ns of each of the server's numbers, 0 where ns does not see the task or there is none. Without
// thread it is that of the process that the task belongs to.
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
	ns.raw.Control(func(fd uintptr) { // an error says that it is closed: then nothing is visible
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

// pidnsIoctl asks an NS_GET_*PID_*_PIDNS question (include/uapi/linux/nsfs.h, Linux 6.11). The kernel answers it under RCU
// and does not sleep, so Go's scheduler need not know of the call.
func pidnsIoctl(fd uintptr, op uint, nr int) (int, unix.Errno) {
	r, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, uintptr(op), uintptr(nr))
	return int(r), errno
}
