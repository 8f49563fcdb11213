package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestNested: a guest in a guest in a guest. Each is bounded by its own limits and by those of all around it; what the policy of one
// keeps from it, no policy inside brings back.
func TestNested(t *testing.T) {
	h := kit.OpenHost(t)
	hier, memory := kit.NeedHierarchy(t, h, "pids"), kit.NeedHierarchy(t, h, "memory")
	n := kit.NewNest(t)
	kept := "memory.high" // which the outermost policy makes read-only
	if memory.Version == hierarchy.V1 {
		kept = "memory.swappiness"
	}
	policies := map[string]string{
		"outer": "version: 1\nbelow: {hidden: [pids.peak, pids.events], read-only: [" + kept + "]}\nquota: {cgroups: 8}\n",
		"inner": "version: 1\nbelow: {read-only: [pids.peak, pids.events], read-write: [" + kept + "]}\nquota: {cgroups: 1000}\n",
	}
	for name, text := range policies {
		path := filepath.Join(n.Dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
	names := []string{"nested-" + strconv.Itoa(os.Getpid()), "second", "third"}
	third := []string{"--name", names[2], "--controllers", "pids,memory", "--limit", "pids.max=50", "--policy", filepath.Join(n.Dir, "inner")}
	second := []string{"--name", names[1], "--userns", "--privileged", "--limit", "pids.max=150", "--policy", filepath.Join(n.Dir, "inner")}
	first := []string{"--name", names[0], "--userns", "--privileged", "--limit", "pids.max=200", "--controllers", "pids,memory", "--policy", filepath.Join(n.Dir, "outer")}
	x := kit.StartProcess(t, n.Run(n.Role(n.Role("commands", third...), second...), first...))
	paths := []string{"/vcgroupfs/" + names[0], "/vcgroupfs/" + names[0] + "/vcgroupfs/" + names[1],
		"/vcgroupfs/" + names[0] + "/vcgroupfs/" + names[1] + "/vcgroupfs/" + names[2]}
	top := kit.TopOf(kit.GuestView, hier)
	x.UseView(t, hier, "50", paths[2])
	for i, want := range []string{"200\n", "150\n", "50\n"} {
		if got, err := hier.ReadFile(paths[i], "pids.max"); got != want {
			t.Errorf("the host finds pids.max of %s %q, %v", paths[i], got, err)
		}
	}
	child := paths[2] + "/child"
	if got, _ := hier.ReadFile(child, "pids.max"); got != "50\n" {
		t.Errorf("the host finds the child's limit %q", got)
	}
	if memory.Version == hierarchy.V2 {
		if got := x.Ask(t, "write", kit.TopOf(kit.GuestView, memory)+"/cgroup.subtree_control", "+memory"); got != "ok" {
			t.Errorf("+memory: %s", got)
		}
	}
	if got := x.Ask(t, "read", top+"/child/cgroup.procs"); got != "1\n" {
		t.Errorf("who is in the child: %q", got)
	}
	if got := strings.Fields(x.Ask(t, "read", "/proc/self/cgroup")); !strings.HasSuffix(strings.Join(got, " "), "/child") && hier.Version == hierarchy.V2 {
		t.Errorf("/proc/self/cgroup: %q", got)
	}
	if got, err := strconv.Atoi(strings.TrimSpace(kit.ReadFile(filepath.Join(kit.HostDir(hier, child), "cgroup.procs")))); err != nil || got <= 1 {
		t.Errorf("the host finds process %d in the child, %v", got, err)
	}

	// What the outermost policy says holds in the innermost view, whose own says otherwise.
	for _, file := range []string{"pids.peak", "pids.events"} {
		if got := x.Ask(t, "read", top+"/child/"+file); got != "ENOENT" {
			t.Errorf("%s, which the outermost policy hides: %q", file, got)
		}
	}
	if got := x.Ask(t, "mkdir", kit.TopOf(kit.GuestView, memory)+"/child"); got != "ok" && got != "EEXIST" {
		t.Errorf("mkdir in memory: %s", got)
	}
	if got := x.Ask(t, "write", kit.TopOf(kit.GuestView, memory)+"/child/"+kept, "10"); got != "EPERM" {
		t.Errorf("%s, which the outermost policy makes read-only, is written: %s", kept, got)
	}
	made := 0
	for ; made < 20; made++ {
		if got := x.Ask(t, "mkdir", top+"/many"+strconv.Itoa(made)); got != "ok" {
			if got != "EAGAIN" {
				t.Errorf("over the outermost quota: %s", got)
			}
			break
		}
	}
	if made == 20 {
		t.Error("the outermost quota of 8 cgroups does not hold in the innermost view")
	}
	x.In.Close()
	if err := x.Cmd.Wait(); err != nil {
		t.Errorf("the guests ended with %v", err)
	}
	if hier.Exists(paths[0]) {
		t.Errorf("%s is left", paths[0])
	}

	// A controller that the outer view does not show is none.
	refused := n.Run(n.Role("commands", "--controllers", "memory"), "--userns", "--privileged", "--controllers", "pids")
	refused.Stderr = nil
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), `"memory"`) {
		t.Errorf("a controller that is hidden outside: %v: %s", err, out)
	}
}

