package integration

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// systemdSuite is a suite's systemd, and what it says last where it does not know the file system.
type systemdSuite struct {
	name       string
	v2, hybrid string // with no mechanism
	refusesV1  string // with one, in a hybrid
}

// 252 and 257 take a file system that they do not know for a host's of v1, and try to mount that.
var systemdSuites = []systemdSuite{
	{"bookworm", "Failed to mount cgroup at /sys/fs/cgroup/systemd: Operation not permitted", notInCgroup, ""}, // 252
	{"trixie", "Failed to mount cgroup v1 hierarchy.", notInCgroup, ""},                                        // 257
	{"forky", unknownType, unknownType, "Detected unsupported legacy cgroup hierarchy"},                        // 262
}

const (
	notInCgroup = "Cannot determine cgroup we are running in: No medium found"
	unknownType = "Unknown filesystem type 65735546 mounted on /sys/fs/cgroup/."
)

// refusal is what it says before it ends, or nothing where it does not.
func (s systemdSuite) refusal(form string, on bool) string {
	switch {
	case on && form == "v2":
		return ""
	case on:
		return s.refusesV1
	case form == "v2":
		return s.v2
	}
	return s.hybrid
}

// TestUnmodifiedSystemd boots each suite's systemd as process 1 of a container. A unit's limits are found on the
// host, and the worker that serves the view is killed meanwhile. Without a mechanism systemd says that it knows no such
// file system, and ends.
func TestUnmodifiedSystemd(t *testing.T) {
	for _, suite := range systemdSuites {
		t.Run(suite.name, func(t *testing.T) {
			needTree(t, suite.name)
			eachForm(t, func(t *testing.T, h *host.Host, f guestForm, m mechanism, on bool) {
				testUnmodifiedSystemd(t, h, suite, f, m, on)
			})
		})
	}
}

func testUnmodifiedSystemd(t *testing.T, h *host.Host, suite systemdSuite, f guestForm, m mechanism, on bool) {
	runtime := kit.NeedRuntime(t, "runc")
	d := kit.StartDaemonWith(t, kit.Program(t), m.options)
	b := systemdBundle(t, d, runtime, suite.name, f)
	m.apply(t, d, b)
	b.Write(t)
	s := &systemd{Bundle: b, form: f, runtime: runtime, cmd: b.Command(runtime)}
	s.console = kit.StartOnTerminal(t, s.cmd)
	if why := suite.refusal(f.name, on); why != "" {
		s.refuses(t, why)
	} else {
		s.boots(t, d)
	}
	if t.Failed() {
		t.Logf("console: %s", s.console.Text())
	}
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// systemdBundle is a container of a suite whose process 1 is systemd. In a hybrid systemd mounts what it looks for, and
// has a user namespace, which lets it.
func systemdBundle(t *testing.T, d *kit.Daemon, runtime, suite string, f guestForm) *kit.Bundle {
	t.Helper()
	b := kit.NewBundle(t, d, runtime, "systemd", "", f.hook...)
	overTree(t, b, suite, kit.SystemdUnits)
	const program = "/usr/lib/systemd/systemd"
	if f.name == "hybrid" {
		b.BootSystemd(false, program, "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
		b.WithNamespaces("user")
		b.Allow(kit.AllCapabilities(t))
	} else {
		b.BootSystemd(true, program)
	}
	b.Linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 200}}
	withoutClone3(b)
	b.WithNamespaces("cgroup")
	return b
}

// systemd is one that runs as process 1 of a container.
type systemd struct {
	*kit.Bundle
	form    guestForm
	runtime string
	cmd     *exec.Cmd
	console *kit.Terminal
}

// inside runs a command in the container.
func (s *systemd) inside(args ...string) (string, error) {
	return s.Bundle.Inside(s.runtime, args...)
}

// want runs a command whose output must match.
func (s *systemd) want(t *testing.T, pattern string, args ...string) {
	t.Helper()
	out, err := s.inside(args...)
	if err != nil || !regexp.MustCompile(pattern).MatchString(out) {
		t.Errorf("%s: %v: %s; want a match of %q", strings.Join(args, " "), err, out, pattern)
	}
}

// boots has it start a unit and stop it again.
func (s *systemd) boots(t *testing.T, d *kit.Daemon) {
	t.Helper()
	first, unit := kit.ReadFile("/proc/1/cgroup"), "vcgroupfs-test.service"
	cgroup := s.Cgroup + "/system.slice/" + unit
	if !s.comesUp() {
		t.Fatalf("it does not come up; console: %s", s.console.Text())
	}
	s.want(t, "^$", "systemctl", "start", unit)
	s.form.wants(t, cgroup, 100<<20, 20)
	s.want(t, "^MemoryMax=104857600\n$", "systemctl", "show", unit, "--property", "MemoryMax")
	if s.form.pids != nil {
		s.want(t, "^TasksCurrent=1\n$", "systemctl", "show", unit, "--property", "TasksCurrent")
	}
	s.want(t, "(?s)"+unit+".*sleep infinity", "systemd-cgls", "--no-pager")
	s.want(t, "system.slice/"+unit, "systemd-cgtop", "--batch", "--iterations=1", "--order=path")
	const scope = "vcgroupfs-test.scope"
	// Before Linux 6.9 a guest's inotify under the daemon sees only what the guest itself writes.
	scoped := s.form.name == "v2" && d.Ready(t).Resend
	if scoped {
		s.want(t, "^$", "sh", "-c", "systemd-run --scope --unit="+scope+" sleep infinity >/dev/null 2>&1 </dev/null &")
		s.form.hasProcess(t, s.Cgroup+"/system.slice/"+scope)
	}
	d.Signal(t, unix.SIGKILL, 0) // and goes on with another worker
	s.want(t, "^$", "systemctl", "stop", unit)
	if out, _ := s.inside("systemctl", "is-active", unit); strings.TrimSpace(out) != "inactive" {
		t.Errorf("the unit is %q after it was stopped", out)
	}
	s.form.wantsGone(t, cgroup)
	if scoped { // its end cgroup.events alone tells, since it is no child of process 1
		if err := s.form.hier.Kill(s.Cgroup + "/system.slice/" + scope); err != nil {
			t.Fatal(err)
		}
		s.form.wantsGone(t, s.Cgroup+"/system.slice/"+scope)
	}
	s.want(t, "^$", "systemctl", "start", unit) // by the new worker
	s.form.wants(t, cgroup, 100<<20, 20)
	if now := kit.ReadFile("/proc/1/cgroup"); now != first {
		t.Errorf("the host's own process 1 was in\n%s and is in\n%s", first, now)
	}
	if out, err := exec.Command(s.runtime, "kill", s.ID, "KILL").CombinedOutput(); err != nil {
		t.Errorf("runc kill: %v: %s", err, out)
	}
	s.cmd.Wait()
}

// comesUp waits until it is up, or ends.
func (s *systemd) comesUp() bool {
	return s.says("Reached target")
}

// says waits until it has said something on its console, or has ended.
func (s *systemd) says(text string) bool {
	for deadline := time.Now().Add(kit.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(s.console.Text(), text) {
			return true
		}
	}
	return false
}

// refuses wants it to end, and to say why.
func (s *systemd) refuses(t *testing.T, why string) {
	t.Helper()
	err := s.cmd.Wait()
	if err == nil || !s.says(why) || !s.says("Exiting PID 1") { // the last that it said is read after its end
		t.Errorf("it ended with %v; want a refusal that says %q", err, why)
	} else {
		t.Logf("refused: %s", why)
	}
}
