package host

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Task is a held process or thread: its methods answer for this task, even if its number is reused. Two descriptors
// hold it. The pidfd tells whether the number is still the task's; the directory of /proc belongs to the same struct
// pid and has the rest.
type Task struct {
	pid    int  // immutable
	thread bool // immutable
	pidfd  int  // immutable; -1 if the kernel has none for such a task
	proc   int  // immutable; O_PATH of /proc/<pid>
}

// HoldTask holds a task by its number in the server's own pid namespace: a process, or with thread one thread of any
// process. A zombie can be held until it is reaped. ESRCH if there is no such task, or the number belongs to a
// thread other than a leader; EMFILE and the like from the kernel.
func (h *Host) HoldTask(pid int, thread bool) (*Task, error) { return holdTask(pid, thread) }

func holdTask(pid int, thread bool) (*Task, error) {
	if pid <= 0 {
		return nil, unix.ESRCH
	}
	pidfd, err := openPidfd(pid, thread)
	if err != nil {
		return nil, err
	}
	t := &Task{pid: pid, thread: thread, pidfd: pidfd, proc: -1}
	t.proc, err = openProc(strconv.Itoa(pid))
	// Alive after the second open: the number belonged to the same task both times.
	if err == nil && !t.Alive() {
		err = unix.ESRCH
	}
	if err == nil && pidfd < 0 && !thread && !t.isProcess() {
		err = unix.ESRCH
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// openPidfd opens a pidfd (Linux 5.3), for a thread with PIDFD_THREAD (Linux 6.9). -1 if the kernel cannot. For a
// number of no process the kernel answers ENOENT, before 6.9 EINVAL.
func openPidfd(pid int, thread bool) (int, error) {
	flags := 0
	if thread {
		flags = unix.PIDFD_THREAD
	}
	fd, err := unix.PidfdOpen(pid, flags)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL) && thread:
		// No such call, none for seccomp, or no such flag.
		return -1, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		return -1, unix.ESRCH
	}
	return -1, err
}

// Pid returns the task's number in the server's own pid namespace. It can belong to another task once Alive is
// false.
func (t *Task) Pid() int { return t.pid }

// Thread reports that the task is held as one thread rather than as a process.
func (t *Task) Thread() bool { return t.thread }

