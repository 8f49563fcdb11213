package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// bridgeControllers are what a view of layout v1 shows on a host with v2 alone, in these tests.
func bridgeControllers(h *host.Host) string {
	all := "cpu,cpuset,memory,io,pids,hugetlb,freezer,name=systemd"
	if h.Hierarchy("misc") != nil { // Linux 5.13
		all += ",misc"
	}
	return all
}

// mountBridge mounts a view of layout v1 on a new v2 boundary.
func mountBridge(t *testing.T, name string, more ...string) (hier *host.Hierarchy, path string, v *kit.View) {
	t.Helper()
	h := kit.OpenHost(t)
	hier = kit.NeedHierarchy(t, h, hierarchy.Unified)
	if kit.OnV1(h, "memory") {
		t.Skip("machine: this kernel's memory is in a v1 hierarchy")
	}
	path = kit.NewBoundary(t, name, hier)
	return hier, path, kit.MountView(t, append([]string{"--boundary", path, "--controllers", bridgeControllers(h), "--layout", "v1"}, more...)...)
}

// TestTranslateV1View: the answers that the kernel's v1 gives to the steps of TestTranslateV1 are those of a view that shows
// v1 on a host with v2 alone, through its files.
func TestTranslateV1View(t *testing.T) {
	for controller, steps := range translateSteps {
		t.Run(controller, func(t *testing.T) {
			hier, path, v := mountBridge(t, t.Name())
			top := filepath.Join(v.Dir, controller)
			for _, name := range []string{"a", "a/b", "a/c"} {
				if err := os.Mkdir(filepath.Join(top, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range steps {
				if !kit.Exists(filepath.Join(top, s.in, s.file)) {
					t.Logf("%s: not there", s.file)
					continue
				}
				s.run(t, hierarchy.V1, translated{top: top, dir: filepath.Join(top, s.in)}, true)
			}
			if kit.Exists(filepath.Join(kit.HostDir(hier, path), "a", "memory.max")) == false {
				t.Error("the host's cgroup has no controllers")
			}
		})
	}
}

// bridgeEnv is where a trace of several v1 hierarchies runs: natively, or in a view on v2.
type bridgeEnv struct {
	dirs map[string]string // the boundary, by hierarchy
	pid  int               // in the boundary, in all
	fds  map[string]int
}

func (x *bridgeEnv) at(path string) string {
	hier, rest, _ := strings.Cut(path, "/")
	return filepath.Join(x.dirs[hier], rest)
}

func (x *bridgeEnv) holds(path, file string) string {
	return strconv.FormatBool(slices.Contains(strings.Fields(kit.ReadFile(filepath.Join(x.at(path), file))), fmt.Sprint(x.pid)))
}

// dirsIn lists the directories in one.
func dirsIn(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return kit.ErrnoName(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

// bridgeStep is an operation in several hierarchies, and what the kernel's v1 answers (run here on 6.18).
type bridgeStep struct {
	name string
	want string
	do   func(x *bridgeEnv) string
}

func mk(path, want string) bridgeStep {
	return bridgeStep{"mkdir " + path, want, func(x *bridgeEnv) string { return kit.Word(unix.Mkdir(x.at(path), 0o755)) }}
}

func rm(path, want string) bridgeStep {
	return bridgeStep{"rmdir " + path, want, func(x *bridgeEnv) string { return kit.Rmdir(x.at(path)) }}
}

func ls(path, want string) bridgeStep {
	return bridgeStep{"ls " + path, want, func(x *bridgeEnv) string { return dirsIn(x.at(path)) }}
}

func put(path, value, want string) bridgeStep {
	return bridgeStep{"echo " + value + " > " + path, want, func(x *bridgeEnv) string { return kit.WriteFile(x.at(path), value) }}
}

func cat(path, want string) bridgeStep {
	return bridgeStep{"cat " + path, want, func(x *bridgeEnv) string { return strings.TrimSuffix(kit.ReadFile(x.at(path)), "\n") }}
}

// enter moves the process.
func enter(path, want string) bridgeStep {
	return bridgeStep{"move to " + path, want, func(x *bridgeEnv) string { return kit.WriteFile(x.at(path), fmt.Sprint(x.pid)) }}
}

// isIn says whether the process is in a directory.
func isIn(path, want string) bridgeStep {
	dir, file := filepath.Split(path)
	return bridgeStep{"is the process in " + path, want, func(x *bridgeEnv) string { return x.holds(dir, file) }}
}

func links(path, want string) bridgeStep {
	return bridgeStep{"links of " + path, want, func(x *bridgeEnv) string {
		var st unix.Stat_t
		if err := unix.Stat(x.at(path), &st); err != nil {
			return kit.ErrnoName(err)
		}
		return fmt.Sprint(st.Nlink)
	}}
}

// there says whether a file exists.
func there(path, want string) bridgeStep {
	return bridgeStep{"is there " + path, want, func(x *bridgeEnv) string { return strconv.FormatBool(kit.Exists(x.at(path))) }}
}

// open keeps a file or directory open.
func open(path, as string) bridgeStep {
	return bridgeStep{"open " + path + " as " + as, "ok", func(x *bridgeEnv) (word string) {
		x.fds[as], word = openWord(x.at(path))
		return word
	}}
}

func openWord(path string) (int, string) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, kit.Word(err)
}

func readOpen(as, want string) bridgeStep {
	return bridgeStep{"read the open file " + as, want, func(x *bridgeEnv) string {
		buf := make([]byte, 4096)
		n, err := unix.Pread(x.fds[as], buf, 0)
		if err != nil {
			return kit.ErrnoName(err)
		}
		return strings.TrimSuffix(string(buf[:n]), "\n")
	}}
}

func statText(path, want string) bridgeStep {
	return bridgeStep{"stat " + path, want, func(x *bridgeEnv) string {
		var st unix.Stat_t
		if err := unix.Stat(x.at(path), &st); err != nil {
			return kit.ErrnoName(err)
		}
		return fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	}}
}

func chown(path string, id int) bridgeStep {
	return bridgeStep{fmt.Sprint("chown ", id, " ", path), "ok", func(x *bridgeEnv) string { return kit.Word(os.Chown(x.at(path), id, id)) }}
}

func as(uid int, s bridgeStep) bridgeStep {
	do := s.do
	s.do = func(x *bridgeEnv) (got string) {
		kit.AsUser(uid, func() { got = do(x) })
		return got
	}
	s.name += fmt.Sprint(" as user ", uid)
	return s
}

const (
	kib64  = "65536"
	no     = "false"
	yes    = "true"
	gone   = "ENOENT"
	nolim  = "9223372036854771712"
	asRoot = "0:0"
)

// bridgeSteps are those of the structure: a directory is made, removed and listed in each hierarchy by itself, with what it
// holds. Where hierarchies share one tree the process can be in one place alone, so no step asks where a move in one
// hierarchy has left it in another one that has the directory, too.
var bridgeSteps = []bridgeStep{
	ls("memory", ""), ls("pids", ""), links("memory", "2"),
	mk("memory/x", "ok"), mk("memory/x", "EEXIST"), ls("memory", "x"), links("memory", "3"),
	ls("pids", ""), ls("pids/x", gone), links("pids", "2"), mk("pids/x/y", gone),
	mk("memory/x/y", "ok"), ls("memory/x", "y"), rm("memory/x", "EBUSY"), mk("pids/x", "ok"), mk("pids/x", "EEXIST"), ls("pids/x", ""),
	links("pids/x", "2"), links("memory/x", "3"),
	rm("pids/x", "ok"), rm("pids/x", gone), ls("pids", ""), ls("memory/x", "y"),
	mk("pids/x", "ok"), mk("pids/x/y", "ok"), rm("memory/x/y", "ok"), ls("memory/x", ""), ls("pids/x", "y"), rm("memory/x", "ok"),
	ls("memory", ""), ls("pids", "x"), rm("pids/x/y", "ok"), rm("pids/x", "ok"), ls("pids", ""),

	// What a directory is called.
	mk("memory/tasks", "EEXIST"), mk("memory/memory.limit_in_bytes", "EEXIST"), mk("memory/..", "EEXIST"), mk("memory/a b", "ok"),
	rm("memory/a b", "ok"), rm("memory/nothing", gone), rm("memory/tasks", "ENOTDIR"), mk("memory/nothing/x", gone),

	// Which files it has.
	mk("memory/x", "ok"), mk("pids/x", "ok"), there("memory/x/memory.limit_in_bytes", yes), there("memory/x/pids.max", no),
	there("pids/x/pids.max", yes), there("pids/x/memory.limit_in_bytes", no), there("memory/x/memory.max", no),
	there("memory/x/cgroup.controllers", no), there("memory/x/tasks", yes), there("memory/x/cgroup.procs", yes),
	there("memory/x/notify_on_release", yes), there("pids/x/cgroup.clone_children", yes), there("memory/x/release_agent", no),
	statText("memory/x", "40755 "+asRoot), statText("memory/x/tasks", "100644 "+asRoot), statText("pids/x/pids.current", "100444 "+asRoot),
	statText("memory/x/memory.force_empty", "100200 "+asRoot), statText("memory/x/memory.limit_in_bytes", "100644 "+asRoot),

	// Limits belong to a directory of a hierarchy, and go with it.
	put("memory/x/memory.limit_in_bytes", kib64, "ok"), put("pids/x/pids.max", "7", "ok"), rm("memory/x", "ok"), cat("pids/x/pids.max", "7"),
	mk("memory/x", "ok"), cat("memory/x/memory.limit_in_bytes", nolim), rm("pids/x", "ok"), mk("pids/x", "ok"), cat("pids/x/pids.max", "max"),
	put("memory/x/memory.soft_limit_in_bytes", kib64, "ok"), put("memory/x/memory.swappiness", "7", "ok"), mk("memory/x/y", "ok"),
	cat("memory/x/y/memory.swappiness", "7"), rm("memory/x/y", "ok"), rm("memory/x", "ok"), mk("memory/x", "ok"),
	cat("memory/x/memory.soft_limit_in_bytes", nolim), cat("memory/x/memory.swappiness", "60"),

	// What is open of a removed directory is not of the one in its place.
	open("memory/x/memory.limit_in_bytes", "limit"), open("memory/x/tasks", "tasks"), readOpen("limit", nolim), rm("memory/x", "ok"),
	readOpen("limit", "ENODEV"), readOpen("tasks", "ENODEV"), mk("memory/x", "ok"), readOpen("limit", "ENODEV"), readOpen("tasks", "ENODEV"),
	cat("memory/x/memory.limit_in_bytes", nolim),

	// Owners are those of a hierarchy.
	chown("memory/x", 1000), statText("memory/x", "40755 1000:1000"), statText("pids/x", "40755 "+asRoot),
	as(1000, mk("memory/x/own", "ok")), as(1000, mk("pids/x/own", "EACCES")), statText("memory/x/own", "40755 1000:1000"),
	statText("memory/x/own/memory.limit_in_bytes", "100644 1000:1000"), as(1000, put("memory/x/own/memory.limit_in_bytes", kib64, "ok")),
	as(1000, put("memory/x/memory.limit_in_bytes", kib64, "EACCES")), chown("memory/x/memory.limit_in_bytes", 1000),
	as(1000, put("memory/x/memory.limit_in_bytes", "64M", "ok")), statText("memory/x/memory.soft_limit_in_bytes", "100644 "+asRoot),
	as(1000, rm("memory/x/own", "ok")), rm("memory/x", "ok"), mk("memory/x", "ok"), statText("memory/x", "40755 "+asRoot),
	statText("memory/x/memory.limit_in_bytes", "100644 "+asRoot),

	// Flags of a directory are copied to its children, in one hierarchy.
	put("memory/x/notify_on_release", "1", "ok"), cat("memory/x/notify_on_release", "1"), cat("pids/x/notify_on_release", "0"),
	mk("memory/x/y", "ok"), cat("memory/x/y/notify_on_release", "1"), rm("memory/x/y", "ok"), rm("memory/x", "ok"), rm("pids/x", "ok"),

	// A process is in a directory and in none below or beside.
	mk("memory/x", "ok"), mk("memory/x/y", "ok"), mk("memory/z", "ok"), isIn("memory/tasks", yes), isIn("pids/tasks", yes), isIn("memory/cgroup.procs", yes),
	enter("memory/x/tasks", "ok"), isIn("memory/x/tasks", yes), isIn("memory/x/cgroup.procs", yes), isIn("memory/tasks", no), isIn("memory/x/y/tasks", no),
	isIn("pids/tasks", yes), enter("pids/tasks", "ok"), isIn("memory/x/tasks", yes), rm("memory/x", "EBUSY"), rm("memory/x/y", "ok"),
	rm("memory/x", "EBUSY"), mk("memory/x/y", "ok"), isIn("memory/x/tasks", yes), enter("memory/x/y/cgroup.procs", "ok"), isIn("memory/x/y/tasks", yes),
	isIn("memory/x/tasks", no), isIn("pids/tasks", yes), enter("memory/z/tasks", "ok"), isIn("memory/z/tasks", yes), isIn("memory/x/y/tasks", no),
	mk("memory/z/deep", "ok"), isIn("memory/z/tasks", yes), isIn("memory/z/deep/tasks", no), put("memory/z/memory.limit_in_bytes", "64M", "ok"),
	cat("memory/z/deep/memory.limit_in_bytes", nolim), enter("memory/z/tasks", "ok"), enter("memory/tasks", "ok"), isIn("memory/tasks", yes),
	isIn("memory/z/tasks", no), rm("memory/z/deep", "ok"), rm("memory/z", "ok"), rm("memory/x/y", "ok"), rm("memory/x", "ok"),
	mk("memory/x", "ok"), put("memory/x/tasks", "0x", "EINVAL"), put("memory/x/tasks", "-1", "EINVAL"), put("memory/x/tasks", "", "ok"),
	put("memory/x/tasks", "4194304", "ESRCH"), put("memory/x/cgroup.procs", "4194304", "ESRCH"), put("memory/x/tasks", "99999999999", "EINVAL"),
	as(1000, enter("memory/x/tasks", "EACCES")),

	// It is frozen where it is, also with children beside it.
	mk("freezer/f", "ok"), mk("freezer/f/g", "ok"), enter("freezer/f/tasks", "ok"), put("freezer/f/freezer.state", "FROZEN", "ok"),
	bridgeStep{"the frozen process does not run", "FROZEN", func(x *bridgeEnv) string {
		state := func() string { return strings.TrimSpace(kit.ReadFile(x.at("freezer/f/freezer.state"))) }
		for deadline := time.Now().Add(kit.Patience); state() == "FREEZING" && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		return state()
	}},
	cat("freezer/f/g/freezer.state", "FROZEN"), cat("freezer/f/g/freezer.self_freezing", "0"), put("freezer/f/freezer.state", "THAWED", "ok"),
	cat("freezer/f/freezer.state", "THAWED"), enter("freezer/tasks", "ok"), rm("freezer/f/g", "ok"), rm("freezer/f", "ok"), rm("memory/x", "ok"),
	ls("memory", ""), ls("pids", ""), ls("freezer", ""),
}

// TestBridgeStructure: a trace of several v1 hierarchies has the kernel's answers in a view that shows them on one v2 tree.
func TestBridgeStructure(t *testing.T) {
	x := &bridgeEnv{dirs: map[string]string{}, fds: map[string]int{}}
	h := kit.OpenHost(t)
	names := []string{"memory", "pids", "freezer"}
	x.pid = kit.StartSleeper(t)
	if kit.OnV1(h, "memory") {
		for _, name := range names {
			hier := kit.NeedHierarchy(t, h, name)
			path := kit.NewBoundary(t, t.Name(), hier)
			if err := hier.Attach(path, x.pid); err != nil {
				t.Fatal(err)
			}
			x.dirs[name] = kit.HostDir(hier, path)
		}
	} else {
		hier, path, v := mountBridge(t, t.Name())
		if err := hier.Attach(path, x.pid); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			x.dirs[name] = filepath.Join(v.Dir, name)
		}
	}
	for i, s := range bridgeSteps {
		if got := s.do(x); got != s.want {
			t.Errorf("step %d: %s: %s, want %s", i, s.name, got, s.want)
		}
	}
	for _, fd := range x.fds {
		unix.Close(fd)
	}
}

// lentControllers are what a view of layout v2 shows on this host, whose v1 hierarchies lend them.
const lentControllers = "cpu,cpuset,memory,pids"

// mountLent mounts a view of layout v2 on new boundaries in v1 hierarchies and in the v2 one.
func mountLent(t *testing.T, name string, more ...string) (hiers map[string]*host.Hierarchy, path string, v *kit.View) {
	t.Helper()
	h := kit.OpenHost(t)
	if !kit.OnV1(h, "memory") {
		t.Skip("machine: this kernel's memory is in its v2 hierarchy")
	}
	hiers = map[string]*host.Hierarchy{}
	var all []*host.Hierarchy
	for _, c := range append(strings.Split(lentControllers, ","), hierarchy.Unified) {
		hiers[c] = kit.NeedHierarchy(t, h, c)
		if !slices.Contains(all, hiers[c]) {
			all = append(all, hiers[c])
		}
	}
	path = kit.NewBoundary(t, name, all...)
	return hiers, path, kit.MountView(t, append([]string{"--boundary", path, "--controllers", lentControllers, "--layout", "v2"}, more...)...)
}

// TestTranslateV2View: the answers that the kernel's v2 gives to the steps of TestTranslateV2 are those of a view that shows
// v2 on a host with v1 hierarchies, through its files.
func TestTranslateV2View(t *testing.T) {
	for controller, steps := range translateV2Steps {
		t.Run(controller, func(t *testing.T) {
			_, _, v := mountLent(t, t.Name())
			if controller == "io" {
				t.Skip("machine: blkio is not shown, because its limits hold for no cgroup below")
			}
			if controller != "freezer" {
				if word := kit.WriteFile(filepath.Join(v.Dir, subtreeControl), "+"+controller); word != "ok" {
					t.Fatal(word)
				}
			}
			for _, name := range []string{"a", "a/b", "a/c"} {
				if err := os.Mkdir(filepath.Join(v.Dir, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if controller != "freezer" {
				if word := kit.WriteFile(filepath.Join(v.Dir, "a", subtreeControl), "+"+controller); word != "ok" {
					t.Fatal(word)
				}
			}
			for _, s := range steps {
				if !kit.Exists(filepath.Join(v.Dir, s.in, s.file)) {
					t.Logf("%s: not there", s.file)
					continue
				}
				s.run(t, hierarchy.V2, translated{top: v.Dir, dir: filepath.Join(v.Dir, s.in)}, true)
			}
		})
	}
}

const subtreeControl = "cgroup.subtree_control"

// lentSteps are those of a v2 tree: which controllers and files a directory has, and where a process may be. The kernel's v2
// gives these answers (run on 6.12), and a view that has the controllers from v1 hierarchies. "g" is the boundary, which is no
// root natively: so no step enables a controller there beside tasks.
var lentSteps = []bridgeStep{
	put("g/cgroup.subtree_control", "+memory +pids", "ok"), cat("g/cgroup.subtree_control", "memory pids"),
	put("g/cgroup.subtree_control", "+nothing", "EINVAL"), put("g/cgroup.subtree_control", "memory", "EINVAL"),
	put("g/cgroup.subtree_control", "+memory", "ok"), put("g/cgroup.subtree_control", "+memory -memory +memory", "ok"),
	mk("g/x", "ok"), cat("g/x/cgroup.controllers", "memory pids"), cat("g/x/cgroup.subtree_control", ""), there("g/x/memory.max", yes),
	there("g/x/pids.max", yes), there("g/x/cpu.max", no), there("g/x/memory.limit_in_bytes", no), there("g/x/tasks", no),
	there("g/x/cpu.stat", yes), put("g/x/cgroup.subtree_control", "+cpu", gone), put("g/x/cgroup.subtree_control", "-cpu", "ok"),
	statText("g/x/memory.max", "100644 "+asRoot), statText("g/x/memory.current", "100444 "+asRoot), statText("g/x", "40755 "+asRoot),
	links("g", "3"), mk("g/x", "EEXIST"), mk("g/x/y", "ok"), there("g/x/y/memory.max", no), cat("g/x/y/cgroup.controllers", ""),
	put("g/x/cgroup.subtree_control", "+pids", "ok"), there("g/x/y/pids.max", yes), there("g/x/y/memory.max", no),
	put("g/cgroup.subtree_control", "-pids", "EBUSY"), put("g/cgroup.subtree_control", "-memory", "ok"), there("g/x/memory.max", no),
	put("g/cgroup.subtree_control", "+memory", "ok"), put("g/x/memory.max", "64M", "ok"), open("g/x/memory.max", "limit"),
	readOpen("limit", "67108864"), put("g/cgroup.subtree_control", "-memory", "ok"), readOpen("limit", "ENODEV"), there("g/x/memory.max", no),
	put("g/cgroup.subtree_control", "+memory", "ok"), cat("g/x/memory.max", "max"), readOpen("limit", "ENODEV"),
	put("g/x/memory.max", "64M", "ok"), put("g/x/y/pids.max", "7", "ok"), put("g/x/cgroup.subtree_control", "+memory", "ok"),
	there("g/x/y/memory.max", yes),

	// A process.
	enter("g/x/cgroup.procs", "EBUSY"), enter("g/x/y/cgroup.procs", "ok"), isIn("g/x/y/cgroup.procs", yes), isIn("g/x/cgroup.procs", no),
	cat("g/x/pids.current", "1"), cat("g/x/y/pids.current", "1"), cat("g/x/cgroup.events", "populated 1\nfrozen 0"),
	rm("g/x/y", "EBUSY"), put("g/x/y/cgroup.subtree_control", "+cpu", gone),
	put("g/x/y/cgroup.subtree_control", "+memory", "EBUSY"),
	put("g/x/y/cgroup.freeze", "1", "ok"), put("g/x/y/cgroup.freeze", "0", "ok"), mk("g/x/y/z", "ok"), enter("g/x/y/z/cgroup.procs", "ok"),
	isIn("g/x/y/cgroup.procs", no), isIn("g/x/y/z/cgroup.procs", yes), rm("g/x/y/z", "EBUSY"), put("g/x/y/cgroup.procs", "4194304", "ESRCH"),
	put("g/x/y/cgroup.procs", "x", "EINVAL"), enter("g/x/y/cgroup.procs", "ok"), rm("g/x/y/z", "ok"), rm("g/x/y/z", gone),
	mk("g/o", "ok"), enter("g/o/cgroup.procs", "ok"), cat("g/x/cgroup.events", "populated 0\nfrozen 0"), cat("g/x/pids.current", "0"),
	put("g/x/cgroup.subtree_control", "-memory -pids", "ok"), rm("g/x/y", "ok"), enter("g/x/cgroup.procs", "ok"),
	put("g/x/cgroup.subtree_control", "+memory", "EBUSY"), enter("g/o/cgroup.procs", "ok"), rm("g/x", "ok"), ls("g", "o"),
	mk("g/x", "ok"), cat("g/x/memory.max", "max"), readOpen("limit", "ENODEV"), rm("g/x", "ok"),

	// Owners.
	chown("g/o", 1000), as(1000, mk("g/o/mine", "ok")), statText("g/o/mine/cgroup.procs", "100644 1000:1000"),
	as(1000, mk("g/other", "EACCES")), chown("g/o/cgroup.subtree_control", 1000), rm("g/o/mine", "ok"),
	as(1000, put("g/o/memory.max", "64M", "EACCES")), chown("g/o/memory.max", 1000), as(1000, put("g/o/memory.max", "64M", "ok")),
	cat("g/o/memory.max", "67108864"), mk("g/own", "ok"), chown("g/own", 1000), chown("g/own/cgroup.subtree_control", 1000),
	as(1000, mk("g/own/sub", "ok")), as(1000, put("g/own/cgroup.subtree_control", "+memory", "ok")),
	statText("g/own/sub/memory.max", "100644 1000:1000"), as(1000, put("g/own/sub/memory.max", "64M", "ok")),
	as(1000, mk("g/own/later", "ok")), statText("g/own/later/memory.max", "100644 1000:1000"),
	statText("g/own/later/cgroup.procs", "100644 1000:1000"), chown("g/own/sub/memory.max", 1001),
	statText("g/own/sub/memory.max", "100644 1001:1001"), as(1000, put("g/own/cgroup.subtree_control", "-memory", "ok")),
	as(1000, put("g/own/cgroup.subtree_control", "+memory", "ok")), statText("g/own/sub/memory.max", "100644 1000:1000"),
	as(1000, rm("g/own/sub", "ok")), as(1000, rm("g/own/later", "ok")), rm("g/own", "ok"), chown("g/o/memory.swap.max", 1000),
	put("g/cgroup.subtree_control", "-memory", "ok"), put("g/cgroup.subtree_control", "+memory", "ok"),
	statText("g/o/memory.swap.max", "100644 "+asRoot), statText("g/o/memory.max", "100644 "+asRoot),

	// Killing.
	put("g/o/cgroup.kill", "1", "ok"),
	bridgeStep{"it is empty", "populated 0\nfrozen 0", func(x *bridgeEnv) string {
		events := func() string { return strings.TrimSpace(kit.ReadFile(x.at("g/o/cgroup.events"))) }
		for deadline := time.Now().Add(kit.Patience); strings.HasPrefix(events(), "populated 1") && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		return events()
	}},
	rm("g/o", "ok"), ls("g", ""),
}

// TestLentStructure: a trace of a v2 tree has the kernel's answers in a view whose controllers are those of v1 hierarchies.
func TestLentStructure(t *testing.T) {
	x := &bridgeEnv{dirs: map[string]string{}, fds: map[string]int{}}
	h := kit.OpenHost(t)
	x.pid = kit.StartSleeper(t)
	if kit.OnV1(h, "memory") {
		hiers, path, v := mountLent(t, t.Name())
		for _, hier := range hiers {
			if err := hier.Attach(path, x.pid); err != nil {
				t.Fatal(err)
			}
		}
		x.dirs["g"] = v.Dir
	} else {
		hier := kit.NeedHierarchy(t, h, hierarchy.Unified)
		path := kit.NewBoundary(t, t.Name(), hier)
		if err := hier.Enable(path, "memory", "pids"); err != nil {
			t.Fatal(err)
		}
		// Beside tasks no controller could be enabled.
		start := filepath.Join(kit.HostDir(hier, path), "g")
		if err := os.Mkdir(start, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := hier.Enable(path+"/g", "memory", "pids"); err != nil {
			t.Fatal(err)
		}
		x.dirs["g"] = start
	}
	for i, s := range lentSteps {
		if got := s.do(x); got != s.want {
			t.Errorf("step %d: %s: %s, want %s", i, s.name, got, s.want)
		}
	}
	for _, fd := range x.fds {
		unix.Close(fd)
	}
}

// TestBridgeMixed: where the host has some controllers in v1 hierarchies and others in its v2 one, a view of layout v1 shows
// all: the first as they are, the others translated.
func TestBridgeMixed(t *testing.T) {
	h := kit.OpenHost(t)
	unified := kit.NeedHierarchy(t, h, hierarchy.Unified)
	if !kit.OnV1(h, "pids") || !slices.Contains(unified.Controllers, "hugetlb") {
		t.Skip("machine: this host's controllers are all in hierarchies of one version")
	}
	pids := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, t.Name(), pids, unified)
	v := kit.MountView(t, "--boundary", path, "--controllers", "pids,hugetlb,name=one", "--layout", "v1")
	pid := kit.StartSleeper(t)
	for _, hier := range []*host.Hierarchy{pids, unified} {
		if err := hier.Attach(path, pid); err != nil {
			t.Fatal(err)
		}
	}
	if got := dirsIn(v.Dir); got != "hugetlb one pids" {
		t.Errorf("the view's top has %q", got)
	}
	for _, dir := range []string{"pids/a", "hugetlb/a", "one/b"} {
		if word := kit.Word(unix.Mkdir(filepath.Join(v.Dir, dir), 0o755)); word != "ok" {
			t.Fatal(dir, word)
		}
	}
	for _, w := range []struct{ file, value, host string }{
		{"pids/a/pids.max", "7", kit.HostDir(pids, path) + "/a/pids.max"},
		{"hugetlb/a/hugetlb.2MB.limit_in_bytes", "2097152", kit.HostDir(unified, path) + "/a/hugetlb.2MB.max"},
		{"pids/a/tasks", fmt.Sprint(pid), kit.HostDir(pids, path) + "/a/cgroup.procs"},
		{"one/b/tasks", fmt.Sprint(pid), kit.HostDir(unified, path) + "/b/cgroup.procs"},
	} {
		if word := kit.WriteFile(filepath.Join(v.Dir, w.file), w.value); word != "ok" {
			t.Errorf("%s: %s", w.file, word)
		}
		if got := strings.TrimSpace(kit.ReadFile(w.host)); got != w.value {
			t.Errorf("%s is %q, want %q", w.host, got, w.value)
		}
	}
	for file, want := range map[string]string{"pids/tasks": "", "pids/a/tasks": fmt.Sprint(pid, "\n"), "hugetlb/tasks": fmt.Sprint(pid, "\n"), "hugetlb/a/tasks": "", "one/b/tasks": fmt.Sprint(pid, "\n")} {
		if got := kit.ReadFile(filepath.Join(v.Dir, file)); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}
