package kit

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Ask has a helper that plays commands do one, and says what came of it.
func (h *Helper) Ask(t testing.TB, op string, args ...string) string {
	t.Helper()
	for _, a := range args {
		op += " " + strconv.Quote(a)
	}
	fmt.Fprintln(h.In, op)
	answer := strings.TrimPrefix(h.Line(t), "=")
	if text, err := strconv.Unquote(answer); err == nil {
		return text
	}
	return answer
}

// Helper is a process that does what it is told.
type Helper struct {
	Cmd *exec.Cmd
	In  io.WriteCloser
	Out *bufio.Reader
}

// End has the container of a helper end, with status 0.
func (x *Helper) End(t testing.TB) {
	t.Helper()
	x.In.Close()
	if err := x.Cmd.Wait(); err != nil {
		t.Errorf("the container ended with %v", err)
	}
}

// StartHelper starts the test binary in a role.
func StartHelper(t testing.TB, role string) *Helper {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), RoleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return StartProcess(t, cmd)
}

// PID is the helper's process id.
func (h *Helper) PID() int { return h.Cmd.Process.Pid }

// Line reads a line of its output.
func (h *Helper) Line(t testing.TB) string {
	t.Helper()
	s, err := h.Out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(s)
}

// Tell gives a command to a helper of role "commands" and answers with what came of it.
func (h *Helper) Tell(t testing.TB, format string, args ...any) string {
	t.Helper()
	fmt.Fprintf(h.In, format+"\n", args...)
	return strings.TrimPrefix(h.Line(t), "=")
}

// StartProcess starts a command whose input and output are pipes.
func StartProcess(t testing.TB, cmd *exec.Cmd) *Helper {
	t.Helper()
	h := &Helper{Cmd: cmd}
	var err error
	if h.In, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.In.Close()
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	})
	return h
}

// PrintedBy runs a command that plays a role, and says what it printed.
func PrintedBy(t testing.TB, cmd *exec.Cmd, role string) string {
	t.Helper()
	cmd.Env = append(os.Environ(), RoleVariable+"="+role)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", role, err, out)
	}
	return string(out)
}

// WantTypes asks a container for types, in two ways.
func (x *Helper) WantTypes(t testing.TB, want map[string]string) {
	t.Helper()
	for path, kind := range want {
		if got := x.Ask(t, "type", path); got != kind {
			t.Errorf("statfs of %s: %s, want %s", path, got, kind)
		}
		if got := x.Ask(t, "ftype", path); got != kind {
			t.Errorf("fstatfs of %s: %s, want %s", path, got, kind)
		}
	}
}

// InNamespaces plays a role as the first process in namespaces of its own: a nested guest.
func InNamespaces(role string, flags uintptr) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), RoleVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		ids := []syscall.SysProcIDMap{{Size: 1}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings, cmd.SysProcAttr.Credential = ids, ids,
			&syscall.Credential{NoSetGroups: true}
	}
	return cmd
}

// UseView has a container's program find its limit of tasks, which it cannot lift, and make a child with one of 5, into
// which it goes.
func (x *Helper) UseView(t *testing.T, hier *host.Hierarchy, limit, cgroup string) {
	t.Helper()
	top := TopOf(GuestView, hier)
	if got := x.Ask(t, "read", top+"/pids.max"); got != limit+"\n" {
		t.Errorf("pids.max: %q", got)
	}
	if got := x.Ask(t, "write", top+"/pids.max", "max"); got != "EPERM" && got != "EACCES" {
		t.Errorf("root lifts its own limit: %s", got)
	}
	if hier.Version == hierarchy.V2 {
		if got := x.Ask(t, "write", top+"/cgroup.subtree_control", "+pids"); got != "ok" {
			t.Errorf("+pids: %s", got)
		}
	}
	if got := x.Ask(t, "mkdir", top+"/child"); got != "ok" || !hier.Exists(cgroup+"/child") {
		t.Errorf("mkdir: %s", got)
	}
	if got := x.Ask(t, "write", top+"/child/pids.max", "50"); got != "ok" { // Go's runtime needs some for itself
		t.Errorf("a limit of a child: %s", got)
	}
	if got := x.Ask(t, "write", top+"/child/cgroup.procs", "0"); got != "ok" {
		t.Errorf("going into a child: %s", got)
	}
}
