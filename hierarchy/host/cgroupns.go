package host

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// ErrOwnNamespace says that a process is in the server's own cgroup namespace, so that no namespace marks a boundary for it.
var ErrOwnNamespace = errors.New("the process is in the host's own cgroup namespace")

// CgroupNamespace is where the cgroup namespace of a process begins, in each hierarchy (cgroup_namespaces(7)).
type CgroupNamespace struct {
	outer []byte // /proc/<pid>/cgroup, as the server's namespace has it
	inner []byte // the same, as the namespace of the process has it
}

// namespaceTries is how often the two readings are taken anew while the process moves between them.
const namespaceTries = 16

// CgroupNamespaceOf looks at the cgroup namespace of a process, whatever cgroup the process is in now. ErrOwnNamespace when it
// is the server's own; ESRCH when there is no such process; EPERM without CAP_SYS_ADMIN over the namespace.
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
	return nil, fmt.Errorf("cannot tell where the cgroup namespace of process %d begins: the process moves too fast: %w", pid, unix.EAGAIN)
}

// OwnNamespace says whether a namespace of a kind, as /proc/self/ns names it, is this process's.
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

// readBoth reads where a process is by both namespaces; nil when it moved meanwhile.
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
	// A process that moves away and back between the readings shows the same before and after.
	if string(before) != string(after) || !sameDepths(after, inner, own[0], own[1]) {
		return nil, nil
	}
	return &CgroupNamespace{outer: after, inner: inner}, nil
}

// sameDepths says whether the readings of a process put its namespace's root as deep as those of this process do, in each hierarchy. This
// process does not move, so its readings tell the true depth. A root at the true depth that ends as the paths do is the true root.
func sameDepths(outer, inner, ownOuter, ownInner []byte) bool {
	theirs, ours := rootDepths(outer, inner), rootDepths(ownOuter, ownInner)
	return theirs != nil && maps.Equal(theirs, ours)
}

// rootDepths is how deep a namespace begins by the two readings, from where the outer one begins: by "ID:CONTROLLERS:", without the path.
// nil when the readings are not of the same hierarchies.
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

// depth is how far a path of /proc/<pid>/cgroup leads down from where it begins; up where that is negative.
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

// Root is the namespace's root in a hierarchy, as a path from the root of the hierarchy. ENOENT when it cannot be told: the
// process has been moved out of it.
func (n *CgroupNamespace) Root(h hierarchy.Hierarchy) (string, error) {
	at, ok1 := membershipOf(n.outer, h)
	below, ok2 := membershipOf(n.inner, h)
	if !ok1 || !ok2 {
		return "", unix.ENOENT
	}
	return namespaceRoot(at, below)
}

// namespaceRoot takes from a cgroup's path what its namespace sees of it. A path that is not as the kernel writes one is refused: what is
// cut off it, and cleaned afterwards, could be above it.
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
