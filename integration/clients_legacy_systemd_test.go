package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// legacyUnits are a target to boot to, and a service with limits by the names of v1.
var legacyUnits = map[string]string{
	"vcgroupfs-test.target": "[Unit]\nDefaultDependencies=no\n",
	"vcgroupfs-test.service": "[Unit]\nDefaultDependencies=no\n" +
		"[Service]\nType=exec\nMemoryLimit=100M\nCPUShares=512\nTasksMax=20\nExecStart=/bin/sleep infinity\n",
}

// legacyBoot becomes the tree's systemd. $places are the view's hierarchies that are mounted where that looks for them,
// and $arguments are further ones.
const legacyBoot = legacyRoot + `
mount --bind "$units" etc/systemd/system
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
for dir in $places; do
	name=${dir##*/}
	if [ -L "$dir" ]; then
		ln -s "$(readlink "$dir")" "sys/fs/cgroup/$name"
	else
		mkdir "sys/fs/cgroup/$name"
		mount --bind "$dir" "sys/fs/cgroup/$name"
	fi
done
mount -t tmpfs -o mode=755 tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/urandom c 1 9
: >dev/console
mount --bind "$(readlink /proc/self/fd/0)" dev/console
exec env -i container=lxc TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd \
	--unit=vcgroupfs-test.target --log-target=console --show-status=yes $arguments`

// TestUnmodifiedLegacySystemd boots systemd 247 as the first process of a guest on a host with v2 alone. It takes what is
// mounted for v1, or mounts what it looks for of v1. The limits of a unit, by the names of v1, are the host's of v2. With
// v1 on the host it does the same.
func TestUnmodifiedLegacySystemd(t *testing.T) {
	const places = "places=/sys/fs/cgroup/*"
	t.Run("mounted", func(t *testing.T) { testLegacySystemd(t, kit.OpenHost(t), places) })
	t.Run("mounts", func(t *testing.T) {
		h := kit.OpenHost(t)
		needUnified(t, h) // which controllers it mounts together a host with v1 may have apart
		testLegacySystemd(t, h, "arguments=systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=yes")
	})
	t.Run("without-proc", func(t *testing.T) {
		h := kit.OpenHost(t)
		needUnified(t, h)
		s := startLegacySystemd(t, places)
		s.refuses(t, "Cannot determine cgroup we are running in: ")
		kit.WantGone(t, h, s.name)
	})
}

func testLegacySystemd(t *testing.T, h *host.Host, form string) {
	// In /proc/1/cgroup systemd looks where it is.
	s := startLegacySystemd(t, form, "--proc")
	if !s.comesUp() {
		t.Fatal("it does not come up")
	}
	s.first = kit.ChildOf(t, s.cmd.Process.Pid)
	const unit = "vcgroupfs-test.service"
	s.inside(t, "", "systemctl", "start", unit)
	found := func(controller, file string) string {
		dir := kit.HostDir(kit.NeedHierarchy(t, h, controller), "/vcgroupfs/"+s.name+"/system.slice/"+unit)
		return strings.TrimSpace(kit.ReadFile(filepath.Join(dir, file)))
	}
	want := map[string]string{"memory memory.max": "104857600", "cpu cpu.weight": "59", "pids pids.max": "20"}
	if kit.OnV1(h, "memory") {
		want = map[string]string{"memory memory.limit_in_bytes": "104857600", "cpu cpu.shares": "512", "pids pids.max": "20"}
	}
	for at, value := range want {
		controller, file, _ := strings.Cut(at, " ")
		if got := found(controller, file); got != value {
			t.Errorf("%s on the host: %s, want %s", file, got, value)
		} else {
			t.Logf("%s on the host: %s", file, got)
		}
	}
	if got := strings.Fields(found("memory", kit.Procs)); len(got) != 1 {
		t.Errorf("the host finds the processes %q in the unit's cgroup", got)
	}
	s.inside(t, "TasksCurrent=1\n", "systemctl", "show", unit, "--property", "TasksCurrent")
	s.inside(t, "", "systemctl", "stop", unit)
	s.inside(t, "ActiveState=inactive\n", "systemctl", "show", unit, "--property", "ActiveState")
	if got := found("memory", kit.Procs); got != "ENOENT" {
		t.Errorf("the unit's cgroup has %q after it was stopped", got)
	}
	s.inside(t, "", "systemctl", "--force", "exit", "7")
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != 7 {
		t.Errorf("systemd ended with status %d, want 7", got)
	}
	kit.WantGone(t, h, s.name)
}

// legacySystemd is one that runs as the first process of a guest of run.
type legacySystemd struct {
	*systemd
	name    string
	nsenter string
	first   int // its number on the host
}

// startLegacySystemd starts one with a variable for legacyBoot, and options of run.
func startLegacySystemd(t *testing.T, form string, options ...string) *legacySystemd {
	t.Helper()
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		t.Skip("machine: nsenter is not installed")
	}
	tree, units := needTree(t, legacySuite), kit.PublicDir(t)
	for name, text := range legacyUnits {
		at := filepath.Join(units, name)
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(at) })
	}
	name := "legacy-" + strconv.Itoa(os.Getpid())
	args := append([]string{"run", "--name", name, "--privileged", "--layout", "v1", "--controllers", legacyControllers}, options...)
	cmd := exec.Command(kit.Program(t), append(args, "--", "sh", "-c", legacyBoot)...)
	cmd.Env = append(os.Environ(), "tree="+tree, "place="+kit.PublicDir(t), "units="+units, form)
	s := &legacySystemd{&systemd{cmd: cmd, console: kit.StartOnTerminal(t, cmd)}, name, nsenter, 0}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console: %s", s.console.Text())
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	return s
}

// inside wants a command to say something in the guest.
func (s *legacySystemd) inside(t *testing.T, want string, args ...string) {
	t.Helper()
	out, err := exec.Command(s.nsenter, append([]string{"-t", strconv.Itoa(s.first), "-m", "-p", "-r", "-w"}, args...)...).CombinedOutput()
	if err != nil || string(out) != want {
		t.Errorf("%s: %v: %q, want %q", strings.Join(args, " "), err, out, want)
	}
}
