package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// must ends a test for any other word than "ok".
func must(t testing.TB, what, word string) {
	t.Helper()
	if word != "ok" {
		t.Fatalf("%s: %s", what, word)
	}
}

func makeDirs(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		must(t, "mkdir "+path, kit.Word(unix.Mkdir(path, 0o755)))
	}
}

// TestBridgeNames: a leaf cannot be made, found, entered or removed, wherever it is and whether or not it is there; nor can a
// directory have the name that a control file of the host could have.
func TestBridgeNames(t *testing.T) {
	s := newBridgeSite(t, t.Name()).mount(t)
	pid := s.sleeper(t)
	makeDirs(t, s.at(s.names[0], "x"), s.at(s.names[0], "x/y"), s.at(s.names[1], "x"), s.at(s.names[1], "x/only"))
	must(t, "move", kit.WriteFile(s.at(s.names[0], "x/tasks"), strconv.Itoa(pid)))
	if !kit.Exists(s.real("x", hierarchy.LeafName)) {
		t.Error("the processes of x are not in a leaf")
	}
	for _, hier := range s.names {
		for _, dir := range []string{"", "x", "x/y", "x/only"} {
			leaf := s.at(hier, dir, hierarchy.LeafName)
			if !kit.Exists(filepath.Dir(leaf)) {
				continue
			}
			for what, got := range map[string][2]string{
				"mkdir":  {kit.Word(unix.Mkdir(leaf, 0o755)), "EINVAL"},
				"rmdir":  {kit.Rmdir(leaf), "ENOENT"},
				"stat":   {kit.StatText(leaf), "ENOENT"},
				"tasks":  {kit.WriteFile(leaf+"/tasks", strconv.Itoa(pid)), "ENOENT"},
				"below":  {kit.Word(unix.Mkdir(leaf+"/x", 0o755)), "ENOENT"},
				"file":   {kit.Word(unix.Mkdir(s.at(hier, dir, s.host), 0o755)), "EINVAL"},
				"core":   {kit.Word(unix.Mkdir(s.at(hier, dir, "cgroup.freeze"), 0o755)), "EINVAL"},
				"long":   {kit.Word(unix.Mkdir(s.at(hier, dir, strings.Repeat("x", 256)), 0o755)), "ENAMETOOLONG"},
				"line":   {kit.Word(unix.Mkdir(s.at(hier, dir, "a\nb"), 0o755)), "EINVAL"},
				"rename": {kit.Word(unix.Rename(s.at(hier, dir), s.at(hier, dir)+"2")), "EPERM"},
			} {
				if what == "rename" && dir == "" {
					continue // of a mount's directory
				}
				if got[0] != got[1] {
					t.Errorf("%s of or beside %s: %s, want %s", what, leaf, got[0], got[1])
				}
			}
		}
	}
}

// TestBridgeManyHierarchies: as many hierarchies as there can be, with names of any form, are told apart.
func TestBridgeManyHierarchies(t *testing.T) {
	s := newBridgeSite(t, t.Name())
	controllers := s.names[:1] // a view of nothing but names is one of no hierarchy of this host
	s.names = nil
	for i := range kit.Scaled(t, 60, 8) {
		name := fmt.Sprintf("-hierarchy_with.a-long-name-number-%02d", i)
		s.names, controllers = append(s.names, name), append(controllers, "name="+name)
	}
	s.controllers = strings.Join(controllers, ",")
	s.mount(t)
	has := func() (names []string) {
		for _, hier := range s.names {
			if kit.Exists(s.at(hier, "x")) {
				names = append(names, hier)
			}
		}
		return names
	}
	for i, hier := range s.names {
		makeDirs(t, s.at(hier, "x"))
		if got := has(); len(got) != i+1 {
			t.Fatalf("after %d mkdirs x is in %d hierarchies: %q", i+1, len(got), got)
		}
	}
	for i, hier := range s.names {
		must(t, "rmdir", kit.Rmdir(s.at(hier, "x")))
		if got := has(); len(got) != len(s.names)-i-1 {
			t.Fatalf("after %d rmdirs x is in %d hierarchies: %q", i+1, len(got), got)
		}
	}
	if left := kit.CgroupsIn(s.real()); len(left) > 0 {
		t.Errorf("the host has %q", left)
	}
}

