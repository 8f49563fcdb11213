package host

import (
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// OwnThread reports that a thread id, in the server's pid namespace, belongs to this process.
func OwnThread(tid int) bool {
	return tid > 0 && unix.Access("/proc/self/task/"+strconv.Itoa(tid), unix.F_OK) == nil
}

// ThreadGroup returns the process of a thread. ESRCH if there is no such thread.
func ThreadGroup(tid int) (int, error) {
	// A pidfd without PIDFD_THREAD is a process's: a thread that is none has ENOENT, before Linux 6.9 EINVAL.
	if fd, err := unix.PidfdOpen(tid, 0); err == nil {
		unix.Close(fd)
		return tid, nil
	}
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

// HasHostAdmin reports that a thread has CAP_SYS_ADMIN over the host: the capability, in the server's user
// namespace. False if that is unknown.
func HasHostAdmin(tid int) bool {
	if own, err := InOwnUserNamespace(tid); err != nil || !own {
		return false
	}
	set, err := StatusMask(tid, "CapEff:")
	return err == nil && set&(1<<unix.CAP_SYS_ADMIN) != 0
}

// StatusMask returns a hexadecimal set in /proc/<tid>/status, such as the capabilities of "CapEff:". ESRCH if there
// is no such thread or line.
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

// statusField returns the first word of a line of /proc/<tid>/status. ESRCH if there is no such thread or line.
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

// WriteCommand writes one command to an open control file. A control file ignores the offset, but the kernel
// advances the descriptor's position by the written bytes if and only if the command succeeded, even if the caller
// dies in it (ksys_write): n is that advance. The host's errno.
func WriteCommand(fd int, data []byte) (n int, err error) {
	if len(data) == 0 {
		// An empty write never reaches the handler (vfs_write).
		return 0, nil
	}
	for {
		n, err := unix.Write(fd, data)
		if err == nil || !runtimePreempted(err) {
			return max(n, 0), err
		}
	}
}

// runtimePreempted reports an error from a signal that Go's runtime sends its own threads: it interrupted the
// handler of the control file, and no caller asked for that.
func runtimePreempted(err error) bool { return err == unix.EINTR }

// interruptEvery is the interval between signals to a thread that is to leave its host call.
const interruptEvery = 10 * time.Millisecond

// WriteInterruptible is WriteCommand for commands that reclaim memory: when cancel closes, a signal interrupts the
// host call, which answers as the kernel does (memory.reclaim EINTR, memory.max early success).
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
				// Go's own preemption signal, without effect here.
				unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
			}
		}
	}()
	n, err = writeUntil(cancel, fd, data)
	close(done)
	<-gone
	return n, err
}

// writeUntil writes, and writes again after an interruption by Go's runtime.
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

// TruncateBelow truncates a file below a directory to 0 bytes, on that mount and through no link. On a view's own
// mount the only effect of a truncate is the event for watches.
func TruncateBelow(dir int, path string) error {
	fd, err := openBelow(dir, path, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Truncate(procPath(fd), 0)
}
