package host

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// standing is the position of a task relative to a boundary.
type standing uint8

const (
	outside standing = iota
	inside
	unseen // exiting, and not known to be inside
)

// deletedSuffix follows the path of a removed v2 cgroup in /proc/<pid>/cgroup (proc_cgroup_show). Only exiting tasks
// are in one.
const deletedSuffix = " (deleted)"

// Contains reports that a task, by its number in the server's own pid namespace, is now inside the boundary in the
// boundary's hierarchy. The leader counts for a process. A v1 hierarchy does not show an exiting task, which is then
// outside. ESRCH if there is no such task.
func (b *Boundary) Contains(pid int) (bool, error) {
	proc, err := openProc(strconv.Itoa(pid))
	if err != nil {
		return false, err
	}
	defer unix.Close(proc)
	_, ok, err := b.locate(proc, "cgroup")
	return ok, err
}

// Ancestry are the cgroups that a task is in: in each hierarchy its cgroup and those above it, by their kernfs ids.
type Ancestry map[*Hierarchy][]uint64

// Has reports that the task is inside a boundary.
func (a Ancestry) Has(b *Boundary) bool { return slices.Contains(a[b.hier], b.ID()) }

// AncestryIn returns the cgroups of a task, by its number in the server's own pid namespace, in hierarchies: what
// Boundary.Contains tells of one boundary, for many at once. The leader counts for a process. ESRCH if there is no such
// task, EAGAIN if it moves all the time.
func AncestryIn(all []*Hierarchy, pid int) (Ancestry, error) {
	proc, err := openProc(strconv.Itoa(pid))
	if err != nil {
		return nil, err
	}
	defer unix.Close(proc)
	before, err := readAt(proc, "cgroup")
	for range 4 {
		a := Ancestry{}
		for _, hier := range all {
			if path, ok := hier.pathIn(before); ok && err == nil {
				a[hier], err = hier.idsAlong(path)
			}
		}
		var after []byte
		if err == nil {
			after, err = readAt(proc, "cgroup")
		}
		if err != nil || bytes.Equal(before, after) {
			return a, err
		}
		before = after
	}
	return nil, unix.EAGAIN
}

// idsAlong returns the kernfs ids of the directories of a path from the root, without the root's. It ends at one that
// is gone.
func (hier *Hierarchy) idsAlong(path string) (ids []uint64, err error) {
	at, err := unix.FcntlInt(uintptr(hier.root), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	defer func() { unix.Close(at) }()
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if name == "" {
			break
		}
		fd, err := openBelow(at, name, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return nil, err
		}
		unix.Close(at)
		at = fd
		var st unix.Stat_t
		if err := unix.Fstat(at, &st); err != nil {
			return nil, err
		}
		ids = append(ids, st.Ino)
	}
	return ids, nil
}

// PathOf returns the cgroup of a task as a path from the boundary, "" for the boundary itself: text for comparisons,
// never authority. ENOENT if the task is outside, ESRCH if there is none.
func (b *Boundary) PathOf(pid int) (string, error) {
	proc, err := openProc(strconv.Itoa(pid))
	if err != nil {
		return "", err
	}
	defer unix.Close(proc)
	path, ok, err := b.locate(proc, "cgroup")
	if err == nil && !ok {
		err = unix.ENOENT
	}
	return path, err
}

// locate reads one cgroup file of a task's directory in /proc. A task is inside if its path begins with the
// boundary's, component by component, and leads to a directory below the boundary's descriptor. The boundary's path
// is read before and after, because the host may rename it on v1.
func (b *Boundary) locate(proc int, file string) (path string, ok bool, err error) {
	before := b.Path()
	raw, err := readAt(proc, file)
	if err != nil {
		return "", false, err
	}
	h := b.Hierarchy().Hierarchy
	full, ok := membershipOf(raw, h)
	if !ok {
		return "", false, nil
	}
	path, ok = pathBelow(before, full)
	if !ok || b.Path() != before {
		return "", false, nil
	}
	if path == "" {
		return "", true, nil
	}
	root, err := b.Root()
	if err != nil {
		return "", false, err
	}
	defer root.Release()
	fd, err := openBelow(root.FD(), path, unix.O_PATH|unix.O_DIRECTORY)
	switch {
	case err == nil:
		unix.Close(fd)
		return path, true, nil
	case errors.Is(err, unix.ENOENT):
		return path, h.Version == hierarchy.V2 && strings.HasSuffix(path, deletedSuffix), nil
	}
	return "", false, err
}

// membershipOf returns the path in the line of a hierarchy of /proc/<pid>/cgroup, "id:controllers:path". The path
// can hold any byte but a newline (cgroup_mkdir). It starts at the root of the reader's cgroup namespace
// (cgroup_namespaces(7)).
func membershipOf(raw []byte, h hierarchy.Hierarchy) (string, bool) {
	for line := range bytes.Lines(raw) {
		id, rest, ok1 := bytes.Cut(bytes.TrimSuffix(line, []byte{'\n'}), []byte{':'})
		controllers, path, ok2 := bytes.Cut(rest, []byte{':'})
		n, err := strconv.Atoi(string(id))
		if !ok1 || !ok2 || err != nil {
			continue
		}
		if v2 := n == 0 && len(controllers) == 0; v2 == (h.Version == hierarchy.V2) && (v2 || n == h.ID) {
			return string(path), true
		}
	}
	return "", false
}