// TestNestedOCI: a container that has its view from a runtime's hook is the host of a guest, in whatever form the view is there.
func TestNestedOCI(t *testing.T) {
	for _, runtime := range kit.OCIRuntimes(t) {
		for name, form := range map[string][]string{"": nil, "-stack": {"--stack"}, "-tmpfs": {"--tmpfs"}} {
			t.Run(runtime+name, func(t *testing.T) { testNestedOCI(t, kit.NeedRuntime(t, runtime), form) })
		}
	}
}

func testNestedOCI(t *testing.T, runtime string, form []string) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	kit.NeedPlainCrun(t, h, runtime)
	if slices.Contains(form, "--tmpfs") && hier.Version == hierarchy.V2 {
		t.Skip("machine: pids is not on a v1 hierarchy")
	}
	n := kit.NewNest(t)
	d := kit.StartDaemon(t)
	b := kit.NewBundle(t, d, runtime, "nest", n.Role("commands", "--name", "inner", "--controllers", "pids", "--limit", "pids.max=20"), form...)
	b.WithNamespaces("user", "cgroup")
	b.Allow(kit.AllCapabilities(t))
	process := b.Config["process"].(map[string]any)
	process["env"] = append(process["env"].([]string), "VCGROUPFS="+n.Program)
	b.Linux()["maskedPaths"], b.Linux()["readonlyPaths"] = []any{}, []any{} // in a user namespace no /proc can be mounted where one is covered
	b.Linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 64}, "devices": []any{map[string]any{"allow": true, "access": "rwm"}}}
	for from, to := range map[string]string{n.Dir: n.Dir, filepath.Join(n.Dir, "fuse"): "/dev/fuse"} {
		b.Config["mounts"] = append(b.Config["mounts"].([]any), map[string]any{"destination": to, "type": "bind", "source": from, "options": []string{"bind"}})
	}
	b.Write(t)
	cmd := b.Command(runtime)
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	x.UseView(t, hier, "20", b.Cgroup+"/vcgroupfs/inner")
	if got := x.Ask(t, "read", kit.TopOf(kit.GuestView, hier)+"/child/cgroup.procs"); got != "1\n" {
		t.Errorf("who is in the child: %q", got)
	}
	x.End(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// TestNestedSuite runs tests of this package inside a guest, where all that they find of the host is a view: the traces, natively and
// through a view, are then through a view and through a view of it; and the hostile guest's host is a guest.
func TestNestedSuite(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	n := kit.NewNest(t)
	tests := []string{"TestTrace", "TestRun", "TestHostSees", "TestPoll", "TestInotify", "TestCoherence", "TestPrograms", "TestVirtualRoot"}
	if kit.Scaled(t, 10, 1) == 10 { // an emulated processor takes minutes for these
		tests = append(tests, "TestHostile", "TestMountPid", "TestInside", "TestGuestLife", "TestStrangers")
	}
	pattern := "^(" + strings.Join(tests, "|") + ")$"
	cmd := n.Run(n.Role("suite", "-test.v", "-test.timeout", "5m", "-test.run", pattern), "--userns", "--privileged")
	cmd.Stderr = nil
	out, err := cmd.CombinedOutput()
	var passed int
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "--- PASS") {
			passed++
		}
	}
	if err != nil || passed != len(tests) {
		t.Errorf("%d tests passed in the guest, %v:\n%s", passed, err, out)
	}
}
