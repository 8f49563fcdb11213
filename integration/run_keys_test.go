package integration

import (
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// awaitText waits until a terminal's text has something, and says whether it came.
func awaitText(t *testing.T, c *kit.Terminal, what string) bool {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(c.Text(), what) {
			return true
		}
	}
	t.Errorf("the terminal does not show %q:\n%s", what, c.Text())
	return false
}

// onTerminal starts a command with a terminal as its controlling one.
func onTerminal(t *testing.T, args ...string) (*exec.Cmd, *kit.Terminal) {
	t.Helper()
	c := kit.OpenTerminal(t)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Slave, c.Slave, c.Slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	go io.Copy(c, c.Master)
	return cmd, c
}

// TestRunJobs: what is typed does to a command of "run" what it does natively.
func TestRunJobs(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	for _, form := range [][]string{nil, {"--userns"}, {"--privileged"}} {
		run := append(append([]string{kit.Program(t), "run", "--controllers", "pids"}, form...), "--")
		t.Run(kit.FormName(form)+"/status", func(t *testing.T) {
			cmd, c := onTerminal(t, append(run, "sh", "-i")...)
			awaitText(t, c, "#")
			io.WriteString(c.Master, "echo st''arted; exit 7\n")
			awaitText(t, c, "started")
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 || strings.Contains(c.Text(), "annot set tty") {
				t.Errorf("an interactive shell's exit 7: %v\n%s", err, c.Text())
			}
		})
		t.Run(kit.FormName(form)+"/interrupt", func(t *testing.T) {
			cmd, c := onTerminal(t, append(run, "sh", "-c", "echo st''arted; exec sleep 1000")...)
			awaitText(t, c, "started")
			// A shell that catches the signal and ends by it lives on as the first process of a pid namespace.
			comm := "/proc/" + strconv.Itoa(kit.ChildOf(t, cmd.Process.Pid)) + "/comm"
			kit.Eventually(t, "the shell to become its command", func() bool { return kit.ReadFile(comm) == "sleep\n" })
			io.WriteString(c.Master, "\x03")
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 128+int(unix.SIGINT) {
				t.Errorf("interrupted by a key: %v\n%s", err, c.Text())
			}
		})
	}
	t.Run("stop", func(t *testing.T) {
		cmd, c := onTerminal(t, "sh", "-i")
		awaitText(t, c, "#")
		io.WriteString(c.Master, kit.Program(t)+" run --controllers pids -- sh -c 'echo st\"\"arted; read x; exit 6'\n")
		awaitText(t, c, "started")
		io.WriteString(c.Master, "\x1a")
		awaitText(t, c, "Stopped")
		io.WriteString(c.Master, "fg; echo status=$?=\n")
		io.WriteString(c.Master, "word\n")
		awaitText(t, c, "status=6=")
		io.WriteString(c.Master, "exit 0\n")
		if err := cmd.Wait(); err != nil {
			t.Errorf("the shell: %v\n%s", err, c.Text())
		}
	})
}
