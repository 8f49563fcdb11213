package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestNotifyExecSystemd boots the host's own systemd as process 1 of a container in unified mode on a view of v2, without BPF and without a
// word in the runtime's profile: notify-exec becomes it, and systemd does not mind the process beside it.
func TestNotifyExecSystemd(t *testing.T) {
	if !exists(systemdProgram) {
		t.Skip("machine: systemd is not installed")
	}
	runtime := needRuntime(t, "runc")
	h := openHost(t)
	unified := need(t, h, hierarchy.Unified)
	controllers := "unified"
	if !onV1(h, "pids") {
		controllers = "memory,pids"
	}
	d := startDaemon(t, "--no-bpf")
	b := newBundle(t, d, runtime, "exec-systemd", "", "--controllers", controllers, "--layout", "v2", "--no-stack")
	b.overHost(t, systemdUnits)
	const here = "/vcgroupfs"
	b.config["mounts"] = append(b.config["mounts"].([]any), map[string]any{"destination": here, "type": "bind", "source": absProgram(t), "options": []string{"bind", "ro"}})
	b.bootSystemd(true, here, "notify-exec", "--", systemdProgram)
	b.tmpfs("/run", "/run/lock", "/tmp")
	b.with("cgroup")
	b.write(t)
	cmd := b.command(runtime)
	console := startOnTerminal(t, cmd)
	inside := func(args ...string) (string, error) {
		out, err := exec.Command(runtime, append([]string{"exec", b.id}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	eventually(t, "systemd to be up", func() bool {
		out, _ := inside("systemctl", "is-active", "vcgroupfs-test.target")
		return out == "active"
	})
	if out, err := inside("systemctl", "start", "vcgroupfs-test.service"); err != nil {
		t.Errorf("systemctl start: %v: %s", err, out)
	}
	unit := b.cgroup + "/system.slice/vcgroupfs-test.service"
	if got := readFile(filepath.Join(hostDir(unified, unit), "cgroup.procs")); strings.Count(got, "\n") != 1 {
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
	if out, err := exec.Command(runtime, "kill", b.id, "KILL").CombinedOutput(); err != nil {
		t.Errorf("runc kill: %v: %s", err, out)
	}
	cmd.Wait()
	if t.Failed() {
		t.Logf("console: %s", console.text())
	}
	nothingLeft(t, d, h, b.cgroup)
	d.stop(t)
}
