package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// guestLimits are limits for the suite's guest.
func guestLimits(h *host.Host) (args []string) {
	memory := "memory.max=512M"
	if kit.OnV1(h, "memory") {
		memory = "memory.limit_in_bytes=512M"
	}
	args = []string{"--limit", "pids.max=1000"}
	if h.Hierarchy("memory") != nil {
		args = append(args, "--limit", memory)
	}
	return args
}

// hostileForms are the forms of "run", and the role of the guest in each. In all but the first it is tried around the view, too.
var hostileForms = []struct {
	name, role string
	args       []string
}{
	{"privileged", "answered-privileged", []string{"--privileged"}},
	{"userns", "answered-userns", []string{"--privileged", "--userns"}},
	{"plain", "plain", nil},
	{"confined-userns", "confined-userns", []string{"--userns"}},
}

// TestHostile: a guest in each form of "run" tries what it can.
func TestHostile(t *testing.T) {
	binary := kit.PublicProgram(t)
	forms := hostileForms
	if kit.Scale(t) < 1 {
		forms = hostileForms[1:3] // each takes long there: root of a user namespace, and the host's root without capabilities
	}
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) { testHostile(t, binary, form.name, form.role, form.args) })
	}
	// In the layout that the host does not have.
	h := kit.OpenHost(t)
	layout := "v1"
	if kit.OnV1(h, "memory") {
		layout = "v2"
	}
	if kit.InGuest(h) {
		return // a guest of the guest has its outer guest's layouts
	}
	for _, form := range hostileForms[1:3] {
		if kit.Scale(t) < 1 && form.name != "plain" {
			continue
		}
		t.Run(form.name+" "+layout, func(t *testing.T) {
			testHostile(t, binary, form.name+"-"+layout, form.role, append(slices.Clone(form.args), "--layout", layout))
		})
	}
}

func testHostile(t *testing.T, binary, form, role string, formArgs []string) {
	h := kit.OpenHost(t)
	policyFile := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policyFile, []byte(hostilePolicy), 0o644); err != nil {
		t.Fatal(err)
	}
	name := "hostile-" + form + "-" + strconv.Itoa(os.Getpid())
	stranger := kit.StartStranger(t)
	args := append([]string{"run", "--name", name, "--policy", policyFile}, slices.Concat(formArgs, guestLimits(h))...)
	cmd := exec.Command(kit.Program(t), append(args, "--", binary)...)
	kind := typeRight // by default run answers
	if kit.InGuest(h) {
		role, kind = strings.TrimPrefix(role, "answered-"), "" // under a listener that is there already
	}
	cmd.Env = append(os.Environ(), kit.RoleVariable+"=hostile "+role+" "+strconv.Itoa(stranger))
	cmd.Stderr = os.Stderr
	if slices.Contains(formArgs, "v1") {
		cmd.Env = append(cmd.Env, ioAsBlkio+"=1")
	}
	if form == "privileged" { // it has a directory of the host there, and what is wrong with run itself is said in the other form
		outside, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer outside.Close()
		cmd.Stderr = outside
	}
	helper := kit.StartProcess(t, cmd)
	var dirs []string
	for _, hier := range h.Hierarchies() {
		if dir := kit.HostDir(hier, "/vcgroupfs/"+name); kit.Exists(dir) || hier.Holds("memory") || hier.Holds("pids") {
			dirs = append(dirs, dir, kit.HostDir(hier, "/vcgroupfs"))
		}
	}
	n := judgeHostile(t, helper, dirs, kind, func(int) {})
	if err := cmd.Wait(); err != nil {
		t.Errorf("the guest ended with %v", err)
	}
	if n < 60 {
		t.Errorf("only %d attempts", n)
	}
	t.Logf("%d attempts", n)
}

