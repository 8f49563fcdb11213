package host

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// place is where a task is with respect to a boundary.
type standing uint8

const (
	outside standing = iota
	inside
	unseen // exiting, and not known to be inside
)

// deletedSuffix follows the path of a removed v2 cgroup in /proc/<pid>/cgroup (proc_cgroup_show). Only tasks that exit are
// in one.
const deletedSuffix = " (deleted)"

// Contains says whether a task, by its number in the server's own pid namespace, is now inside the boundary in the
// boundary's hierarchy. Of a process it is the leader that counts. A v1 hierarchy does not tell of an exiting task, which is
// then outside. ESRCH when there is no such task.
func (b *Boundary) Contains(pid int) (bool, error) {
	proc, err := openProc(strconv.Itoa(pid))
	if err != nil {
		return false, err
	}
	defer unix.Close(proc)
	_, ok, err := b.locate(proc, "cgroup")
	return ok, err
}

// PathOf is the cgroup of a task as a path from the boundary, "" for the boundary itself. It is text for comparisons, never
// authority. ENOENT when the task is outside, ESRCH when there is none.
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

// locate reads one cgroup file of a task's directory in /proc. A task is inside when its path begins with the boundary's,
// component by component, and leads to a directory below the boundary's descriptor. The boundary's path is read before and
// after, for the host may rename it on v1.
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

// membershipOf is the path in the line of a hierarchy of /proc/<pid>/cgroup, "id:controllers:path". The path can hold any
// byte but a newline (cgroup_mkdir). It counts from the root of the reader's cgroup namespace (cgroup_namespaces(7)).
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

// pathBelow is what follows base in path, "" when they are equal. Not ok when path does not lie at or below base, or when
// it says that it is above the reader's cgroup namespace ("/../x").
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

// Move writes a task to file (cgroup.procs, cgroup.threads, tasks) of dst, a directory of this boundary, when the task is
// inside the boundary now. A process is inside when all its threads are, for they move together. check has the last word;
// it may be nil.
//
// The file takes a number and not a descriptor. The number is looked at right before the write and right after; a task
// that keeps it over both was the one moved. If the task is reaped between the two and the number goes around within those
// few microseconds, another task could be moved in its place, and ESRCH says only that this one was not.
//
// fd is the membership file of dst, open for writing; n is by how much its position moved (WriteCommand).
//
// Errors are the kernel's for a task beyond a namespace: ENOENT on v2, ESRCH on v1; ESRCH for a task that is not there;
// ENODEV when dst was removed; those of check; and whatever the kernel answers to the write.
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
	if at == unseen { // the kernel takes an exiting task's number and moves nothing (cgroup_migrate_add_task)
		var st unix.Stat_t
		if dst.Lookup(file, &st) != nil {
			return 0, moveError(file, unix.ENODEV) // what kernfs answers after an rmdir
		}
		return 0, nil
	}
	n, err = t.writeTo(fd)
	return n, moveError(file, err)
}

// OutsideError says that a task is outside the boundary. It is the errno of beyond.
type OutsideError struct{ err error }

func (e *OutsideError) Error() string { return e.err.Error() + ": the task is outside the boundary" }

// Unwrap is the error that the kernel would give.
func (e *OutsideError) Unwrap() error { return e.err }

// writeTo gives the task's number to an open membership file, if it is the task's before and after.
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

// beyond is the kernel's answer to a move of a task outside. v2: cgroup_attach_permissions; v1 knows no boundary, so it is
// that for a number which is nobody's in the writer's pid namespace.
func (b *Boundary) beyond() unix.Errno {
	if b.Hierarchy().Version == hierarchy.V2 {
		return unix.ENOENT
	}
	return unix.ESRCH
}

// placeOf is the place of a thread, or of all the threads of a process. Threads that exit do not count: the kernel leaves
// them where they are.
func (b *Boundary) standingOf(t *Task) (standing, error) {
	var st unix.Stat_t
	if !t.thread {
		if err := unix.Fstatat(t.proc, "task", &st, 0); err != nil {
			return outside, taskErrno(err)
		}
	}
	if t.thread || st.Nlink == 3 { // 2 and one for each thread (proc_task_getattr)
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

// placeAt is the place of one thread. v1 prints "/" for a task that exits (proc_cgroup_show), wherever it is. v2 prints where
// it was, also when the rest of its process has moved on since.
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

// maySkip says whether a move of an exiting task is answered as the kernel does, with success and no effect. On v2 that
// takes a task that is inside. v1 does not tell, so whoever must reap it stands for it. Nothing is written either way.
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

// threadsOf lists the threads of a process by its directory in /proc.
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