// TestBridgeBudget: in which hierarchies a directory is, and what is kept of it, counts for the guest's budget and is given back.
// With none left a directory can still be removed from one hierarchy, and what cannot be kept is not done.
func TestBridgeBudget(t *testing.T) {
	s := newBridgeSite(t, t.Name())
	// With a name of this length the attribute of a directory in both needs a larger piece of the kernel's memory once it has left
	// one of them.
	one, two := s.names[1], "sixteen-letters0"
	s.controllers = strings.Replace(s.controllers, "name="+s.names[2], "name="+two, 1)
	s.names[2] = two
	s.mount(t)
	var made [][2]int
	for round := range 2 {
		makeDirs(t, s.at(one, "big"), s.at(two, "big"))
		for i := range 8 {
			makeDirs(t, s.at(one, "big", strconv.Itoa(i)))
			for n := range 31 {
				err := unix.Setxattr(s.at(one, "big", strconv.Itoa(i)), fmt.Sprint("user.", n), make([]byte, 4000), 0)
				if err == unix.ENOSPC {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
		}
		var count [2]int
		for i, hier := range []string{one, two} {
			for {
				err := unix.Mkdir(s.at(hier, "big", fmt.Sprint("d", count[i])), 0o755)
				if err == unix.ENOSPC {
					break
				} else if err != nil || count[i] > 2000 {
					t.Fatalf("mkdir %d: %v", count[i], err)
				}
				count[i]++
			}
		}
		if made = append(made, count); count != made[0] || count[0] < 20 {
			t.Errorf("round %d: %d directories could be made, %d at first", round, count, made[0])
		}
		if last := fmt.Sprint("d", count[1]); kit.Exists(s.at(two, "big", last)) {
			t.Errorf("%s could not be made, and is there", last)
		}
		for _, flag := range modelFlags {
			file := s.at(one, "big/d0", flag)
			if got, value := kit.WriteFile(file, "1"), kit.ReadFile(file); got != "ENOSPC" || value != "0\n" {
				t.Errorf("%s with no room: %s, and has %q", flag, got, value)
			}
		}
		for i := range min(count[0], count[1]) {
			must(t, "rmdir with no room", kit.Rmdir(s.at(one, "big", fmt.Sprint("d", i))))
		}
		removeBelow(t, s.at(one))
		removeBelow(t, s.at(two))
		if left := kit.CgroupsIn(s.real()); len(left) > 1 {
			t.Fatalf("the host has %q", left)
		}
	}
	t.Logf("directories made: %v", made)
}

// TestBridgePolicy: a verdict on a control file of either version holds for what a guest finds under the other's name.
func TestBridgePolicy(t *testing.T) {
	probe := newBridgeSite(t, t.Name())
	limit, behind, usage, current := probe.limit, probe.host, strings.Replace(probe.limit, "limit", "usage", 1), strings.Replace(probe.host, "max", "current", 1)
	small, big := probe.values[0], probe.values[2]
	for i, c := range []struct {
		name, below string
		// what writes of a small and a big limit say; reads of the limit and of the usage
		small, big, limit, usage string
	}{
		{"nothing", "", "ok", "ok", "shown", "shown"},
		{"the host's limit read-only", "read-only: [" + behind + "]", "EPERM", "EPERM", "shown", "shown"},
		{"the guest's limit read-only", "read-only: [" + limit + "]", "EPERM", "EPERM", "shown", "shown"},
		{"the host's limit hidden", "hidden: [" + behind + "]", "ENOENT", "ENOENT", "ENOENT", "shown"},
		{"the guest's limit hidden", "hidden: [" + limit + "]", "ENOENT", "ENOENT", "ENOENT", "shown"},
		{"the host's usage hidden", "hidden: [" + current + "]", "ok", "ok", "shown", "ENOENT"},
		{"the host's limit within bounds", "guarded: {" + behind + ": {max: " + small + "}}", "ok", "EPERM", "shown", "shown"},
		{"the guest's limit within bounds", "guarded: {" + limit + ": {max: " + small + "}}", "ok", "EPERM", "shown", "shown"},
	} {
		if kit.Scale(t) < 1 && i%3 != 1 {
			continue // a view for each takes long there: one of the host's name, one of the guest's, one with bounds
		}
		t.Run(c.name, func(t *testing.T) {
			s := newBridgeSite(t, fmt.Sprint("policy-", i))
			s.mount(t, "--policy", kit.FileWith(t, "version: 1\nbelow: {"+c.below+"}\nquota: {cgroups: 3, depth: 2}\n"))
			hier, other := s.names[0], s.names[1]
			file := s.at(hier, "x", limit)
			makeDirs(t, s.at(hier, "x"), s.at(other, "x"))
			word := func(path string) string {
				if got := kit.ReadFile(path); !strings.HasSuffix(got, "\n") {
					return got
				}
				return "shown"
			}
			for what, got := range map[string][2]string{
				"a small limit": {kit.WriteFile(file, small), c.small}, "a big one": {kit.WriteFile(file, big), c.big},
				"the limit": {word(file), c.limit}, "the usage": {word(s.at(hier, "x", usage)), c.usage},
				"the boundary's limit": {kit.WriteFile(s.at(hier, limit), small), strings.Replace(c.small, "ok", "EPERM", 1)},
			} {
				if c.limit == "ENOENT" && what == "the boundary's limit" {
					got[1] = "EPERM" // the rule is for below
				}
				if got[0] != got[1] {
					t.Errorf("%s: %s, want %s", what, got[0], got[1])
				}
			}
			if c.limit == "ENOENT" && isListed(s.at(hier, "x"), limit) {
				t.Error("the hidden limit is listed")
			}
			// What the host has set goes with the directory, whatever the guest could write itself.
			if err := s.hier.WriteFile(s.path+"/x", behind, small); err != nil {
				t.Fatal(err)
			}
			must(t, "rmdir in the hierarchy with the limit", kit.Rmdir(s.at(hier, "x")))
			if got := strings.TrimSpace(kit.ReadFile(s.real("x", behind))); got != "max" {
				t.Errorf("a directory has left its hierarchy, and the limit is %s", got)
			}
			// The quota: the boundary's leaf does not count, nor does a second hierarchy.
			makeDirs(t, s.at(hier, "x"), s.at(hier, "x/y"), s.at(other, "x/y"), s.at(other, "z"), s.at(hier, "z"))
			for _, path := range []string{s.at(hier, "w"), s.at(other, "w"), s.at(other, "x/y/w")} {
				if got := kit.Word(unix.Mkdir(path, 0o755)); got != "EAGAIN" {
					t.Errorf("mkdir %s beyond the quota: %s", path, got)
				}
			}
			must(t, "rmdir", kit.Rmdir(s.at(hier, "z")))
			if got := kit.Word(unix.Mkdir(s.at(hier, "w"), 0o755)); got != "EAGAIN" {
				t.Errorf("mkdir while another hierarchy has the third cgroup: %s", got)
			}
			must(t, "rmdir", kit.Rmdir(s.at(other, "z")))
			makeDirs(t, s.at(hier, "w"))
		})
	}
}

func isListed(dir, name string) bool {
	entries, _ := os.ReadDir(dir)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == name })
}

