package integration

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// lentGuest is a guest with a v2 tree whose controllers are those of v1 hierarchies.
type lentGuest struct {
	t     *testing.T
	hiers map[string]*host.Hierarchy
	path  string // the boundary
	view  string
}

// newLentBoundary makes a boundary in all hierarchies of such a guest.
func newLentBoundary(t *testing.T) *lentGuest {
	t.Helper()
	h := kit.OpenHost(t)
	if !kit.OnV1(h, "memory") {
		t.Skip("machine: this kernel's memory is in its v2 hierarchy")
	}
	g := &lentGuest{t: t, hiers: map[string]*host.Hierarchy{}}
	var all []*host.Hierarchy
	for _, c := range append(strings.Split(lentControllers, ","), hierarchy.Unified) {
		g.hiers[c] = kit.NeedHierarchy(t, h, c)
		if !slices.Contains(all, g.hiers[c]) {
			all = append(all, g.hiers[c])
		}
	}
	g.path = kit.NewBoundary(t, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()), all...)
	return g
}

func (g *lentGuest) at(path string) string { return filepath.Join(g.view, path) }

// real is the host's directory of a hierarchy.
func (g *lentGuest) real(hier, path string) string {
	return filepath.Join(kit.HostDir(g.hiers[hier], g.path), path)
}

