package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// lentView mounts a view of layout v2 on the controllers of v1 hierarchies.
func lentView(t *testing.T) *lentGuest {
	t.Helper()
	g := newLentBoundary(t)
	g.view = kit.MountView(t, "--boundary", g.path, "--controllers", lentControllers, "--layout", "v2").Dir
	return g
}

// TestLentThreads: a process that is written to cgroup.procs moves with all its threads in the v1 hierarchies, too, also where its
// leader is there already, so that the cgroup that they leave can be removed everywhere.
func TestLentThreads(t *testing.T) {
	g := lentView(t)
	h := kit.StartHelper(t, "threads x")
	tid := strings.TrimSpace(h.Line(t))
	g.attach(h.PID())
	for _, dir := range []string{"a", "a/t"} {
		g.must(kit.Word(unix.Mkdir(g.at(dir), 0o755)))
	}
	g.must(kit.WriteFile(g.at("a/t/cgroup.type"), "threaded"))
	g.must(kit.WriteFile(g.at("a/cgroup.procs"), fmt.Sprint(h.PID())))
	var thread int
	fmt.Sscan(tid, &thread)
	for range 2 {
		g.must(kit.WriteFile(g.at("a/t/cgroup.threads"), tid))
		if got := g.placeOf(thread); got != "/a/t" {
			t.Errorf("the thread is in %q, want /a/t", got)
		}
		g.must(kit.WriteFile(g.at("a/cgroup.procs"), fmt.Sprint(h.PID())))
		if got := g.placeOf(thread); got != "/a" {
			t.Errorf("with its process the thread is in %q, want /a", got)
		}
	}
	// One that the host has moved apart keeps no directory either.
	if word := kit.WriteFile(filepath.Join(g.real("pids", "a/t"), "tasks"), tid); word != "ok" {
		t.Fatal(word)
	}
	g.must(kit.Word(unix.Rmdir(g.at("a/t"))))
	if got := g.everywhere("a/t") + " " + g.placeOf(thread); got != "none /a" {
		t.Errorf("the removed directory is in, and the thread at: %q", got)
	}
}

// TestLentFork: what a process forks while it is moved is in the end where that is, in all hierarchies.
func TestLentFork(t *testing.T) {
	g := lentView(t)
	for _, dir := range []string{"a", "b"} {
		g.must(kit.Word(unix.Mkdir(g.at(dir), 0o755)))
	}
	cmd := exec.Command("sh", "-c", "read x; i=0; while [ $i -lt 400 ]; do sleep 600 & i=$((i+1)); done; echo; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { out.Read(make([]byte, 1)); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		tree := g.real(hierarchy.Unified, "")
		kit.WriteFile(filepath.Join(tree, "cgroup.kill"), "1")
		kit.Eventually(t, "the processes to end", func() bool {
			return strings.HasPrefix(kit.ReadFile(filepath.Join(tree, "cgroup.events")), "populated 0")
		})
	})
	g.attach(cmd.Process.Pid)
	fmt.Fprintln(in) // what it forked before would be outside of the guest, and be left
	moves, most := 0, time.Duration(0)
	for more := true; more; moves++ {
		select {
		case <-ended:
			more = false
		default:
		}
		began := time.Now()
		g.must(kit.WriteFile(g.at([]string{"a", "b"}[moves%2]+"/cgroup.procs"), fmt.Sprint(cmd.Process.Pid)))
		most = max(most, time.Since(began))
	}
	total := 0
	for _, dir := range []string{"a", "b"} {
		for pid := range strings.FieldsSeq(kit.ReadFile(g.at(dir + "/cgroup.procs"))) {
			var n int
			fmt.Sscan(pid, &n)
			total++
			if at := g.placeOf(n); at != "/"+dir {
				t.Errorf("a child is in %q, want /%s", at, dir)
			}
		}
	}
	t.Logf("%d moves of %v at most, %d processes", moves, most, total)
}

// TestLentMade: of a name that several threads make and remove, all hierarchies have a directory or none, and no more below it.
func TestLentMade(t *testing.T) {
	g := lentView(t)
	var wait sync.WaitGroup
	for _, name := range []string{"a", "a", "a/b", "a/b"} {
		for _, do := range []func(){
			func() { _ = unix.Mkdir(g.at(name), 0o755) },
			func() { _ = unix.Rmdir(g.at(name)) },
		} {
			wait.Go(func() {
				for range kit.Scaled(t, 500, 100) {
					do()
				}
			})
		}
	}
	wait.Wait()
	for _, name := range []string{"a", "a/b"} {
		if got := g.everywhere(name); got != "all" && got != "none" || (got == "all") != kit.Exists(g.at(name)) {
			t.Errorf("%s is in %s", name, got)
		}
	}
	// What a v1 hierarchy alone has below a directory does not keep that.
	_ = unix.Mkdir(g.at("a"), 0o755)
	_ = unix.Rmdir(g.at("a/b"))
	g.must(kit.Word(unix.Mkdir(g.real("memory", "a/left"), 0o755)))
	g.must(kit.Word(unix.Rmdir(g.at("a"))))
	if got := g.everywhere("a"); got != "none" {
		t.Errorf("the removed directory is in %s", got)
	}
}