// pathBelow returns the part of path after base, "" if they are equal. Not ok if path is not at or below base, or
// lies above the reader's cgroup namespace ("/../x").
func pathBelow(base, path string) (rest string, ok bool) {
	for name := range strings.SplitSeq(path, "/") {
		if name == ".." {
			return "", false
		}
	}
	if !strings.HasPrefix(path, "/") || !strings.HasPrefix(base, "/") {
		return "", false
	}
	base = strings.TrimSuffix(base, "/")
	rest, ok = strings.CutPrefix(path, base)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.TrimPrefix(rest, "/"), true
}

// Move writes a task to file (cgroup.procs, cgroup.threads, tasks) of dst, a directory of this boundary, if the task
// is inside the boundary now. A process is inside if all its threads are, because they move together. check decides
// last; it may be nil.
//
// The file takes a number, not a descriptor. Move checks the number right before the write and right after; a task
// that has it both times is the one that moved. If the task is reaped in between and the number is reused within
// those few microseconds, another task could move in its place, and ESRCH says only that this one did not.
//
// fd is the membership file of dst, open for writing; n is the advance of its position (WriteCommand).
//
// Errors are the kernel's for a task outside a namespace: ENOENT on v2, ESRCH on v1; ESRCH for a task that does not
// exist; ENODEV if dst was removed; those of check; and the kernel's errors of the write.
func (b *Boundary) Move(dst *Dir, file string, fd, pid int, thread bool, check func(*Task) error) (n int, err error) {
	t, err := holdTask(pid, thread)
	if err != nil {
		return 0, moveError(file, err)
	}
	defer t.Close()
	at, err := b.standingOf(t)
	if err != nil {
		return 0, moveError(file, err)
	}
	if at == outside || at == unseen && !b.maySkip(t) {
		return 0, &OutsideError{moveError(file, b.beyond())}
	}
	if check != nil {
		if err := check(t); err != nil {
			return 0, err
		}
	}
	// The kernel accepts an exiting task and moves nothing (cgroup_migrate_add_task).
	if at == unseen {
		var st unix.Stat_t
		if dst.Lookup(file, &st) != nil {
			// As kernfs answers after an rmdir.
			return 0, moveError(file, unix.ENODEV)
		}
		return 0, nil
	}
	n, err = t.writeTo(fd)
	return n, moveError(file, err)
}

// OutsideError says that a task is outside the boundary. It wraps the errno of beyond.
type OutsideError struct{ err error }

func (e *OutsideError) Error() string { return e.err.Error() + ": the task is outside the boundary" }

// Unwrap returns the kernel's errno.
func (e *OutsideError) Unwrap() error { return e.err }

// writeTo writes the task's number to an open membership file, if the number is the task's before and after.
func (t *Task) writeTo(fd int) (int, error) {
	number := strconv.AppendInt(nil, int64(t.pid), 10)
	if !t.Alive() {
		return 0, unix.ESRCH
	}
	n, err := WriteCommand(fd, number)
	if err == nil && !t.Alive() {
		err = unix.ESRCH
	}
	return n, err
}

func moveError(file string, err error) error {
	if err == nil {
		return nil
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	return &os.PathError{Op: "move", Path: file, Err: err}
}

// beyond returns the kernel's errno for moving a task outside. v2: cgroup_attach_permissions. v1 has no boundary, so
// the errno is that of a number without a task in the writer's pid namespace.
func (b *Boundary) beyond() unix.Errno {
	if b.Hierarchy().Version == hierarchy.V2 {
		return unix.ENOENT
	}
	return unix.ESRCH
}

// standingOf returns the standing of a thread, or of all the threads of a process. Exiting threads do not count: the
// kernel does not move them.
func (b *Boundary) standingOf(t *Task) (standing, error) {
	var st unix.Stat_t
	if !t.thread {
		if err := unix.Fstatat(t.proc, "task", &st, 0); err != nil {
			return outside, taskErrno(err)
		}
	}
	// 2 and one for each thread (proc_task_getattr).
	if t.thread || st.Nlink == 3 {
		return b.standingAt(t.proc, "")
	}
	tids, err := threadsOf(t.proc)
	if err != nil {
		return outside, err
	}
	all := unseen
	for _, tid := range tids {
		at, err := b.standingAt(t.proc, "task/"+tid+"/")
		switch {
		case errors.Is(err, unix.ESRCH):
		case err != nil || at == outside:
			return outside, err
		case at == inside:
			all = inside
		}
	}
	return all, nil
}

// standingAt returns the standing of one thread. v1 prints "/" for an exiting task (proc_cgroup_show), wherever it
// is. v2 prints its last cgroup, even if the rest of its process has moved since.
func (b *Boundary) standingAt(proc int, prefix string) (standing, error) {
	_, ok, err := b.locate(proc, prefix+"cgroup")
	if err != nil {
		return outside, err
	}
	if ok {
		return inside, nil
	}
	st, err := readStat(proc, prefix+"stat")
	if err == nil && st.exiting {
		return unseen, nil
	}
	return outside, err
}

// maySkip reports that a move of an exiting task is answered like the kernel: success without effect. On v2 the task
// must be inside, which is known. On v1 it is unknown, so the parent, which reaps the task, stands for it. Nothing
// is written either way.
func (b *Boundary) maySkip(t *Task) bool {
	if b.Hierarchy().Version == hierarchy.V2 {
		return false
	}
	st, err := readStat(t.proc, "stat")
	if err != nil || st.parent <= 0 {
		return false
	}
	ok, err := b.Contains(st.parent)
	return ok && err == nil
}

// threadsOf lists the threads of a process from its directory in /proc.
func threadsOf(proc int) ([]string, error) {
	fd, err := unix.Openat(proc, "task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, taskErrno(err)
	}
	f := os.NewFile(uintptr(fd), "task")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	return names, taskErrno(err)
}
