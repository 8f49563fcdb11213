package host

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHoldTask(t *testing.T) {
	pid, tids := startRole(t, "threads 1", 0)
	for _, x := range []struct {
		pid    int
		thread bool
		want   error
	}{{pid, false, nil}, {pid, true, nil}, {tids[0], true, nil}, {tids[0], false, unix.ESRCH}, {0, false, unix.ESRCH}} {
		task, err := holdTask(x.pid, x.thread)
		if !errors.Is(err, x.want) {
			t.Errorf("holdTask(%d, %t): %v, want %v", x.pid, x.thread, err, x.want)
		}
		if err == nil {
			if !task.Alive() || task.Pid() != x.pid || task.Thread() != x.thread {
				t.Errorf("held %d as %+v", x.pid, task)
			}
			task.Close()
		}
	}
	for _, pidfd := range []bool{true, false} { // false: as on a kernel without one for threads, before 6.9
		pid, reap := startSleep(t)
		task, err := holdTask(pid, false)
		if err != nil {
			t.Fatal(err)
		}
		if !pidfd {
			unix.Close(task.pidfd)
			task.pidfd = -1
		}
		makeZombie(t, pid)
		if !task.Alive() {
			t.Errorf("pidfd %t: a zombie has lost its number", pidfd)
		}
		reap()
		if task.Alive() {
			t.Errorf("pidfd %t: a reaped process still has its number", pidfd)
		}
		if _, _, err := task.UIDs(); !errors.Is(err, unix.ESRCH) {
			t.Errorf("ids of a reaped process: %v, want ESRCH", err)
		}
		task.Close()
	}
}

func TestUIDs(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4343}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	task, err := holdTask(cmd.Process.Pid, false)
	if err != nil {
		t.Fatal(err)
	}
	defer task.Close()
	if uid, suid, err := task.UIDs(); uid != 4242 || suid != 4242 || err != nil {
		t.Errorf("ids %d, %d, %v", uid, suid, err)
	}
}

// TestExitStatus: of a process that runs, has exited, or was killed.
func TestExitStatus(t *testing.T) {
	for _, x := range []struct {
		script string
		want   syscall.WaitStatus
	}{{"exit 3", 3 << 8}, {"kill -9 $$", 9}, {"exec sleep 60", 0}} {
		cmd := exec.Command("sh", "-c", x.script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if x.want != 0 {
			if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := ExitStatus(cmd.Process.Pid); err != nil || got != x.want {
			t.Errorf("%s: %#x, %v, want %#x", x.script, got, err, x.want)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if _, err := ExitStatus(cmd.Process.Pid); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s: reaped, yet %v", x.script, err)
		}
	}
}