// TestLentNames: names of v1's own files can be none of a cgroup.
func TestLentNames(t *testing.T) {
	g := lentView(t)
	for _, name := range []string{"tasks", "notify_on_release", "release_agent", "memory.limit_in_bytes", "cpuacct.usage", "blkio.x"} {
		if got := kit.Word(unix.Mkdir(g.at(name), 0o755)); got != "EINVAL" || kit.Exists(g.real(hierarchy.Unified, name)) {
			t.Errorf("mkdir %s: %s", name, got)
		}
	}
	g.must(kit.Word(unix.Mkdir(g.at("task"), 0o755)))
}

// TestLentManyChildren: a controller is disabled for children of which the server cannot open all at once.
func TestLentManyChildren(t *testing.T) {
	g := newLentBoundary(t)
	v := kit.MountView(t, "--boundary", g.path, "--controllers", lentControllers, "--layout", "v2")
	g.view = v.Dir
	g.must(kit.WriteFile(g.at(subtreeControl), "+pids"))
	var names []string
	for i := range 600 {
		name := fmt.Sprint("c", i)
		names = append(names, name)
		g.must(kit.Word(unix.Mkdir(g.at(name), 0o755)))
		g.must(kit.WriteFile(g.at(name+"/pids.max"), "7"))
	}
	g.must(kit.WriteFile(g.at(names[599]+"/"+subtreeControl), "+pids"))
	// The server keeps so many directories open, and no more.
	for range 2 {
		_ = kit.WriteFile(g.at(subtreeControl), "-pids")
		_ = kit.WriteFile(g.at(names[599]+"/"+subtreeControl), "-pids")
	}
	g.must(kit.WriteFile(g.at(subtreeControl), "+pids"))
	for _, name := range names {
		g.must(kit.WriteFile(g.at(name+"/pids.max"), "7"))
	}
	g.must(kit.WriteFile(g.at(names[599]+"/"+subtreeControl), "+pids"))
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	// One directory of a hierarchy at a time, and what a request needs.
	few := &unix.Rlimit{Cur: uint64(len(fds)) + 50, Max: uint64(len(fds)) + 50}
	if err := unix.Prlimit(v.Cmd.Process.Pid, unix.RLIMIT_NOFILE, few, nil); err != nil {
		t.Fatal(err)
	}
	if got := kit.WriteFile(g.at(subtreeControl), "-pids"); got != "EBUSY" {
		t.Errorf("for a child that has it enabled: %s", got)
	}
	g.must(kit.WriteFile(g.at(names[599]+"/"+subtreeControl), "-pids"))
	began := time.Now()
	g.must(kit.WriteFile(g.at(subtreeControl), "-pids"))
	t.Logf("disabled in %v", time.Since(began))
	left := 0
	for _, name := range names {
		if got := kit.ReadFile(g.real("pids", name+"/pids.max")); got != "max\n" {
			left++
		}
	}
	if left > 0 {
		t.Errorf("%d of %d keep their limit", left, len(names))
	}
	for _, name := range names {
		g.must(kit.Word(unix.Rmdir(g.at(name))))
	}
}

// TestLentNoPlace: a move that one v1 hierarchy refuses happens in none.
func TestLentNoPlace(t *testing.T) {
	g := lentView(t)
	pid := kit.StartSleeper(t)
	g.attach(pid)
	for _, dir := range []string{"a", "b"} {
		g.must(kit.Word(unix.Mkdir(g.at(dir), 0o755)))
	}
	g.must(kit.WriteFile(g.at("b/cgroup.procs"), fmt.Sprint(pid)))
	g.must(kit.WriteFile(filepath.Join(g.real("cpuset", "a"), "cpuset.cpus"), "\n"))
	if got := kit.WriteFile(g.at("a/cgroup.procs"), fmt.Sprint(pid)) + " " + g.placeOf(pid); got != "ENOSPC /b" {
		t.Errorf("it is %q", got)
	}
}

