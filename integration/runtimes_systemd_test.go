package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestSystemd boots the host's own systemd as process 1 of a container, in legacy mode on a view: a tmpfs with a mount for each
// hierarchy. It starts a unit with limits, which hold on the host, and stops it.
func TestSystemd(t *testing.T) {
	if !kit.Exists(kit.SystemdProgram) {
		t.Skip("machine: systemd is not installed")
	}
	runtime := kit.NeedRuntime(t, "runc")
	h := kit.OpenHost(t)
	memory, pids := kit.NeedHierarchy(t, h, "memory"), kit.NeedHierarchy(t, h, "pids")
	if memory.Version != hierarchy.V1 || pids.Version != hierarchy.V1 || h.Hierarchy("name=systemd") == nil {
		t.Skip("machine: memory, pids and name=systemd are not all on v1 hierarchies")
	}
	d := kit.StartDaemon(t)
	b := kit.NewBundle(t, d, runtime, "systemd", "", "--tmpfs", "--controllers", "name=systemd,memory,pids,cpu")
	first := kit.ReadFile("/proc/1/cgroup")
	b.OverHost(t, kit.SystemdUnits)
	b.BootSystemd(false, kit.SystemdProgram)
	b.Tmpfs("/run", "/run/lock", "/tmp")
	b.Linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 200}}
	b.WithNamespaces("cgroup")
	b.Write(t)

	cmd := b.Command(runtime)
	console := kit.StartOnTerminal(t, cmd)
	inside := func(args ...string) (string, error) { return b.Inside(runtime, args...) }
	up := func() bool {
		out, _ := inside("systemctl", "is-active", "vcgroupfs-test.target")
		return strings.TrimSpace(out) == "active"
	}
	kit.Eventually(t, "systemd to be up", up)
	unit := b.Cgroup + "/system.slice/vcgroupfs-test.service"
	if out, err := inside("systemctl", "start", "vcgroupfs-test.service"); err != nil {
		t.Errorf("systemctl start: %v: %s", err, out)
	}
	for _, c := range []struct{ dir, file, want string }{
		{kit.HostDir(memory, unit), "memory.limit_in_bytes", "104857600\n"}, {kit.HostDir(pids, unit), "pids.max", "20\n"},
	} {
		if got := kit.ReadFile(filepath.Join(c.dir, c.file)); got != c.want {
			t.Errorf("the host finds %s %q, want %q", c.file, got, c.want)
		}
	}
	if out, err := inside("systemctl", "show", "vcgroupfs-test.service", "--property", "MemoryMax,TasksMax,TasksCurrent,ActiveState"); err != nil ||
		!strings.Contains(out, "MemoryMax=104857600") || !strings.Contains(out, "TasksMax=20") || !strings.Contains(out, "TasksCurrent=1\n") || !strings.Contains(out, "ActiveState=active") {
		t.Errorf("systemctl show: %v: %s", err, out)
	}
	if out, err := inside("systemd-cgls", "--no-pager"); err != nil || !strings.Contains(out, "vcgroupfs-test.service") || !strings.Contains(out, "sleep infinity") {
		t.Errorf("systemd-cgls: %v: %s", err, out)
	}
	if out, err := inside("systemd-cgtop", "--batch", "--iterations=1", "--order=path"); err != nil || !strings.Contains(out, "system.slice/vcgroupfs-test.service") {
		t.Errorf("systemd-cgtop: %v: %s", err, out)
	}
	d.Signal(t, unix.SIGKILL, 0) // and goes on with another worker
	if out, err := inside("systemctl", "stop", "vcgroupfs-test.service"); err != nil {
		t.Errorf("systemctl stop: %v: %s", err, out)
	}
	if out, _ := inside("systemctl", "is-active", "vcgroupfs-test.service"); strings.TrimSpace(out) != "inactive" {
		t.Errorf("the unit is %q after it was stopped", out)
	}
	if pids.Exists(unit) && kit.ReadFile(filepath.Join(kit.HostDir(pids, unit), "cgroup.procs")) != "" {
		t.Error("the unit's cgroup is not empty after it was stopped")
	}
	if now := kit.ReadFile("/proc/1/cgroup"); now != first {
		t.Errorf("the host's own process 1 was in\n%s and is in\n%s", first, now)
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
