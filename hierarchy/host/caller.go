package host

import (
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// OwnThread says whether a thread id, in the server's pid namespace, is one of this process.
func OwnThread(tid int) bool {
	return tid > 0 && unix.Access("/proc/self/task/"+strconv.Itoa(tid), unix.F_OK) == nil
}

// ThreadGroup is the process that a thread belongs to. ESRCH when there is no such thread.
func ThreadGroup(tid int) (int, error) {
	tgid, err := statusField(tid, "Tgid:")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(tgid)
	if err != nil || n <= 0 {
		return 0, unix.ESRCH
	}
	return n, nil
}

// HasHostAdmin says whether a thread has CAP_SYS_ADMIN over the host: the capability, in the user namespace that the
// server is in. False when that cannot be told.
func HasHostAdmin(tid int) bool {
	if own, err := InOwnUserNamespace(tid); err != nil || !own {
		return false
	}
	set, err := StatusMask(tid, "CapEff:")
	return err == nil && set&(1<<unix.CAP_SYS_ADMIN) != 0
}

// StatusMask is a set that a line of /proc/<tid>/status has in hexadecimal, such as the capabilities of "CapEff:". ESRCH when there is no
// such thread or line.
func StatusMask(tid int, key string) (uint64, error) {
	text, err := statusField(tid, key)
	if err != nil {
		return 0, err
	}
	set, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0, unix.ESRCH
	}
	return set, nil
}

// statusField is the first word of a line of /proc/<tid>/status. ESRCH when there is no such thread or line.
func statusField(tid int, key string) (string, error) {
	status, err := readAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(tid)+"/status")
	if err != nil {
		return "", unix.ESRCH
	}
	if words := strings.Fields(string(statusLine(status, key))); len(words) > 0 {
		return words[0], nil
	}
	return "", unix.ESRCH
}

// WriteCommand gives one command to an open control file. The offset means nothing to a control file, but the kernel moves
// the descriptor's position on by what was written if and only if the command succeeded, also when the caller dies in
// it (ksys_write): n is by how much. The host's errno.
func WriteCommand(fd int, data []byte) (n int, err error) {
	if len(data) == 0 {
		return 0, nil // a write of no bytes never reaches the handler (vfs_write)
	}
	for {
		n, err := unix.Write(fd, data)
		if err == nil || !runtimePreempted(err) {
			return max(n, 0), err
		}
	}
}

// runtimePreempted says whether an error may come of a signal that Go's runtime sends its own threads: the handler of the
// control file was interrupted, nobody asked for that.
func runtimePreempted(err error) bool { return err == unix.EINTR }

// interruptEvery is how often a thread that should stop its host call is told so, until it has.
const interruptEvery = 10 * time.Millisecond

// WriteInterruptible is WriteCommand for commands that reclaim memory: when cancel closes, the host call is interrupted by
// a signal and answers as the kernel does (memory.reclaim EINTR, memory.max success before its time).
func WriteInterruptible(cancel <-chan struct{}, fd int, data []byte) (n int, err error) {
	if len(data) == 0 {
		return 0, nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid, done := unix.Gettid(), make(chan struct{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-cancel:
		case <-done:
			return
		}
		for {
			select {
			case <-done:
				return
			case <-time.After(interruptEvery):
				unix.Tgkill(unix.Getpid(), tid, unix.SIGURG) // Go's own preemption signal: its handler does nothing here
			}
		}
	}()
	n, err = writeUntil(cancel, fd, data)
	close(done)
	<-gone
	return n, err
}

// writeUntil writes, and again after an interruption that was not asked for.
func writeUntil(cancel <-chan struct{}, fd int, data []byte) (int, error) {
	for {
		n, err := unix.Write(fd, data)
		if err == nil || !runtimePreempted(err) {
			return max(n, 0), err
		}
		select {
		case <-cancel:
			return 0, err
		default:
		}
	}
}

// TruncateBelow truncates a file below a directory to 0 bytes, on that mount and through no link. It is for a view's own
// mount, where a truncate has no effect but the event that watches see.
func TruncateBelow(dir int, path string) error {
	fd, err := openBelow(dir, path, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Truncate(procPath(fd), 0)
}