// Alive reports that the number is still this task's. A zombie that waits for its parent keeps it.
func (t *Task) Alive() bool {
	if t.pidfd < 0 {
		// The directory of a released task in /proc is empty (pid_revalidate, proc_pident_lookup).
		return unix.Faccessat(t.proc, "stat", unix.F_OK, 0) == nil
	}
	err := unix.PidfdSendSignal(t.pidfd, 0, nil, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

// UIDs returns the real and the saved user id of the task, in the server's user namespace. v1 compares them with a
// writer's effective id (cgroup1_procs_write). ESRCH if the task is dead.
func (t *Task) UIDs() (uid, suid uint32, err error) {
	status, err := readAt(t.proc, "status")
	if err != nil {
		return 0, 0, err
	}
	ids := parseInts(statusLine(status, "Uid:"))
	// The ids: real, effective, saved, file system.
	if len(ids) != 4 {
		return 0, 0, unix.ESRCH
	}
	return uint32(ids[0]), uint32(ids[2]), nil
}

// Close releases the task.
func (t *Task) Close() {
	for _, fd := range []int{t.pidfd, t.proc} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	t.pidfd, t.proc = -1, -1
}

// isProcess reports that the task is the leader of its thread group.
func (t *Task) isProcess() bool {
	status, err := readAt(t.proc, "status")
	if err != nil {
		return false
	}
	tgid := parseInts(statusLine(status, "Tgid:"))
	return len(tgid) == 1 && tgid[0] == t.pid
}

// statusLine returns the part after key in its line of /proc/<pid>/status.
func statusLine(status []byte, key string) []byte {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok {
			return rest
		}
	}
	return nil
}

// pfExiting is PF_EXITING of include/linux/sched.h, set from the start of do_exit and never cleared.
const pfExiting = 0x4

// taskStat is the used part of /proc/<pid>/stat.
type taskStat struct {
	exiting bool
	parent  int
}

// readStat reads the stat of a task whose directory is at path below dir. ESRCH if the task is dead.
func readStat(dir int, path string) (taskStat, error) {
	raw, err := readAt(dir, path)
	if err != nil {
		return taskStat{}, err
	}
	// The command's name can hold blanks and parentheses; after it come state, ppid, pgrp, session, tty, tpgid, flags.
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(fields) < 7 {
		return taskStat{}, unix.ESRCH
	}
	parent, err1 := strconv.Atoi(string(fields[1]))
	flags, err2 := strconv.ParseUint(string(fields[6]), 10, 64)
	if err1 != nil || err2 != nil {
		return taskStat{}, unix.ESRCH
	}
	return taskStat{exiting: flags&pfExiting != 0, parent: parent}, nil
}

// openProc opens the directory of a task in /proc. ESRCH when there is none.
func openProc(tid string) (int, error) {
	fd, err := unix.Open("/proc/"+tid, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return fd, taskErrno(err)
}

// readAt reads a file of /proc below a task's directory. ESRCH if the task is dead.
func readAt(dir int, path string) ([]byte, error) {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, taskErrno(err)
	}
	defer unix.Close(fd)
	raw := make([]byte, 0, 4096)
	for {
		n, err := unix.Read(fd, raw[len(raw):cap(raw)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, taskErrno(err)
		}
		if n == 0 {
			return raw, nil
		}
		if raw = raw[:len(raw)+n]; len(raw) == cap(raw) {
			raw = slices.Grow(raw, len(raw))
		}
	}
}

// StartOf returns the start time of a process, in clock ticks since the host's boot: with the number it identifies a
// process for good. ESRCH if there is no such process, or only its exit status is left.
func StartOf(pid int) (uint64, error) {
	fields, err := statFields("/proc/" + strconv.Itoa(pid))
	if err != nil || exited(fields) {
		return 0, unix.ESRCH
	}
	return startIn(fields)
}

// StartIn returns the start time in the text of a task's stat, as StartOf does.
func StartIn(stat []byte) (uint64, error) { return startIn(fieldsIn(stat)) }

func startIn(fields [][]byte) (uint64, error) { return statNumber(fields, 22) }

// statNumber returns a field of stat after the command's name, by its number in proc_pid_stat(5). ESRCH if it is not
// there or no number.
func statNumber(fields [][]byte, field int) (uint64, error) {
	i := field - 3
	if len(fields) <= i {
		return 0, unix.ESRCH
	}
	n, err := strconv.ParseUint(string(fields[i]), 10, 64)
	if err != nil {
		return 0, unix.ESRCH
	}
	return n, nil
}

// ExitStatus returns the wait status of a process whose first thread has exited, also while other threads of it keep it
// from being reaped; 0 for one that runs. The caller needs the right to trace the process. ESRCH if there is none.
func ExitStatus(pid int) (syscall.WaitStatus, error) {
	fields, err := statFields("/proc/" + strconv.Itoa(pid))
	if err != nil {
		return 0, err
	}
	status, err := statNumber(fields, 52)
	return syscall.WaitStatus(status), err
}

// statFields returns the fields of a process's stat after the command's name, which may contain blanks: the first is
// the state (proc_pid_stat(5): field 3). proc is its directory in /proc.
func statFields(proc string) ([][]byte, error) {
	raw, err := readAt(unix.AT_FDCWD, proc+"/stat")
	if err != nil {
		return nil, err
	}
	return fieldsIn(raw), nil
}

func fieldsIn(stat []byte) [][]byte { return bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) }

// exited reports by the fields of stat that the first thread has exited.
func exited(fields [][]byte) bool {
	return len(fields) > 0 && (fields[0][0] == 'Z' || fields[0][0] == 'X')
}