// everywhere says in which hierarchies a directory is: "all", "none", or their names.
func (g *lentGuest) everywhere(path string) string {
	var names []string
	for name := range g.hiers {
		if kit.Exists(g.real(name, path)) {
			names = append(names, name)
		}
	}
	switch len(names) {
	case 0:
		return "none"
	case len(g.hiers):
		return "all"
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// placeOf says where a process is: its path from the boundary if that is the same in all hierarchies.
func (g *lentGuest) placeOf(pid int) string {
	places := map[string]bool{}
	for _, hier := range g.hiers {
		at, err := hier.PathOf(pid)
		if err != nil {
			return kit.ErrnoName(err)
		}
		places[strings.TrimSuffix(strings.TrimPrefix(at, g.path), "/"+hierarchy.LeafName)] = true
	}
	return strings.Join(slices.Sorted(mapKeys(places)), " and ")
}

func mapKeys(m map[string]bool) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (g *lentGuest) attach(pid int) {
	g.t.Helper()
	for _, hier := range g.hiers {
		if err := hier.Attach(g.path, pid); err != nil {
			g.t.Fatal(err)
		}
	}
}

func (g *lentGuest) must(word string) {
	g.t.Helper()
	if word != "ok" {
		g.t.Fatal(word)
	}
}

// moveByShell has a shell write a number to a file, and end: "ok", the errno of an aborted request, or what the shell says.
func moveByShell(pid int, file string) string {
	said, err := exec.Command("sh", "-c", fmt.Sprintf("echo %d >%s", pid, file)).CombinedOutput()
	switch {
	case err == nil:
		return "ok"
	case strings.Contains(strings.ToLower(string(said)), unix.ECONNABORTED.Error()):
		return "ECONNABORTED"
	}
	return string(said)
}

// TestLentFailPoints kills the worker at each point between the host's changes that one request of such a guest makes, and
// at the same one again in the next worker: the request succeeds, and all hierarchies agree. Before Linux 6.9 it is done, too,
// though its caller has been told that it was aborted.
func TestLentFailPoints(t *testing.T) {
	type op struct {
		name, points string
		prepare      func(g *lentGuest)
		do           func(g *lentGuest) string
		state, want  func(g *lentGuest) string
	}
	var pid int
	is := func(s string) func(*lentGuest) string { return func(*lentGuest) string { return s } }
	enter := func(g *lentGuest) {
		g.must(kit.WriteFile(g.at(subtreeControl), "+memory +pids +cpu"))
		g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	}
	limits := func(g *lentGuest) string {
		return fmt.Sprint(strings.Fields(kit.ReadFile(g.real("memory", "a/memory.limit_in_bytes")) + kit.ReadFile(g.real("memory", "a/memory.memsw.limit_in_bytes"))))
	}
	for _, o := range []op{
		{name: "mkdir", points: "mkdir-begun lent-mkdir:4 mkdir-made mkdir-done",
			do:    func(g *lentGuest) string { return kit.Word(unix.Mkdir(g.at("a"), 0o755)) },
			state: func(g *lentGuest) string { return g.everywhere("a") }, want: is("all")},
		{name: "rmdir", points: "rmdir-begun lent-rmdir:4 rmdir-made rmdir-done",
			prepare: func(g *lentGuest) { g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755))) },
			do:      func(g *lentGuest) string { return kit.Word(unix.Rmdir(g.at("a"))) },
			state:   func(g *lentGuest) string { return g.everywhere("a") }, want: is("none")},
		{name: "move", points: "write-begun lent-own-moved:2 lent-moved:4 write-made write-done",
			prepare: func(g *lentGuest) { enter(g); pid = kit.StartSleeper(t); g.attach(pid) },
			do:      func(g *lentGuest) string { return kit.WriteFile(g.at("a/cgroup.procs"), fmt.Sprint(pid)) },
			state:   func(g *lentGuest) string { return g.placeOf(pid) }, want: is("/a")},
		// Where the caller is told that it was aborted it has ended when that is done.
		{name: "move by a shell", points: "lent-own-moved:2 lent-moved:2 write-made",
			prepare: func(g *lentGuest) { enter(g); pid = kit.StartSleeper(t); g.attach(pid) },
			do:      func(g *lentGuest) string { return moveByShell(pid, g.at("a/cgroup.procs")) },
			state:   func(g *lentGuest) string { return g.placeOf(pid) }, want: is("/a")},
		{name: "move to the root by a shell", points: "lent-own-moved:1 lent-moved:2",
			prepare: func(g *lentGuest) {
				enter(g)
				pid = kit.StartSleeper(t)
				g.attach(pid)
				g.must(kit.WriteFile(g.at("a/cgroup.procs"), fmt.Sprint(pid)))
			},
			do:    func(g *lentGuest) string { return moveByShell(pid, g.at("cgroup.procs")) },
			state: func(g *lentGuest) string { return g.placeOf(pid) }, want: is("")},
		{name: "memory", points: "write-begun bridge-write:2 bridge-written:2 bridge-kept:2 write-made",
			prepare: func(g *lentGuest) {
				enter(g)
				g.must(kit.WriteFile(g.at("a/memory.max"), "64M"))
				g.must(kit.WriteFile(g.at("a/memory.swap.max"), "32M"))
			},
			do:    func(g *lentGuest) string { return kit.WriteFile(g.at("a/memory.max"), "16M") },
			state: limits, want: is("[16777216 50331648]")},
		{name: "quota", points: "bridge-write:3 bridge-written:3",
			prepare: func(g *lentGuest) { enter(g); g.must(kit.WriteFile(g.at("a/cpu.max"), "50000 100000")) },
			do:      func(g *lentGuest) string { return kit.WriteFile(g.at("a/cpu.max"), "30000 20000") },
			state:   func(g *lentGuest) string { return strings.TrimSpace(kit.ReadFile(g.at("a/cpu.max"))) }, want: is("30000 20000")},
		{name: "disable", points: "write-begun lent-subtree:2 write-made",
			prepare: func(g *lentGuest) { enter(g); g.must(kit.WriteFile(g.at("a/memory.max"), "64M")) },
			do:      func(g *lentGuest) string { return kit.WriteFile(g.at(subtreeControl), "-memory") },
			state:   func(g *lentGuest) string { return limits(g) + kit.ReadFile(g.at(subtreeControl)) },
			want:    is("[9223372036854771712 9223372036854771712]cpu pids\n")},
	} {
		for point := range strings.FieldsSeq(o.points) {
			t.Run(o.name+" "+point, func(t *testing.T) {
				g := newLentBoundary(t)
				g.view = kit.PublicDir(t)
				if !strings.Contains(point, ":") {
					point += ":1"
				}
				crossed := filepath.Join(t.TempDir(), "crossed")
				armed := crossed + ".armed"
				d := kit.StartDaemonOf(t, kit.FailpointProgram(t), "VCGROUPFS_FAILPOINT="+point, "VCGROUPFS_FAILPOINT_FILE="+armed+"/crossed")
				t.Cleanup(func() { d.Stop(t) })
				d.Mounts[g.view] = true
				d.Run(t, "guest", "add", "g", "--boundary", g.path, "--controllers", lentControllers, "--layout", "v2", "--target", g.view)
				if o.prepare != nil {
					o.prepare(g)
				}
				// From now on the point counts: its file can be made.
				if err := os.Mkdir(armed, 0o755); err != nil {
					t.Fatal(err)
				}
				got := o.do(g)
				if aborted := !d.Ready(t).Resend && got == "ECONNABORTED"; got != "ok" && !aborted {
					t.Errorf("the guest got %s", got)
				}
				kit.ReadFile(g.at("cgroup.procs")) // a request that the last worker has answered
				if got, want := o.state(g), o.want(g); got != want {
					t.Errorf("%q, want %q", got, want)
				}
				if deaths := kit.ReadFile(armed + "/crossed"); deaths == "" {
					t.Error("no worker came to the point")
				}
			})
		}
	}
}