// TestLentReplaced: what the host removes and makes again in a v1 hierarchy is found at once.
func TestLentReplaced(t *testing.T) {
	g := lentView(t)
	g.must(kit.WriteFile(g.at(subtreeControl), "+pids"))
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	g.must(kit.WriteFile(g.at("a/pids.max"), "7"))
	g.must(kit.Word(unix.Rmdir(g.real("pids", "a"))))
	g.must(kit.Word(unix.Mkdir(g.real("pids", "a"), 0o755)))
	if got := kit.ReadFile(g.at("a/pids.max")); got != "max\n" {
		t.Errorf("pids.max is %q", got)
	}
}

// TestLentWriters: of two values that are written to one file at once, the file has one in the end, and no mixture.
func TestLentWriters(t *testing.T) {
	g := lentView(t)
	g.must(kit.WriteFile(g.at(subtreeControl), "+cpu +memory"))
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	write := func(values map[string]string) {
		var wait sync.WaitGroup
		for value, file := range values {
			wait.Go(func() {
				if got := kit.WriteFile(g.at("a/"+file), value); got != "ok" {
					t.Errorf("%s to %s: %s", value, file, got)
				}
			})
		}
		wait.Wait()
	}
	for i := range kit.Scaled(t, 200, 40) {
		write(map[string]string{"10000 20000": "cpu.max", "50000 100000": "cpu.max", "max 70000": "cpu.max"})
		got := strings.TrimSpace(kit.ReadFile(g.at("a/cpu.max")))
		if !slices.Contains([]string{"10000 20000", "50000 100000", "max 70000"}, got) {
			t.Fatalf("cpu.max is %q", got)
		}
		if g.hiers["memory"] == g.hiers[hierarchy.Unified] || !kit.Exists(g.at("a/memory.swap.max")) {
			continue
		}
		memory, swap := fmt.Sprint((32+i)<<20), fmt.Sprint((16+i)<<20)
		write(map[string]string{memory: "memory.max", swap: "memory.swap.max"})
		got = strings.Join(strings.Fields(kit.ReadFile(g.at("a/memory.max"))+kit.ReadFile(g.at("a/memory.swap.max"))), " ")
		if got != memory+" "+swap {
			t.Fatalf("memory.max and memory.swap.max are %s, want %s %s", got, memory, swap)
		}
	}
}

// TestLentFull: a guest whose attributes are all used up can disable controllers, and what it cannot keep changes nothing.
func TestLentFull(t *testing.T) {
	g := lentView(t)
	g.must(kit.WriteFile(g.at(subtreeControl), "+cpu +cpuset +memory"))
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	g.must(kit.WriteFile(g.at("a/cpu.max"), "50000 100000"))
	g.must(kit.WriteFile(g.at("a/memory.max"), "64M"))
	if kit.Exists(g.at("a/memory.swap.max")) {
		g.must(kit.WriteFile(g.at("a/memory.swap.max"), "32M"))
	}
	// The reserve is left to owners.
	for i := range 2000 {
		dir := fmt.Sprint("f", i/64)
		_ = unix.Mkdir(g.at(dir), 0o755)
		if unix.Setxattr(g.at(dir), fmt.Sprint("user.", i%64), make([]byte, 500), 0) != nil {
			break
		}
	}
	last := 0
	for i := range 4000 {
		dir := fmt.Sprint("o", i/8)
		_ = unix.Mkdir(g.at(dir), 0o755)
		file := []string{"memory.max", "memory.current", "cpu.max", "cpu.weight", "cpuset.cpus", "cpuset.mems", "memory.stat", "memory.events"}[i%8]
		if err := os.Chown(g.at(dir+"/"+file), 1000, 1000); err != nil {
			last = i
			break
		}
	}
	if last == 0 {
		t.Fatal("the attributes are not used up")
	}
	before := kit.ReadFile(g.real("cpuset", "a/cpuset.cpus"))
	if got := kit.WriteFile(g.at("a/cpuset.cpus"), "0"); got != "ENOSPC" {
		t.Errorf("cpuset.cpus: %s, want ENOSPC", got)
	}
	if got := kit.ReadFile(g.real("cpuset", "a/cpuset.cpus")); got != before {
		t.Errorf("the host's cpuset.cpus is %q, want %q", got, before)
	}
	for _, c := range []string{"-cpu", "-memory", "-cpuset"} {
		if got := kit.WriteFile(g.at(subtreeControl), c); got != "ok" {
			t.Errorf("%s: %s", c, got)
		}
	}
	limits := kit.ReadFile(g.real("cpu", "a/cpu.cfs_quota_us")) + kit.ReadFile(g.real("memory", "a/memory.limit_in_bytes"))
	if !strings.HasPrefix(limits, "-1\n9223") {
		t.Errorf("limits of disabled controllers are %q", limits)
	}
}
