package kit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process by its number.
type process int

// children are the processes that another has started and that have not ended.
func children(pid int) (found []process) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		for word := range strings.FieldsSeq(ReadFile(file)) {
			if n, err := strconv.Atoi(word); err == nil {
				found = append(found, process(n))
			}
		}
	}
	return found
}

// isWorker says whether a process is a worker of a holder, and of no other.
func (p process) isWorker(holder int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
	if err != nil || !strings.Contains(string(args), "serve-worker") {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
	return err == nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", holder))
}

// Worker is a descriptor of the daemon's worker: what is signalled by it is that process and no other that got its
// number.
func (d *Daemon) Worker(t testing.TB) (pid, fd int) {
	t.Helper()
	holder := d.Cmd.Process.Pid
	for deadline := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		for _, p := range children(holder) {
			fd, err := unix.PidfdOpen(int(p), 0)
			if err == nil && p.isWorker(holder) {
				return int(p), fd
			}
			if err == nil {
				unix.Close(fd)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no worker: %s", d.Log())
		}
	}
}

// Signal sends a signal to the worker of the moment, unless that is the one that is known, and returns its number. It
// returns 0 when there was none to signal. A worker that is killed has ended then, and so takes no request any more.
func (d *Daemon) Signal(t testing.TB, sig unix.Signal, known int) int {
	t.Helper()
	pid, fd := d.Worker(t)
	defer unix.Close(fd)
	if pid == known {
		return 0
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) { // it has ended meanwhile
		return 0
	} else if err != nil {
		t.Fatal(err)
	}
	if sig == unix.SIGKILL && !HasEnded(fd, Patience) {
		t.Fatalf("the worker %d was killed and does not end", pid)
	}
	return pid
}

// AnswerersOf are the processes of a holder that answer system calls. One that is killed, and has a thread that a
// container's file system keeps, is not among them: SIGKILL is pending for its first thread.
func AnswerersOf(holder int) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		stat := ReadFile(filepath.Dir(file) + "/status")
		if strings.Contains(stat, "SigPnd:\t0000000000000100") {
			continue
		}
		if ReadFile(file) == "vcgroupfs\x00serve-notify\x00" && strings.Contains(stat, fmt.Sprintf("\nPPid:\t%d\n", holder)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// KillAnswerer kills the process that answers, another one than the last, and says which that was.
func (d *Daemon) KillAnswerer(t *testing.T, last int) int {
	t.Helper()
	var pid int
	Eventually(t, "a process that answers", func() bool {
		pids := AnswerersOf(d.Cmd.Process.Pid)
		if len(pids) == 1 && pids[0] != last {
			pid = pids[0]
		}
		return pid != 0
	})
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}

// StopAllWorkers has no worker serve until the daemon has given up. Each is stopped before it can do anything: the
// watchdog kills it, and another one comes. Only what has become a worker is stopped: until its child has called
// execve, os/exec of the holder waits for it (CLONE_VFORK, vfork(2)).
func (d *Daemon) StopAllWorkers(t *testing.T) {
	t.Helper()
	last := process(0)
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, p := range children(d.Cmd.Process.Pid) {
			if p != last && p.isWorker(d.Cmd.Process.Pid) {
				syscall.Kill(int(p), unix.SIGSTOP)
				last = p
			}
		}
		select {
		case <-d.Ended:
			return
		default:
		}
	}
	t.Fatal("serve has not given up")
}