// TestBridgeStrangers: no process outside the boundary is moved into it, and none inside out of it, by any file.
func TestBridgeStrangers(t *testing.T) {
	s := newBridgeSite(t, t.Name())
	for _, dir := range []string{"/guest", "/guest-2", "/guest/.vcgroupfs-2"} {
		if err := s.hier.Create(s.path+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inside := kit.StartSleeper(t)
	strangers := map[string]int{"/guest-2": kit.StartSleeper(t), "": kit.StartSleeper(t)}
	s.path += "/guest"
	s.mount(t)
	makeDirs(t, s.at(s.names[0], "a"), s.at(s.names[0], "a/b"), s.at(s.names[1], "a"))
	for dir, pid := range strangers {
		must(t, "attach", kit.Word(s.hier.Attach(strings.TrimSuffix(s.path, "/guest")+dir, pid)))
	}
	must(t, "attach", kit.Word(s.hier.Attach(s.path+"/a/b", inside)))
	for _, hier := range s.names {
		for _, file := range []string{"tasks", kit.Procs, "a/tasks", "a/" + kit.Procs, "a/b/tasks"} {
			path := s.at(hier, file)
			if !kit.Exists(path) {
				continue
			}
			for dir, pid := range strangers {
				before, _ := s.hier.PathOf(pid)
				if got := kit.WriteFile(path, strconv.Itoa(pid)); got != "ESRCH" {
					t.Errorf("moving a process of %q by %s: %s", dir, path, got)
				}
				if after, _ := s.hier.PathOf(pid); after != before {
					t.Errorf("a process of %q moved from %s to %s", dir, before, after)
				}
			}
			if got := kit.WriteFile(path, "0"); got != "ESRCH" {
				t.Errorf("moving oneself in by %s: %s", path, got)
			}
			must(t, path, kit.WriteFile(path, strconv.Itoa(inside)))
			if at, _ := s.hier.PathOf(inside); at != s.path && !strings.HasPrefix(at, s.path+"/") {
				t.Errorf("%s has moved a process to %s", path, at)
			}
		}
	}
}

// TestBridgeLateChanges: a change of what is open of a directory that leaves its hierarchy is none of the one that is made in its
// place, when both happen at once, and also after as many removals as there are lives.
func TestBridgeLateChanges(t *testing.T) {
	s := newBridgeSite(t, t.Name()).mount(t)
	one, two := s.names[1], s.names[2]
	makeDirs(t, s.at(two, "x"), s.at(one, "x"))
	must(t, "chown", kit.Word(os.Chown(s.at(one, "x", "tasks"), 1000, 1000)))
	first, err := unix.Open(s.at(one, "x", "cgroup.clone_children"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(first)
	var mu sync.Mutex
	var fds [2]int
	reopen := func() {
		mu.Lock()
		defer mu.Unlock()
		for i, file := range []string{"tasks", "cgroup.clone_children"} {
			if fds[i] > 0 {
				unix.Close(fds[i])
			}
			fds[i], _ = unix.Open(s.at(one, "x", file), unix.O_RDWR|unix.O_CLOEXEC, 0)
		}
	}
	reopen()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				tasks, _ := unix.Dup(fds[0])
				flag, _ := unix.Dup(fds[1])
				mu.Unlock()
				_ = unix.Fchmod(tasks, 0o666)
				_, _ = unix.Pwrite(flag, []byte("1"), 0)
				unix.Close(tasks)
				unix.Close(flag)
			}
		})
	}
	// Fewer than there are lives: of one that comes again the kernel keeps the attributes for as long as it may.
	for range 60 {
		must(t, "rmdir", kit.Rmdir(s.at(one, "x")))
		makeDirs(t, s.at(one, "x"))
		got := kit.StatText(s.at(one, "x", "tasks")) + kit.ReadFile(s.at(one, "x", "cgroup.clone_children"))
		if !strings.Contains(got, "mode 100644") || !strings.HasSuffix(got, "0:00\n") {
			t.Fatalf("a new directory has %s", got)
		}
		reopen()
	}
	close(stop)
	wg.Wait()
	for _, fd := range fds {
		unix.Close(fd)
	}
	for range 10 {
		if _, err := unix.Pread(first, make([]byte, 8), 0); err != unix.ENODEV {
			t.Fatalf("what was open of the first directory reads: %v", err)
		}
		must(t, "rmdir", kit.Rmdir(s.at(one, "x")))
		makeDirs(t, s.at(one, "x"))
	}
}

