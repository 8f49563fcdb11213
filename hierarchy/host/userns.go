package host

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxUserNamespaces bounds the depth of user namespaces (create_user_ns: 32).
const maxUserNamespaces = 33

// RootIn finds, among processes, one whose root user is the root of a task's container: the one in the outermost
// user namespace. A user of a container may have made namespaces of its own and be root in them; the container's
// namespaces are those of its first processes. A process that only entered the container's mounts, such as a
// runtime's helper, does not count: its user namespace is above the owner of the mount namespace. ESRCH if the task
// is dead; an error if no process can tell.
func RootIn(tid int, processes []int) (pid int, err error) {
	own, err := namespaceID("/proc/self/ns/user")
	if err != nil {
		return 0, err
	}
	ownMounts, err := namespaceID("/proc/self/ns/mnt")
	if err != nil {
		return 0, err
	}
	task, err := namespacesOf(tid, own)
	if err != nil {
		return 0, unix.ESRCH
	}
	bottom := "/ns/user"
	if !slices.Contains(task.users, task.mountsOf) {
		// An outsider in the container's mounts.
		bottom = "/ns/mnt"
	}
	chain, err := userNamespaces("/proc/"+strconv.Itoa(tid)+bottom, own)
	if err != nil {
		return 0, taskErrno(err)
	}
	best := -1
	for _, p := range processes {
		x, err := namespacesOf(p, own)
		if err != nil || x.mounts == ownMounts {
			continue
		}
		at := slices.Index(chain, x.users[0])
		if at > best && slices.Contains(x.users, x.mountsOf) {
			best, pid = at, p
		}
	}
	if best < 0 {
		return 0, fmt.Errorf("cannot find the root user of task %d's container among its %d processes", tid, len(processes))
	}
	return pid, nil
}

// taskNamespaces are some namespaces of a task, by their inode numbers.
type taskNamespaces struct {
	users    []uint64 // its user namespace, and those above it up to the server's own
	mounts   uint64
	mountsOf uint64 // the user namespace that owns the mount namespace
}

func namespacesOf(tid int, own uint64) (x taskNamespaces, err error) {
	proc := "/proc/" + strconv.Itoa(tid)
	if x.users, err = userNamespaces(proc+"/ns/user", own); err == nil {
		x.mounts, err = namespaceID(proc + "/ns/mnt")
	}
	var of []uint64
	if err == nil {
		of, err = userNamespaces(proc+"/ns/mnt", own)
	}
	if err != nil {
		return x, err
	}
	x.mountsOf = of[0]
	return x, nil
}

// userNamespaces returns the user namespace at a path, or the owner of another namespace, and all above it up to the
// server's own. EPERM for one that is not at or below that.
func userNamespaces(path string, own uint64) (chain []uint64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { unix.Close(fd) }()
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	next := uint(unix.NS_GET_PARENT)
	if err == nil && kind != unix.CLONE_NEWUSER {
		next = unix.NS_GET_USERNS
	}
	for err == nil {
		if next == unix.NS_GET_PARENT {
			var st unix.Stat_t
			if err = unix.Fstat(fd, &st); err != nil {
				break
			}
			if chain = append(chain, st.Ino); st.Ino == own || len(chain) == maxUserNamespaces {
				return chain, nil
			}
		}
		var up int
		if up, err = unix.IoctlRetInt(fd, next); err == nil {
			unix.Close(fd)
			fd, next = up, unix.NS_GET_PARENT
		}
	}
	return nil, os.NewSyscallError("ioctl", err)
}

func namespaceID(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// IDRange is a line of a user namespace's id map.
type IDRange struct {
	Inside, Outside, Size int64 // first id inside and outside, and their number
}

// IDRanges parses the text of /proc/<pid>/uid_map or gid_map (user_namespaces(7)). For the reader's own namespace
// the outside ids are the parent's, for any other the reader's. It skips malformed lines.
func IDRanges(text string) (ranges []IDRange) {
	for line := range strings.Lines(text) {
		var r IDRange
		if n, _ := fmt.Sscan(line, &r.Inside, &r.Outside, &r.Size); n == 3 {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

// UsedIDs lists the ids of ours, users' and groups', that running user namespaces other than ours have, as far as
// /proc shows their processes. A line of a map that changes no id reserves none (PrivateUsers=identity of systemd),
// and is left out.
func UsedIDs() (used []IDRange, err error) {
	own, err := namespaceID("/proc/self/ns/user")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	seen := map[uint64]bool{own: true}
	for _, entry := range entries {
		proc := "/proc/" + entry.Name()
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		// EACCES for a process that may not be traced; its maps are readable by every user.
		id, err := namespaceID(proc + "/ns/user")
		if err == nil && seen[id] || hasEnded(proc) {
			continue
		}
		if err == nil {
			seen[id] = true
		}
		for _, file := range []string{"/uid_map", "/gid_map"} {
			raw, err := os.ReadFile(proc + file)
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				return nil, err
			}
			for _, r := range IDRanges(string(raw)) {
				if r.Inside != r.Outside {
					used = append(used, r)
				}
			}
		}
	}
	return used, nil
}

// hasEnded reports that a process is a zombie as a whole: one whose first thread has ended alone still has others.
func hasEnded(proc string) bool {
	fields, err := statFields(proc)
	if err != nil {
		return true
	}
	if !exited(fields) {
		return false
	}
	threads, err := os.ReadDir(proc + "/task")
	return err != nil || len(threads) <= 1
}

// InOwnUserNamespace reports that a task is in the user namespace of this process. ESRCH if there is no such task.
func InOwnUserNamespace(tid int) (bool, error) {
	own, err := namespaceID("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	theirs, err := namespaceID("/proc/" + strconv.Itoa(tid) + "/ns/user")
	return theirs == own, taskErrno(err)
}

// MountNamespace returns the inode number of a task's mount namespace, 0 for this process's own. ESRCH if there is
// no such task.
func MountNamespace(tid int) (uint64, error) {
	proc := "/proc/self"
	if tid != 0 {
		proc = "/proc/" + strconv.Itoa(tid)
	}
	id, err := namespaceID(proc + "/ns/mnt")
	return id, taskErrno(err)
}
