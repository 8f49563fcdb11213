package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

const systemdProgram = "/lib/systemd/systemd"

// systemdUnits are a target to boot to, and a service with limits.
var systemdUnits = map[string]string{
	"etc/systemd/system/vcgroupfs-test.target": "[Unit]\nDefaultDependencies=no\n",
	"etc/systemd/system/vcgroupfs-test.service": "[Unit]\nDefaultDependencies=no\n" +
		"[Service]\nType=exec\nMemoryMax=100M\nTasksMax=20\nExecStart=/bin/sleep infinity\n",
}

// bootSystemd has a bundle's container boot to that target, unified or legacy. args are the program, what it is started by, and more
// arguments of its own.
func (b *bundle) bootSystemd(unified bool, args ...string) {
	process := b.config["process"].(map[string]any)
	process["terminal"], process["noNewPrivileges"], process["rlimits"] = true, false, []any{}
	process["env"] = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=lxc", "TERM=dumb"}
	mode := "systemd.unified_cgroup_hierarchy=0"
	if unified {
		mode = "systemd.unified_cgroup_hierarchy=1"
	}
	process["args"] = append(args, mode, "--unit=vcgroupfs-test.target", "--log-target=console", "--show-status=yes")
	b.allow([]string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_CHROOT"})
}

// tmpfs gives a bundle's container some of them.
func (b *bundle) tmpfs(dirs ...string) {
	for _, dir := range dirs {
		b.config["mounts"] = append(b.config["mounts"].([]any), map[string]any{"destination": dir, "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "nodev", "mode=755"}})
	}
}

// TestSystemd boots the host's own systemd as process 1 of a container, in legacy mode on a view: a tmpfs with a mount for each
// hierarchy. It starts a unit with limits, which hold on the host, and stops it.
func TestSystemd(t *testing.T) {
	if !exists(systemdProgram) {
		t.Skip("machine: systemd is not installed")
	}
	runtime := needRuntime(t, "runc")
	h := openHost(t)
	memory, pids := need(t, h, "memory"), need(t, h, "pids")
	if memory.Version != hierarchy.V1 || pids.Version != hierarchy.V1 || h.Hierarchy("name=systemd") == nil {
		t.Skip("machine: memory, pids and name=systemd are not all on v1 hierarchies")
	}
	d := startDaemon(t)
	b := newBundle(t, d, runtime, "systemd", "", "--tmpfs", "--controllers", "name=systemd,memory,pids,cpu")
	first := readFile("/proc/1/cgroup")
	b.overHost(t, systemdUnits)
	b.bootSystemd(false, systemdProgram)
	b.tmpfs("/run", "/run/lock", "/tmp")
	b.linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 200}}
	b.with("cgroup")
	b.write(t)

	cmd := b.command(runtime)
	console := startOnTerminal(t, cmd)
	inside := func(args ...string) (string, error) {
		out, err := exec.Command(runtime, append([]string{"exec", b.id}, args...)...).CombinedOutput()
		return string(out), err
	}
	up := func() bool {
		out, _ := inside("systemctl", "is-active", "vcgroupfs-test.target")
		return strings.TrimSpace(out) == "active"
	}
	eventually(t, "systemd to be up", up)
	unit := b.cgroup + "/system.slice/vcgroupfs-test.service"
	if out, err := inside("systemctl", "start", "vcgroupfs-test.service"); err != nil {
		t.Errorf("systemctl start: %v: %s", err, out)
	}
	for _, c := range []struct{ dir, file, want string }{
		{hostDir(memory, unit), "memory.limit_in_bytes", "104857600\n"}, {hostDir(pids, unit), "pids.max", "20\n"},
	} {
		if got := readFile(filepath.Join(c.dir, c.file)); got != c.want {
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
	d.signal(t, unix.SIGKILL, 0) // and goes on with another worker
	if out, err := inside("systemctl", "stop", "vcgroupfs-test.service"); err != nil {
		t.Errorf("systemctl stop: %v: %s", err, out)
	}
	if out, _ := inside("systemctl", "is-active", "vcgroupfs-test.service"); strings.TrimSpace(out) != "inactive" {
		t.Errorf("the unit is %q after it was stopped", out)
	}
	if pids.Exists(unit) && readFile(filepath.Join(hostDir(pids, unit), "cgroup.procs")) != "" {
		t.Error("the unit's cgroup is not empty after it was stopped")
	}
	if now := readFile("/proc/1/cgroup"); now != first {
		t.Errorf("the host's own process 1 was in\n%s and is in\n%s", first, now)
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
