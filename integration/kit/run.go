package kit

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Result is what came of one "run".
type Result struct {
	Stdout, Stderr string
	Status         int
}

// RunGuest runs a shell script in a guest.
func RunGuest(t *testing.T, args []string, script string) Result {
	t.Helper()
	return RunCommand(t, append(append([]string{"run"}, args...), "--", "sh", "-c", script)...)
}

// RunCommand runs the program under test.
func RunCommand(t *testing.T, args ...string) Result {
	t.Helper()
	if len(args) > 0 && args[0] == "run" {
		args = withTransport(args[0], args[1:]...)
	}
	cmd := exec.Command(Program(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// GuestPaths are names of files and directories in a guest, by the version that has the controllers.
type GuestPaths struct {
	Memory, Pids string // directories, with a slash
	Limit        string // of memory
}

// PathsOf are the paths in a guest of this host.
func PathsOf(h *host.Host) GuestPaths {
	if OnV1(h, "memory") {
		return GuestPaths{"memory/", "pids/", "memory.limit_in_bytes"}
	}
	return GuestPaths{"", "", "memory.max"}
}

// Expand puts the paths in the place of MEMORY/, PIDS/ and LIMIT.
func (p GuestPaths) Expand(script string) string {
	return strings.NewReplacer("MEMORY/", p.Memory, "PIDS/", p.Pids, "LIMIT", p.Limit).Replace(script)
}

// WantGone looks for what a guest left on the host.
func WantGone(t *testing.T, h *host.Host, name string) {
	t.Helper()
	for _, hier := range h.Hierarchies() {
		if hier.Exists("/vcgroupfs/" + name) {
			t.Errorf("the guest's cgroup is still in the hierarchy %s", hier)
		}
	}
	if Exists("/run/vcgroupfs/guests/" + name + ".json") {
		t.Error("the guest's file is still there")
	}
}

// FormName names a subtest by a form of run, its options.
func FormName(form []string) string { return "as" + strings.Join(form, "") }

// RunRole runs, where only notification answers, the test binary, of which there is a copy that every guest can
// execute, in a role in a guest, and answers with the lines of its output.
func RunRole(t *testing.T, binary, role string, args ...string) []string {
	t.Helper()
	out, err := RoleCommand(t, binary, role, args...).Output()
	if err != nil {
		t.Fatalf("%s in run %q: %v: %s", role, args, err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// RoleCommand is the command of RunRole.
func RoleCommand(t *testing.T, binary, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(Program(t), append(append(withTransport("run", "--no-bpf"), args...), "--", binary)...)
	cmd.Env = append(os.Environ(), RoleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}
