package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// In a pid namespace of its own, where it may choose numbers, a helper gives a held task's number to another task.
func TestMoveReusedPid(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), roleVariable+"=reuse "+path.Join(p.hier.Mountpoint, p.top), "GORACE=atexit_sleep_ms=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "ok\n" {
			t.Errorf("%v: %s", err, out)
		}
	})
}

func playReuse(dir string) {
	if err := reuse(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ok")
}

func reuse(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	h, err := Open()
	if err != nil {
		return err
	}
	defer h.Close()
	for _, controller := range []string{"pids", "freezer", "unified"} {
		hier := h.Hierarchy(controller)
		if hier == nil {
			continue
		}
		if top, ok := strings.CutPrefix(dir, hier.Mountpoint); ok {
			return reuseIn(hier, top)
		}
	}
	return fmt.Errorf("no hierarchy at %s", dir)
}

func reuseIn(hier *Hierarchy, top string) error {
	b, err := hier.Boundary(top + "/guest")
	if err != nil {
		return err
	}
	defer b.Close()
	root, err := b.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	a, err := root.OpenDir("a")
	if err != nil {
		return err
	}
	defer a.Release()
	victim := exec.Command("sleep", "600")
	if err := victim.Start(); err != nil {
		return err
	}
	pid := victim.Process.Pid
	if err := hier.Attach(top+"/guest", pid); err != nil {
		return err
	}
	var intruder *exec.Cmd
	err = move(b, a, "cgroup.procs", pid, false, func(task *Task) error {
		victim.Process.Kill()
		victim.Wait()
		intruder, err = startAs(pid)
		if err == nil && task.Alive() {
			err = errors.New("the held task is alive in another's number")
		}
		return err
	})
	if intruder == nil {
		return err
	}
	defer intruder.Wait()
	defer intruder.Process.Kill()
	if !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("moving a number that was reused: %w, want ESRCH", err)
	}
	if in, err := b.Contains(pid); in || err != nil {
		return fmt.Errorf("the task that got the number was moved (%v)", err)
	}
	return nil
}

// startAs starts a process with a number. Threads that the runtime starts can take it first.
func startAs(pid int) (*exec.Cmd, error) {
	for range 100 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			return nil, err
		}
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		if cmd.Process.Pid == pid {
			return cmd, nil
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	return nil, fmt.Errorf("cannot start a process with number %d", pid)
}
