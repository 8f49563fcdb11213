package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxUserNamespaces is how deep user namespaces can be below another (create_user_ns: 32).
const maxUserNamespaces = 33

// RootIn finds among processes one whose root user is root of the container that a task is in: the one in the outermost user
// namespace. A user of a container may have made namespaces of its own, in which it is root; the container's are still those of
// the processes that the container began with. Who merely came into the container's mounts, as a runtime's own helper does, is
// none of them: its user namespace is above the one that the mounts belong to. ESRCH when the task is gone; the error says when
// no process can tell.
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
		bottom = "/ns/mnt" // it came from outside
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
		return 0, fmt.Errorf("none of its %d processes tells who is root in the container of task %d", len(processes), tid)
	}
	return pid, nil
}

// taskNamespaces are some namespaces of a task, by their inode numbers.
type taskNamespaces struct {
	users    []uint64 // its user namespace, and those above up to the server's own
	mounts   uint64
	mountsOf uint64 // the user namespace that the mount namespace belongs to
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

// userNamespaces are the user namespace at a path, or the one that another namespace belongs to, and all above it up to the
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

// IDRange is a line of the table of a user namespace's ids.
type IDRange struct {
	Inside, Outside, Size int64 // the first id in it and out of it, and how many
}

// IDRanges reads the text of /proc/<pid>/uid_map or gid_map (user_namespaces(7)). Of the reader's own namespace the ids outside count from
// the parent's, of any other from the reader's. What is no line of a table is left out.
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
		id, err := namespaceID(proc + "/ns/user") // EACCES for a process that may not be traced; its maps are for everybody
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
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat[max(0, bytes.LastIndexByte(stat, ')')):]), " ")
	if !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X") {
		return false
	}
	threads, err := os.ReadDir(proc + "/task")
	return err != nil || len(threads) <= 1
}

// InOwnUserNamespace says whether a task is in the user namespace that this process is in. ESRCH when there is no such task.
func InOwnUserNamespace(tid int) (bool, error) {
	own, err := namespaceID("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	theirs, err := namespaceID("/proc/" + strconv.Itoa(tid) + "/ns/user")
	return theirs == own, taskErrno(err)
}

// MountNamespace is the mount namespace of a task by its inode number, 0 for this process's own. ESRCH when there is no such task.
func MountNamespace(tid int) (uint64, error) {
	proc := "/proc/self"
	if tid != 0 {
		proc = "/proc/" + strconv.Itoa(tid)
	}
	id, err := namespaceID(proc + "/ns/mnt")
	return id, taskErrno(err)
}