// TestLentStraggler: a process that is in another directory in a v1 hierarchy than in the v2 tree, as one that is forked while
// its parent moves, keeps no directory from being removed there, nor its limits for the next one of the name.
func TestLentStraggler(t *testing.T) {
	g := newLentBoundary(t)
	g.view = kit.MountView(t, "--boundary", g.path, "--controllers", lentControllers, "--layout", "v2").Dir
	pid := kit.StartSleeper(t)
	g.attach(pid)
	g.must(kit.WriteFile(g.at(subtreeControl), "+memory +pids"))
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	g.must(kit.WriteFile(g.at("a/pids.max"), "7"))
	if err := g.hiers["pids"].Attach(g.path+"/a", pid); err != nil {
		t.Fatal(err)
	}
	g.must(kit.Word(unix.Rmdir(g.at("a"))))
	if got := g.everywhere("a") + " " + g.placeOf(pid); got != "none " {
		t.Errorf("the directory is in, and the process at: %q", got)
	}
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	if got := kit.ReadFile(g.at("a/pids.max")); got != "max\n" {
		t.Errorf("pids.max is %q", got)
	}
	// What the host has left there has limits of its own.
	g.must(kit.Word(unix.Rmdir(g.at("a"))))
	g.must(kit.Word(unix.Mkdir(g.real("pids", "a"), 0o755)))
	g.must(kit.WriteFile(filepath.Join(g.real("pids", "a"), "pids.max"), "7"))
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	if got := kit.ReadFile(g.at("a/pids.max")); got != "max\n" {
		t.Errorf("pids.max is %q", got)
	}
	if word := kit.Word(unix.Mkdir(g.at("a"), 0o755)); word != "EEXIST" {
		t.Error(word)
	}
}

// TestLentLateChanges: what is written while a controller is disabled sets nothing that stays.
func TestLentLateChanges(t *testing.T) {
	g := newLentBoundary(t)
	g.view = kit.MountView(t, "--boundary", g.path, "--controllers", lentControllers, "--layout", "v2").Dir
	g.must(kit.WriteFile(g.at(subtreeControl), "+pids"))
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	stop := make(chan struct{})
	var wait sync.WaitGroup
	written := 0
	wait.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if kit.WriteFile(g.at("a/pids.max"), "7") == "ok" {
					written++
				}
			}
		}
	})
	for range kit.Scaled(t, 200, 20) {
		g.must(kit.WriteFile(g.at(subtreeControl), "-pids"))
		if got := kit.ReadFile(g.real("pids", "a/pids.max")); got != "max\n" {
			t.Fatalf("the host's pids.max is %q", got)
		}
		g.must(kit.WriteFile(g.at(subtreeControl), "+pids"))
	}
	close(stop)
	wait.Wait()
	t.Logf("%d writes", written)
}

