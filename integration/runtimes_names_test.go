package integration

import (
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestNames: a container whose creation fails for a name that is taken does not end the view of the container that has the name, be it of
// another bundle or of the same. By hand that view is ended only by force.
func TestNames(t *testing.T) {
	for _, runtime := range []string{"runc", "crun"} {
		t.Run(runtime, func(t *testing.T) { testNames(t, kit.NeedRuntime(t, runtime)) })
	}
}

func testNames(t *testing.T, runtime string) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	kit.NeedPlainCrun(t, h, runtime)
	d := kit.StartDaemon(t)
	b := kit.NewBundle(t, d, runtime, "names", "commands")
	b.Write(t)
	cmd := b.Command(runtime)
	x := kit.StartProcess(t, cmd)
	x.UseView(t, hier, "64", b.Cgroup)

	other := kit.NewBundle(t, d, runtime, "names", "commands")
	other.Cgroup += "-other"
	other.Linux()["cgroupsPath"] = other.Cgroup
	other.Write(t)
	b.Linux()["cgroupsPath"] = other.Cgroup
	b.Write(t) // of the container that runs, whose runtime has read it
	for what, second := range map[string]*kit.Bundle{"another bundle": other, "the same bundle": b} {
		out := runApart(t, second, h, runtime, other.Cgroup)
		if !strings.Contains(out, "hook") { // crun tells nothing of what the hook says
			t.Errorf("%s, with the name that is taken: %s; want a hook that fails", what, out)
		}
		d.WantTry(t, 0, "hook of "+b.Dir, "guest", "show", b.ID)
	}
	d.Signal(t, unix.SIGKILL, 0)
	d.Ready(t)
	d.WantTry(t, 0, "hook", "guest", "ls")
	d.WantTry(t, 1, "it was made by hook of "+b.Dir, "guest", "rm", b.ID)
	if got := x.Ask(t, "read", kit.TopOf(kit.GuestView, hier)+"/child/pids.max"); got != "50\n" {
		t.Errorf("the container that has the name reads %q in its view", got)
	}
	x.End(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// runApart runs the bundle's container by a runtime that knows of no other container, and says all that it printed. It is to fail.
func runApart(t *testing.T, b *kit.Bundle, h *host.Host, runtime, cgroup string) string {
	t.Helper()
	root := t.TempDir()
	cmd := exec.Command(runtime, "--root", root, "run", "--bundle", b.Dir, b.ID)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("a container with a name that is taken started: %s", out)
	}
	exec.Command(runtime, "--root", root, "delete", "--force", b.ID).Run() // what the runtime left of it
	for _, hier := range h.Hierarchies() {
		if err := hier.RemoveAll(cgroup); err != nil {
			t.Error(err)
		}
	}
	return string(out)
}

// TestNamesOfHooks: the last hook of a container that has no guest removes nobody's, whatever the name. What is frozen is removed by force.
func TestNamesOfHooks(t *testing.T) {
	b := newBounded(t, "names")
	stopped := `{"id": "b", "status": "stopped", "pid": 0, "bundle": "/run/bundles/b"}`
	last := exec.Command(kit.Program(t), "hook", "oci", "--socket", b.d.Socket)
	last.Stdin = strings.NewReader(stopped)
	if out, err := last.CombinedOutput(); err != nil || !strings.Contains(string(out), "made by hand") {
		t.Errorf("the last hook of a container of the name: %v, %s; want success that says who made the guest", err, out)
	}
	b.d.WantTry(t, 0, "hand", "guest", "show", "b")

	x := b.start(t, "echo goes on; exec sleep 3600")
	b.d.WantTry(t, 0, "", "guest", "freeze", "b")
	b.d.WantTry(t, 1, "it is frozen", "guest", "rm", "b")
	b.d.WantTry(t, 0, "", "guest", "rm", "b", "--force")
	x.In.Write([]byte("\n"))
	if line, err := x.Out.ReadString('\n'); err != nil || line != "goes on\n" {
		t.Errorf("the process of a guest that was removed by force says %q, %v", line, err)
	}
	x.In.Close()
	b.d.Stop(t)
}