// TestBridgeSignals: a signal does not end a mkdir, an rmdir or a move that waits for another one: none of them has EINTR.
func TestBridgeSignals(t *testing.T) {
	s := newBridgeSite(t, t.Name()).mount(t)
	pid := strconv.Itoa(s.sleeper(t))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	tids := make(chan int, 3)
	for _, hier := range s.names {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tids <- unix.Gettid()
			for i := range kit.Scaled(t, 100, 20) {
				name := fmt.Sprint("d", i%3)
				path := s.at(hier, name)
				for _, op := range []struct {
					what string
					do   func() string
				}{
					{"mkdir", func() string { return kit.Word(unix.Mkdir(path, 0o755)) }},
					{"move", func() string { return kit.WriteFile(s.at(hier, "tasks"), pid) }},
					{"rmdir", func() string { return kit.Rmdir(path) }},
				} {
					if got := op.do(); got != "ok" {
						t.Errorf("%s %s of %s: %s; in %s, and is there: %v", op.what, name, hier, got, attrOf(s.real(name), "trusted.vcgroupfs.in"), kit.Exists(path))
						return
					}
				}
			}
		})
	}
	var threads []int
	for range s.names {
		threads = append(threads, <-tids)
	}
	var signals sync.WaitGroup
	signals.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, tid := range threads {
				_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
			}
		}
	})
	wg.Wait()
	close(stop)
	signals.Wait()
}

