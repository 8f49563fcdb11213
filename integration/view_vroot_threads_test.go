package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// rootDir is the root of a v2 hierarchy, of the host or of a guest, and a process in it.
type rootDir struct {
	dir, pid string
}

func (x rootDir) at(file string) string { return filepath.Join(x.dir, kit.Prefix+file) }

func (x rootDir) mkdir(name string) string { return kit.Word(os.Mkdir(x.at(name), 0o755)) + " " }

func (x rootDir) moveTo(name string) string {
	return kit.WriteFile(filepath.Join(x.dir, name, kit.Procs), x.pid) + " "
}
func (x rootDir) control(text string) string {
	return kit.WriteFile(filepath.Join(x.dir, "cgroup.subtree_control"), text)
}

// threaded makes a cgroup below the root, threaded.
func (x rootDir) threaded(name string) string {
	return x.mkdir(name) + kit.WriteFile(x.at(name+"/cgroup.type"), "threaded") + " " + kit.ReadFile(x.at(name+"/cgroup.type"))
}

// rootThreads are threaded cgroups directly below a root whose processes stay in it.
var rootThreads = []struct {
	name   string
	do     func(x rootDir) string
	native string
	view   string // "" for the same; docs/divergences.md says why another
}{
	{"a threaded child", func(x rootDir) string { return x.threaded("th") }, "ok ok threaded\n", ""},
	{"threaded controllers over processes", func(x rootDir) string { return x.control("+cpu +pids") }, "ok", ""},
	{"a move to the root", func(x rootDir) string { return x.moveTo("") }, "ok ", ""},
	{"to the threaded child and back", func(x rootDir) string {
		return x.moveTo(kit.Prefix+"th") + kit.ReadFile(x.at("th/cgroup.threads")) + x.moveTo("")
	}, "ok PID\nok ", ""},
	{"a domain controller", func(x rootDir) string { return x.control("+memory") }, "ok", "EOPNOTSUPP"},
	{"a domain with a process", func(x rootDir) string {
		return x.mkdir("d") + x.moveTo(kit.Prefix+"d") + x.moveTo("") + kit.Rmdir(x.at("d"))
	}, "ok ok ok ok", "ok EOPNOTSUPP ok ok"},
	{"the end of the threaded child", func(x rootDir) string { return kit.Rmdir(x.at("th")) }, "ok", ""},
}

// threadsHost skips a test where the v2 hierarchy does not tell threads apart.
func threadsHost(t *testing.T) (*host.Host, *host.Hierarchy) {
	t.Helper()
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, hierarchy.Unified)
	if !hier.Holds("cpu") || !hier.Holds("pids") || !hier.Holds("memory") {
		t.Skip("machine: the v2 tree has not cpu, pids and memory")
	}
	return h, hier
}

// TestRootThreads: the guest's root has threaded children as a real one does, but for two differences.
func TestRootThreads(t *testing.T) {
	_, hier := threadsHost(t)
	path := kit.NewBoundary(t, "root-threads", hier)
	v := kit.MountView(t, "--boundary", path, "--controllers", strings.Join(kit.ShownControllers(hier), ","), "--layout", "v2")
	native, guest := rootDir{hier.Mountpoint, strconv.Itoa(kit.StartSleeper(t))}, rootDir{v.Dir, strconv.Itoa(kit.StartSleeper(t))}
	if got := kit.WriteFile(filepath.Join(kit.HostDir(hier, path), kit.Procs), guest.pid); got != "ok" {
		t.Fatal(got)
	}
	for _, s := range rootThreads {
		want := s.view
		if want == "" {
			want = s.native
		}
		if got := strings.ReplaceAll(s.do(native), native.pid, "PID"); got != s.native {
			t.Errorf("%s: natively %q, not %q", s.name, got, s.native)
		}
		if got := strings.ReplaceAll(s.do(guest), guest.pid, "PID"); got != want {
			t.Errorf("%s: in a view %q, not %q", s.name, got, want)
		}
	}
	for _, name := range []string{"d", "th"} { // of a step that failed
		os.Remove(native.at(name))
	}
	testRootThreadsLate(t, guest)
}

// rootThreadsLate is what a guest's root does when controllers were enabled before, over processes that then went to the
// leaf. It takes them back for a threaded child once no controller is enabled.
var rootThreadsLate = []struct {
	name string
	do   func(x rootDir) string
	want string
}{
	{"disabling", func(x rootDir) string { return x.control("-cpu -pids") }, "ok"},
	{"enabling over processes", func(x rootDir) string { return x.control("+memory +cpu") }, "ok"},
	{"a threaded child beside the leaf", func(x rootDir) string { return x.threaded("late") }, "ok EOPNOTSUPP domain\n"},
	{"disabling again", func(x rootDir) string { return x.control("-memory -cpu") }, "ok"},
	{"a threaded child", func(x rootDir) string { return x.threaded("th") }, "ok ok threaded\n"},
	{"a move to the root", func(x rootDir) string { return x.moveTo("") }, "ok "},
	{"threaded controllers", func(x rootDir) string { return x.control("+cpu") }, "ok"},
	{"the end of threads", func(x rootDir) string {
		return x.control("-cpu") + kit.Rmdir(x.at("th")) + kit.Rmdir(x.at("late"))
	}, "okokok"},
	{"domains as before", func(x rootDir) string {
		return x.mkdir("d") + x.control("+memory") + " " + x.moveTo(kit.Prefix+"d") + x.moveTo("") + kit.Rmdir(x.at("d"))
	}, "ok ok ok ok ok"},
}

func testRootThreadsLate(t *testing.T, x rootDir) {
	for _, s := range rootThreadsLate {
		if got := s.do(x); got != s.want {
			t.Errorf("%s: %q, not %q", s.name, got, s.want)
		}
		if members := strings.Fields(kit.ReadFile(filepath.Join(x.dir, kit.Procs))); !slices.Contains(members, x.pid) {
			t.Errorf("%s: the root shows %v", s.name, members)
		}
	}
}

// TestThreadedBoundary: a boundary that the host made threaded holds processes and enables threaded controllers.
func TestThreadedBoundary(t *testing.T) {
	_, hier := threadsHost(t)
	parent := kit.NewBoundary(t, "threaded", hier)
	path := parent + "/b"
	if err := hier.Create(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, w := range [][3]string{{parent, "cgroup.subtree_control", "+cpu +pids"}, {path, "cgroup.type", "threaded"}} {
		if err := hier.WriteFile(w[0], w[1], w[2]); err != nil {
			t.Fatal(err)
		}
	}
	pid := kit.StartSleeper(t)
	if err := hier.Attach(path, pid); err != nil {
		t.Fatal(err)
	}
	v := kit.MountView(t, "--boundary", path, "--controllers", "cpu,pids,unified", "--layout", "v2")
	x := rootDir{v.Dir, strconv.Itoa(pid)}
	got := x.control("+pids") + x.threaded("th") + x.moveTo(kit.Prefix+"th") + x.moveTo("") + kit.Rmdir(x.at("th"))
	if got != "okok ok threaded\nok ok ok" {
		t.Errorf("got %q", got)
	}
}
