package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// nest is a guest that is the host of others: a directory that all of them see, with the programs, and a device node that anybody may
// open, for containers (of the host's own, its owner decides).
type nest struct {
	dir, program, tests string
}

func newNest(t *testing.T) nest {
	t.Helper()
	n := nest{dir: publicDir(t)}
	n.program, n.tests = filepath.Join(n.dir, "vcgroupfs"), filepath.Join(n.dir, "integration.test")
	copyProgram(t, absProgram(t), n.program)
	copyProgram(t, "/proc/self/exe", n.tests)
	device := filepath.Join(n.dir, "fuse")
	t.Cleanup(func() { os.Remove(device) })
	var st unix.Stat_t
	err := unix.Stat("/dev/fuse", &st)
	if err == nil {
		err = unix.Mknod(device, unix.S_IFCHR|0o666, int(st.Rdev))
	}
	if err == nil {
		err = unix.Chmod(device, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	t.Cleanup(func() { os.Remove(to) })
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run is the command of a guest in which the tests' binary plays a role, a guest of its host, which may be a guest itself.
func (n nest) run(role string, args ...string) *exec.Cmd {
	cmd := exec.Command(n.program, append(append([]string{"run"}, args...), "--", n.tests)...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// role is that of a guest that becomes the host of another (playNest), which has the role next.
func (n nest) role(next string, args ...string) string {
	text, _ := json.Marshal(append([]string{n.dir, next}, args...))
	return "nest " + string(text)
}

// playNest sets a guest up as a host and runs a guest in it, or the tests.
func playNest(arg string) {
	var words []string
	err := json.Unmarshal([]byte(arg), &words)
	if err == nil {
		err = furnish(words[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	n := nest{dir: words[0], program: filepath.Join(words[0], "vcgroupfs"), tests: filepath.Join(words[0], "integration.test")}
	cmd := n.run(words[1], words[2:]...)
	if words[1] == "suite" {
		cmd = exec.Command(n.tests, words[2:]...)
		cmd.Env = append(os.Environ(), roleVariable+"=", "VCGROUPFS="+n.program)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// furnish gives a guest what a host has: places of its own for what is written.
func furnish(dir string) error {
	runtime.LockOSThread()
	kept, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	for _, place := range []string{"/run", "/tmp"} {
		if err := unix.Mount("tmpfs", place, "tmpfs", 0, "mode=1777"); err != nil {
			return fmt.Errorf("mount %s: %w", place, err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(kept, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// TestNested: a guest in a guest in a guest. Each is bounded by its own limits and by those of all around it; what the policy of one
// keeps from it, no policy inside brings back.
func TestNested(t *testing.T) {
	h := openHost(t)
	tree, memory := need(t, h, "pids"), need(t, h, "memory")
	n := newNest(t)
	kept := "memory.high" // which the outermost policy makes read-only
	if memory.Version == hierarchy.V1 {
		kept = "memory.swappiness"
	}
	policies := map[string]string{
		"outer": "version: 1\nbelow: {hidden: [pids.peak, pids.events], read-only: [" + kept + "]}\nquota: {cgroups: 8}\n",
		"inner": "version: 1\nbelow: {read-only: [pids.peak, pids.events], read-write: [" + kept + "]}\nquota: {cgroups: 1000}\n",
	}
	for name, text := range policies {
		path := filepath.Join(n.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
	names := []string{"nested-" + strconv.Itoa(os.Getpid()), "second", "third"}
	third := []string{"--name", names[2], "--controllers", "pids,memory", "--limit", "pids.max=50", "--policy", filepath.Join(n.dir, "inner")}
	second := []string{"--name", names[1], "--userns", "--privileged", "--limit", "pids.max=150", "--policy", filepath.Join(n.dir, "inner")}
	first := []string{"--name", names[0], "--userns", "--privileged", "--limit", "pids.max=200", "--controllers", "pids,memory", "--policy", filepath.Join(n.dir, "outer")}
	x := startProcess(t, n.run(n.role(n.role("commands", third...), second...), first...))
	paths := []string{"/vcgroupfs/" + names[0], "/vcgroupfs/" + names[0] + "/vcgroupfs/" + names[1],
		"/vcgroupfs/" + names[0] + "/vcgroupfs/" + names[1] + "/vcgroupfs/" + names[2]}
	top := topOf(guestView, tree)
	x.useView(t, tree, "50", paths[2])
	for i, want := range []string{"200\n", "150\n", "50\n"} {
		if got, err := tree.ReadFile(paths[i], "pids.max"); got != want {
			t.Errorf("the host finds pids.max of %s %q, %v", paths[i], got, err)
		}
	}
	child := paths[2] + "/child"
	if got, _ := tree.ReadFile(child, "pids.max"); got != "50\n" {
		t.Errorf("the host finds the child's limit %q", got)
	}
	if memory.Version == hierarchy.V2 {
		if got := x.ask(t, "write", topOf(guestView, memory)+"/cgroup.subtree_control", "+memory"); got != "ok" {
			t.Errorf("+memory: %s", got)
		}
	}
	if got := x.ask(t, "read", top+"/child/cgroup.procs"); got != "1\n" {
		t.Errorf("who is in the child: %q", got)
	}
	if got := strings.Fields(x.ask(t, "read", "/proc/self/cgroup")); !strings.HasSuffix(strings.Join(got, " "), "/child") && tree.Version == hierarchy.V2 {
		t.Errorf("/proc/self/cgroup: %q", got)
	}
	if got, err := strconv.Atoi(strings.TrimSpace(readFile(filepath.Join(hostDir(tree, child), "cgroup.procs")))); err != nil || got <= 1 {
		t.Errorf("the host finds process %d in the child, %v", got, err)
	}

	// What the outermost policy says holds in the innermost view, whose own says otherwise.
	for _, file := range []string{"pids.peak", "pids.events"} {
		if got := x.ask(t, "read", top+"/child/"+file); got != "ENOENT" {
			t.Errorf("%s, which the outermost policy hides: %q", file, got)
		}
	}
	if got := x.ask(t, "mkdir", topOf(guestView, memory)+"/child"); got != "ok" && got != "EEXIST" {
		t.Errorf("mkdir in memory: %s", got)
	}
	if got := x.ask(t, "write", topOf(guestView, memory)+"/child/"+kept, "10"); got != "EPERM" {
		t.Errorf("%s, which the outermost policy makes read-only, is written: %s", kept, got)
	}
	made := 0
	for ; made < 20; made++ {
		if got := x.ask(t, "mkdir", top+"/many"+strconv.Itoa(made)); got != "ok" {
			if got != "EAGAIN" {
				t.Errorf("over the outermost quota: %s", got)
			}
			break
		}
	}
	if made == 20 {
		t.Error("the outermost quota of 8 cgroups does not hold in the innermost view")
	}
	x.in.Close()
	if err := x.cmd.Wait(); err != nil {
		t.Errorf("the guests ended with %v", err)
	}
	if tree.Exists(paths[0]) {
		t.Errorf("%s is left", paths[0])
	}

	// A controller that the outer view does not show is none.
	refused := n.run(n.role("commands", "--controllers", "memory"), "--userns", "--privileged", "--controllers", "pids")
	refused.Stderr = nil
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), `"memory"`) {
		t.Errorf("a controller that is hidden outside: %v: %s", err, out)
	}
}

// TestNestedOCI: a container that has its view from a runtime's hook is the host of a guest, in whatever form the view is there.
func TestNestedOCI(t *testing.T) {
	for _, runtime := range ociRuntimes(t) {
		for name, form := range map[string][]string{"": nil, "-stack": {"--stack"}, "-tmpfs": {"--tmpfs"}} {
			t.Run(runtime+name, func(t *testing.T) { testNestedOCI(t, needRuntime(t, runtime), form) })
		}
	}
}

func testNestedOCI(t *testing.T, runtime string, form []string) {
	h := openHost(t)
	tree := need(t, h, "pids")
	needPlainCrun(t, h, runtime)
	if slices.Contains(form, "--tmpfs") && tree.Version == hierarchy.V2 {
		t.Skip("machine: pids is not on a v1 hierarchy")
	}
	n := newNest(t)
	d := startDaemon(t)
	b := newBundle(t, d, runtime, "nest", n.role("commands", "--name", "inner", "--controllers", "pids", "--limit", "pids.max=20"), form...)
	b.with("user", "cgroup")
	b.allow(allCapabilities(t))
	process := b.config["process"].(map[string]any)
	process["env"] = append(process["env"].([]string), "VCGROUPFS="+n.program)
	b.linux()["maskedPaths"], b.linux()["readonlyPaths"] = []any{}, []any{} // in a user namespace no /proc can be mounted where one is covered
	b.linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 64}, "devices": []any{map[string]any{"allow": true, "access": "rwm"}}}
	for from, to := range map[string]string{n.dir: n.dir, filepath.Join(n.dir, "fuse"): "/dev/fuse"} {
		b.config["mounts"] = append(b.config["mounts"].([]any), map[string]any{"destination": to, "type": "bind", "source": from, "options": []string{"bind"}})
	}
	b.write(t)
	cmd := b.command(runtime)
	cmd.Stderr = os.Stderr
	x := startProcess(t, cmd)
	x.useView(t, tree, "20", b.cgroup+"/vcgroupfs/inner")
	if got := x.ask(t, "read", topOf(guestView, tree)+"/child/cgroup.procs"); got != "1\n" {
		t.Errorf("who is in the child: %q", got)
	}
	x.in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the container ended with %v", err)
	}
	nothingLeft(t, d, h, b.cgroup)
	d.stop(t)
}

// TestNestedSuite runs tests of this package inside a guest, where all that they find of the host is a view: the traces, natively and
// through a view, are then through a view and through a view of it; and the hostile guest's host is a guest.
func TestNestedSuite(t *testing.T) {
	need(t, openHost(t), "pids")
	n := newNest(t)
	tests := []string{"TestTrace", "TestRun", "TestHostSees", "TestPoll", "TestInotify", "TestCoherence", "TestPrograms", "TestVirtualRoot"}
	if scaled(t, 10, 1) == 10 { // an emulated processor takes minutes for these
		tests = append(tests, "TestHostile", "TestMountPid", "TestInside", "TestGuestLife", "TestStrangers")
	}
	pattern := "^(" + strings.Join(tests, "|") + ")$"
	cmd := n.run(n.role("suite", "-test.v", "-test.timeout", "5m", "-test.run", pattern), "--userns", "--privileged")
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
