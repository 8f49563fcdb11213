package host

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// ErrOwnNamespace says that a process is in the server's own cgroup namespace, so no namespace marks a boundary for
// it.
var ErrOwnNamespace = errors.New("the process is in the host's own cgroup namespace")

// CgroupNamespace is the root of a process's cgroup namespace in each hierarchy (cgroup_namespaces(7)).
type CgroupNamespace struct {
	outer []byte // /proc/<pid>/cgroup, read in the server's namespace
	inner []byte // the same, read in the namespace of the process
}

// namespaceTries bounds the repetitions of the two readings of a process that moves between them.
const namespaceTries = 16

// CgroupNamespaceOf reads the cgroup namespace of a process, whatever the process's present cgroup. ErrOwnNamespace
// for the server's own; ESRCH if there is no such process; EPERM without CAP_SYS_ADMIN over the namespace.
func CgroupNamespaceOf(pid int) (*CgroupNamespace, error) { return cgroupNamespaceOf(pid, false) }

// CgroupNamespaceOfThread is CgroupNamespaceOf for one thread, by its id.
func CgroupNamespaceOfThread(tid int) (*CgroupNamespace, error) { return cgroupNamespaceOf(tid, true) }

func cgroupNamespaceOf(pid int, thread bool) (*CgroupNamespace, error) {
	t, err := holdTask(pid, thread)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	ns, err := unix.Openat(t.proc, "ns/cgroup", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, taskErrno(err)
	}
	defer unix.Close(ns)
	if own, err := OwnNamespace(ns, "cgroup"); err != nil {
		return nil, err
	} else if own {
		return nil, ErrOwnNamespace
	}
	for range namespaceTries {
		n, err := readBoth(t, ns)
		if err != nil {
			return nil, err
		}
		if n != nil {
			return n, nil
		}
	}
	return nil, fmt.Errorf("cannot tell where the cgroup namespace of process %d begins: the process moves too fast: %w",
		pid, unix.EAGAIN)
}

// OwnNamespace reports that a namespace of a kind, named as in /proc/self/ns, is this process's.
func OwnNamespace(ns int, kind string) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstat(ns, &a); err != nil {
		return false, err
	}
	if err := unix.Stat("/proc/self/ns/"+kind, &b); err != nil {
		return false, fmt.Errorf("cannot look at the own %s namespace: %w", kind, err)
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

// InOwnNamespace reports that a process is in this process's namespace of a kind, named as in /proc/self/ns.
func InOwnNamespace(pid int, kind string) (bool, error) {
	ns, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/"+kind, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, taskErrno(err)
	}
	defer unix.Close(ns)
	return OwnNamespace(ns, kind)
}

// readBoth reads the position of a process in both namespaces; nil if it moved meanwhile.
func readBoth(t *Task, ns int) (*CgroupNamespace, error) {
	before, err := readAt(t.proc, "cgroup")
	if err != nil {
		return nil, err
	}
	var inner []byte
	var own [2][]byte
	// The file's text depends on the namespace of the thread that reads it (proc_cgroup_show).
	err = OnThread(func() (err error) {
		if own[0], err = readAt(unix.AT_FDCWD, "/proc/thread-self/cgroup"); err != nil {
			return err
		}
		if err := unix.Setns(ns, unix.CLONE_NEWCGROUP); err != nil {
			return os.NewSyscallError("setns", err)
		}
		if own[1], err = readAt(unix.AT_FDCWD, "/proc/thread-self/cgroup"); err != nil {
			return err
		}
		inner, err = readAt(t.proc, "cgroup")
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := readAt(t.proc, "cgroup")
	if err != nil {
		return nil, err
	}
	// A process that moves away and back between the readings reads the same before and after.
	if string(before) != string(after) || !sameDepths(after, inner, own[0], own[1]) {
		return nil, nil
	}
	return &CgroupNamespace{outer: after, inner: inner}, nil
}

// sameDepths reports that the readings of a process place its namespace's root at the same depth in each hierarchy
// as the readings of this process do. This process does not move, so its readings have the true depth, and a root at
// the true depth along the paths is the true root.
func sameDepths(outer, inner, ownOuter, ownInner []byte) bool {
	theirs, ours := rootDepths(outer, inner), rootDepths(ownOuter, ownInner)
	return theirs != nil && maps.Equal(theirs, ours)
}

// rootDepths returns the depth of a namespace's root from the two readings, counted from the root of the outer one,
// by "ID:CONTROLLERS:" without the path. Nil if the readings have different hierarchies.
func rootDepths(outer, inner []byte) map[string]int {
	of := func(raw []byte) map[string]int {
		all := map[string]int{}
		for line := range strings.Lines(string(raw)) {
			if at := strings.Index(line, ":/"); at >= 0 {
				all[line[:at]] = depth(strings.TrimSuffix(line[at+1:], "\n"))
			}
		}
		return all
	}
	depths, below := of(outer), of(inner)
	if len(depths) != len(below) {
		return nil
	}
	for name, n := range below {
		if _, ok := depths[name]; !ok {
			return nil
		}
		depths[name] -= n
	}
	return depths
}

// depth returns the number of levels that a path of /proc/<pid>/cgroup descends; negative if it ascends.
func depth(path string) (n int) {
	for name := range strings.SplitSeq(path, "/") {
		switch name {
		case "":
		case "..":
			n--
		default:
			n++
		}
	}
	return n
}

// Root returns the namespace's root in a hierarchy, as a path from the root of the hierarchy. ENOENT if it is
// unknown, because the process has moved out of it.
func (n *CgroupNamespace) Root(h hierarchy.Hierarchy) (string, error) {
	at, ok1 := membershipOf(n.outer, h)
	below, ok2 := membershipOf(n.inner, h)
	if !ok1 || !ok2 {
		return "", unix.ENOENT
	}
	return namespaceRoot(at, below)
}

// namespaceRoot removes from a cgroup's path the part that its namespace sees. It refuses a path that the kernel
// would not write: after the cut and cleaning, the result could lie above the root.
func namespaceRoot(at, below string) (string, error) {
	if path.Clean(at) != at || path.Clean(below) != below {
		return "", unix.ENOENT
	}
	if _, ok := pathBelow("/", at); !ok {
		return "", unix.ENOENT
	}
	if _, ok := pathBelow("/", below); !ok {
		return "", unix.ENOENT
	}
	if below == "/" {
		return at, nil
	}
	root, ok := strings.CutSuffix(at, below)
	if !ok {
		return "", unix.ENOENT
	}
	return path.Join("/", root), nil
}
