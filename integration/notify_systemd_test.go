package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestNotifyExecSystemd boots the host's own systemd as process 1 of a container in unified mode on a view of v2, without BPF and without a
// word in the runtime's profile: notify-exec becomes it, and systemd does not mind the process beside it.
func TestNotifyExecSystemd(t *testing.T) {
	if !kit.Exists(kit.SystemdProgram) {
		t.Skip("machine: systemd is not installed")
	}
	runtime := kit.NeedRuntime(t, "runc")
	h := kit.OpenHost(t)
	unified := kit.NeedHierarchy(t, h, hierarchy.Unified)
	controllers := "unified"
	if !kit.OnV1(h, "pids") {
		controllers = "memory,pids"
	}
	d := kit.StartDaemon(t, "--no-bpf")
	b := kit.NewBundle(t, d, runtime, "exec-systemd", "", "--controllers", controllers, "--layout", "v2", "--no-stack")
	b.OverHost(t, kit.SystemdUnits)
	const here = "/vcgroupfs"
	b.Config["mounts"] = append(b.Config["mounts"].([]any), map[string]any{"destination": here, "type": "bind", "source": kit.AbsProgram(t), "options": []string{"bind", "ro"}})
	b.BootSystemd(true, here, "notify-exec", "--", kit.SystemdProgram)
	b.Tmpfs("/run", "/run/lock", "/tmp")
	b.WithNamespaces("cgroup")
	b.Write(t)
	cmd := b.Command(runtime)
	console := kit.StartOnTerminal(t, cmd)
	inside := func(args ...string) (string, error) {
		out, err := b.Inside(runtime, args...)
		return strings.TrimSpace(out), err
	}
	kit.Eventually(t, "systemd to be up", func() bool {
		out, _ := inside("systemctl", "is-active", "vcgroupfs-test.target")
		return out == "active"
	})
	if out, err := inside("systemctl", "start", "vcgroupfs-test.service"); err != nil {
		t.Errorf("systemctl start: %v: %s", err, out)
	}
	unit := b.Cgroup + "/system.slice/vcgroupfs-test.service"
	if got := kit.ReadFile(filepath.Join(kit.HostDir(unified, unit), "cgroup.procs")); strings.Count(got, "\n") != 1 {
		t.Errorf("the host finds processes %q in the unit's cgroup", got)
	}
	if out, _ := inside("ps", "-o", "comm=,args=", "-p", "1"); !strings.HasPrefix(out, "systemd") {
		t.Errorf("process 1 is %q", out)
	}
	// What the runtime brings in from outside is under no filter.
	if out, err := inside("systemd-cgls", "--no-pager"); err == nil {
		t.Errorf("systemd-cgls, for which nobody answers: %s", out)
	}
	if out, err := inside(here, "notify-exec", "--", "systemd-cgls", "--no-pager"); err != nil || !strings.Contains(out, "@vcgroupfs notify-keeper") {
		t.Errorf("systemd-cgls: %v: %s", err, out)
	}
	if out, err := inside("systemctl", "stop", "vcgroupfs-test.service"); err != nil {
		t.Errorf("systemctl stop: %v: %s", err, out)
	}
	if out, _ := inside("systemctl", "show", "--property", "NFailedUnits"); out != "NFailedUnits=0" {
		t.Errorf("failed units: %s", out)
	}
	if out, err := exec.Command(runtime, "kill", b.ID, "KILL").CombinedOutput(); err != nil {
		t.Errorf("runc kill: %v: %s", err, out)
	}
	cmd.Wait()
	if t.Failed() {
		t.Logf("console: %s", console.Text())
	}
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}