// TestBridgeUnfinished: a directory that is being made in one hierarchy is at no time in another one.
func TestBridgeUnfinished(t *testing.T) {
	s := newBridgeSite(t, t.Name()).mount(t)
	one, two := s.names[1], s.names[2]
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if i == 0 {
					if got := dirsIn(s.at(two)); got != "" {
						t.Errorf("%s lists %s", two, got)
						return
					}
				} else if kit.Exists(s.at(two, "x")) {
					t.Errorf("%s has what is made in %s", two, one)
					return
				}
			}
		})
	}
	for range kit.Scaled(t, 400, 40) {
		makeDirs(t, s.at(one, "x"))
		must(t, "rmdir", kit.Rmdir(s.at(one, "x")))
	}
	close(stop)
	wg.Wait()
}

// TestBridgeForks: a directory is made below one whose processes fork as fast as they can, and all are in its leaf then, or none.
func TestBridgeForks(t *testing.T) {
	s := newBridgeSite(t, t.Name()).mount(t)
	hier := s.names[0]
	var bombs []*kit.Helper
	for range 4 {
		x := kit.StartProcess(t, exec.Command("sh", "-c", "read -r _; while :; do (:) & (:) & wait; done"))
		t.Cleanup(func() { x.Cmd.Process.Kill() })
		must(t, "attach", kit.Word(s.hier.Attach(s.path, x.PID())))
		bombs = append(bombs, x)
	}
	makeDirs(t, s.at(hier, "bomb"))
	for _, x := range bombs {
		must(t, "move", kit.WriteFile(s.at(hier, "bomb/tasks"), strconv.Itoa(x.PID())))
		fmt.Fprintln(x.In)
	}
	for i := range kit.Scaled(t, 10, 3) {
		must(t, "mkdir", kit.Word(unix.Mkdir(s.at(hier, "bomb", fmt.Sprint(i)), 0o755)))
		if enabled := kit.ReadFile(s.real("bomb", "cgroup.subtree_control")); enabled == "\n" {
			t.Error("no controller is enabled for the children")
		}
	}
	if got := kit.ReadFile(s.at(hier, "bomb/tasks")); strings.Count(got, "\n") < 4 {
		t.Errorf("bomb has the tasks %q", got)
	}
	must(t, "kill", kit.Word(s.hier.Kill(s.path+"/bomb")))
}

// TestBridgeLongWrites: what is longer than a page is refused as the kernel does, and no end of it is taken for a command.
func TestBridgeLongWrites(t *testing.T) {
	s := newBridgeSite(t, t.Name()).mount(t)
	makeDirs(t, s.at(s.names[0], "x"))
	for _, file := range append([]string{s.limit, "tasks", kit.Procs}, modelFlags...) {
		path := s.at(s.names[0], "x", file)
		for _, n := range []int{4097, 1 << 16, 1 << 20} {
			if got := kit.WriteFile(path, strings.Repeat("1", n)); got != "E2BIG" {
				t.Errorf("%d bytes to %s: %s", n, file, got)
			}
		}
		if got := kit.WriteFile(path, strings.Repeat("1", 4096)); !slices.Contains([]string{"EINVAL", "ERANGE"}, got) {
			t.Errorf("4096 digits to %s: %s", file, got)
		}
	}
}