// judgeHostile follows what the guest tries, with the host's state after each attempt, and says how many there were. between is
// called before each. kind is the type that statfs must say of the view all the time; "" is any.
func judgeHostile(t *testing.T, helper *kit.Helper, dirs []string, kind string, between func(n int)) (n int) {
	t.Helper()
	var before string
	mounts := cgroupMounts()
	for {
		line := helper.Line(t)
		if line == "end" {
			break
		}
		f := strings.Split(line, "\t")
		if len(f) != 4 {
			t.Fatalf("the guest says %q", line)
		}
		if !kit.OneOf(f[2], f[1]) {
			t.Errorf("%s: got %q, want %q", f[0], f[2], f[1])
		}
		if kind != "" && f[3] != kind {
			t.Errorf("%s: the type of the view is %s, want %s", f[0], f[3], kind)
		}
		state := hostState(dirs...)
		if before != "" && state != before && !strings.Contains(f[0], "evil") {
			t.Errorf("%s changed the host:\nbefore %s\nafter  %s", f[0], before, state)
		}
		before = state
		if now := cgroupMounts(); !slices.Equal(now, mounts) {
			t.Errorf("%s changed the host's mounts:\nbefore %q\nafter  %q", f[0], mounts, now)
			mounts = now
		}
		n++
		between(n)
		fmt.Fprintln(helper.In)
	}
	helper.In.Close()
	return n
}

// cgroupMounts are the lines of the mount table of this process that are about cgroups and views, with their options, but for those of
// another run of the tests.
func cgroupMounts() (lines []string) {
	for line := range strings.Lines(kit.MountTable()) {
		if _, of, _ := strings.Cut(line, " - "); strings.HasPrefix(of, "cgroup") || strings.HasPrefix(of, "fuse.cgroup") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestStrangers: whoever writes to a view of a guest, with the host's own pid numbers too, moves nothing into it or out of
// it that is not the guest's.
func TestStrangers(t *testing.T) {
	h := kit.OpenHost(t)
	for _, hier := range h.Hierarchies() {
		names := kit.ShownControllers(hier)
		if len(names) == 0 || hier.Holds("cpuset") && hier.Version == hierarchy.V1 {
			continue
		}
		t.Run(hier.String(), func(t *testing.T) { testStrangers(t, hier, names) })
	}
}

func testStrangers(t *testing.T, hier *host.Hierarchy, names []string) {
	parent := kit.NewBoundary(t, "strangers", hier)
	for _, dir := range []string{"/guest/a", "/guest-2", "/sibling"} {
		if err := hier.Create(parent+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	v := kit.MountView(t, "--boundary", parent+"/guest", "--controllers", strings.Join(names, ","), "--layout", kit.LayoutOf(hier))
	top := v.Top(hier)
	strangers := map[string]int{"the parent's": 0, "a sibling's": 0, "a sibling's with a longer name": 0, "the root's": 0, "the test's own": os.Getpid()}
	for who, dir := range map[string]string{"the parent's": "", "a sibling's": "/sibling", "a sibling's with a longer name": "/guest-2"} {
		pid := kit.StartSleeper(t)
		if err := hier.Attach(parent+dir, pid); err != nil {
			t.Fatal(err)
		}
		strangers[who] = pid
	}
	strangers["the root's"] = kit.StartSleeper(t)
	if os.Getpid() < 1000 { // a virtual machine, whose first processes are the test's to try
		strangers["pid 1"] = 1
	}
	want := "ESRCH"
	if hier.Version == hierarchy.V2 {
		want = "ENOENT"
	}
	for who, pid := range strangers {
		before, err := hier.PathOf(pid)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{kit.Procs, "a/" + kit.Procs, "tasks", "a/tasks"} {
			if !kit.Exists(filepath.Join(top, file)) {
				continue
			}
			if got := kit.WriteFile(filepath.Join(top, file), strconv.Itoa(pid)); got != want {
				t.Errorf("moving %s process by %s: %s, want %s", who, file, got, want)
			}
		}
		if after, err := hier.PathOf(pid); err != nil || after != before {
			t.Errorf("%s process is in %s now, was in %s (%v)", who, after, before, err)
		}
	}
	if got := kit.WriteFile(filepath.Join(top, kit.Procs), "0"); got != want {
		t.Errorf("moving oneself in from outside: %s, want %s", got, want)
	}
	for _, file := range []string{kit.Procs, "a/" + kit.Procs} {
		if got := kit.ReadFile(filepath.Join(top, file)); got != "" {
			t.Errorf("%s shows %q", file, got)
		}
	}
}