// TestLentModel makes, removes and enters cgroups at random, by several threads, while the host's hierarchies and the view are
// compared with a model of what one thread did, and in the end with each other.
func TestLentModel(t *testing.T) {
	g := newLentBoundary(t)
	g.view = kit.MountView(t, "--boundary", g.path, "--controllers", lentControllers, "--layout", "v2").Dir
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewSource(seed))
	pid := kit.StartSleeper(t)
	g.attach(pid)
	names := []string{"a", "b", "a/a", "a/b", "b/a", "a/a/a"}
	has, place := map[string]bool{"": true}, ""
	for i := range kit.Scaled(t, 1500, 100) {
		name := names[r.Intn(len(names))]
		above := strings.TrimPrefix(filepath.Dir("/"+name), "/")
		var got, want string
		switch r.Intn(3) {
		case 0:
			got, want = kit.Word(unix.Mkdir(g.at(name), 0o755)), "ok"
			switch {
			case !has[above]:
				want = "ENOENT"
			case has[name]:
				want = "EEXIST"
			default:
				has[name] = true
			}
		case 1:
			got, want = kit.Word(unix.Rmdir(g.at(name))), "ok"
			full := slices.ContainsFunc(names, func(n string) bool { return has[n] && strings.HasPrefix(n, name+"/") })
			switch {
			case !has[name]:
				want = "ENOENT"
			case full || place == name:
				want = "EBUSY"
			default:
				delete(has, name)
			}
		case 2:
			if r.Intn(4) == 0 {
				name = ""
			}
			got, want = kit.WriteFile(g.at(filepath.Join(name, "cgroup.procs")), fmt.Sprint(pid)), "ok"
			if !has[name] {
				want = "ENOENT"
			} else {
				place = name
			}
		}
		if got != want {
			t.Fatalf("step %d of seed %d: %s: %s, want %s", i, seed, name, got, want)
		}
		if at := strings.TrimPrefix(g.placeOf(pid), "/"); at != place {
			t.Fatalf("step %d of seed %d: the process is in %q, want %q", i, seed, at, place)
		}
	}
	for _, n := range names {
		want := "none"
		if has[n] {
			want = "all"
		}
		if got := g.everywhere(n); got != want {
			t.Errorf("seed %d: %s is in %s, want %s", seed, n, got, want)
		}
	}
	g.must(kit.WriteFile(g.at("cgroup.procs"), fmt.Sprint(pid)))
	var wait sync.WaitGroup
	for i := range 4 {
		r := rand.New(rand.NewSource(seed + int64(i)))
		wait.Go(func() {
			for range kit.Scaled(t, 300, 30) {
				name := g.at(names[r.Intn(len(names))])
				switch r.Intn(4) {
				case 0:
					_ = unix.Mkdir(name, 0o755)
				case 1:
					_ = unix.Rmdir(name)
				case 2:
					_ = kit.WriteFile(filepath.Join(name, "cgroup.procs"), fmt.Sprint(pid))
				case 3:
					_ = kit.WriteFile(g.at(subtreeControl), []string{"+memory", "-memory", "+pids"}[r.Intn(3)])
				}
			}
		})
	}
	wait.Wait()
	for _, n := range names {
		if got := g.everywhere(n); got != "all" && got != "none" || (got == "all") != kit.Exists(g.at(n)) {
			t.Errorf("seed %d: after all at once %s is in %s", seed, n, got)
		}
	}
	if at := g.placeOf(pid); strings.Contains(at, " and ") || !kit.Exists(g.at(at)) {
		t.Errorf("seed %d: after all at once the process is in %s", seed, at)
	}
}
