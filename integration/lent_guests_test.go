package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// lentHierarchies are the v1 hierarchies of this host that lend memory and pids to a v2 tree, and that tree's.
func lentHierarchies(t *testing.T) (memory, pids, tree *host.Hierarchy) {
	t.Helper()
	h := kit.OpenHost(t)
	if !kit.OnV1(h, "memory") || !kit.OnV1(h, "pids") {
		t.Skip("machine: this kernel's memory is in its v2 hierarchy")
	}
	return h.Hierarchy("memory"), h.Hierarchy("pids"), kit.NeedHierarchy(t, h, hierarchy.Unified)
}

// TestLentRefused: a v2 tree with the controllers of v1 hierarchies is refused to a guest whose cgroup is not the same in all of
// them, as where its runtime makes it none in the v2 hierarchy, and so are controllers that cannot be lent.
func TestLentRefused(t *testing.T) {
	memory, pids, tree := lentHierarchies(t)
	path, other := kit.NewBoundary(t, t.Name(), memory, pids), kit.NewBoundary(t, t.Name()+"-other", tree)
	options := []string{"mount", "--layout", "v2", "--controllers", "memory,pids"}
	refuses := func(says string, more ...string) {
		t.Helper()
		got := kit.RunCommand(t, append(append(options, more...), kit.PublicDir(t))...)
		if got.Status == 0 || !strings.Contains(got.Stderr, says) {
			t.Errorf("%v: %+v, want a refusal that says %q", more, got, says)
		}
	}
	refuses("there is no such cgroup in the hierarchy unified", "--boundary", path)
	refuses(`cannot show controller "freezer" in layout v2`, "--boundary", path, "--controllers", "memory,freezer")
	for _, c := range []struct {
		at, says string // of the v2 hierarchy
		status   int
	}{
		{"/", "it is the root of the hierarchy unified; move it to one of its own (some runtimes make none", 1},
		{other, "is " + path + ", and " + other + " in the host's v2 hierarchy", 4},
	} {
		x := kit.StartHelper(t, "commands")
		for hier, path := range map[*host.Hierarchy]string{memory: path, pids: path, tree: c.at} {
			if err := hier.Attach(path, x.PID()); err != nil {
				t.Fatal(err)
			}
		}
		if got := x.Ask(t, "unshare-cgroup"); got != "ok" {
			t.Fatalf("unshare: %s", got)
		}
		refuses(c.says, "--pid", strconv.Itoa(x.PID()))
		d := kit.StartDaemonWith(t, kit.Program(t), []string{"--no-bpf"})
		d.WantTry(t, c.status, c.says, "guest", "add", "lent", "--layout", "v2", "--controllers", "memory,pids", "--pid", strconv.Itoa(x.PID()))
		d.Stop(t)
	}
}

// TestLentRun: programs that look for limits find those of a guest of "run" whose v2 tree has the controllers of v1 hierarchies: GNU
// nproc by path, a JDK by /proc/cgroups and mountinfo.
func TestLentRun(t *testing.T) {
	lentHierarchies(t)
	options := []string{"run", "--layout", "v2", "--limit", "cpu.cfs_quota_us=100000",
		"--limit", fmt.Sprintf("memory.limit_in_bytes=%d", clientMemory)}
	inGuest := func(command ...string) string {
		t.Helper()
		got := kit.RunCommand(t, append(append(options, "--"), command...)...)
		if got.Status != 0 {
			t.Fatalf("%v: %+v", command, got)
		}
		return got.Stdout
	}
	t.Run("nproc", func(t *testing.T) {
		if runtime.NumCPU() == 1 {
			t.Skip("machine: it has one processor")
		}
		tree := needTree(t, "forky")
		lib := filepath.Join(tree, "usr/lib/x86_64-linux-gnu")
		if got := inGuest(filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib, filepath.Join(tree, "usr/bin/nproc")); got != "1\n" {
			t.Errorf("nproc prints %q", got)
		}
	})
	t.Run("java", func(t *testing.T) {
		if _, err := exec.LookPath("java"); err != nil {
			t.Skip("machine: java is not installed")
		}
		if got := inGuest(append([]string{"java"}, javaArgs...)...); !regexp.MustCompile(javaSees).MatchString(got) {
			t.Errorf("java prints %.2000s", got)
		}
	})
	// Those go by the first lines of /proc/self/cgroup, which without the option are v1's.
	options = append(options, "--proc")
	t.Run("node", func(t *testing.T) {
		if _, err := exec.LookPath("node"); err != nil {
			t.Skip("machine: node is not installed")
		}
		if got, want := inGuest("node", "-p", "process.constrainedMemory()"), fmt.Sprintf("%d\n", clientMemory); got != want {
			t.Errorf("node prints %q, want %q", got, want)
		}
	})
	t.Run("rust", func(t *testing.T) {
		if !kit.Exists(rustProgram()) {
			t.Skip("machine: rustc was not installed when the tests were built")
		}
		path, err := filepath.Abs(rustProgram())
		if err != nil {
			t.Fatal(err)
		}
		if got := inGuest(path); got != "1\n" {
			t.Errorf("it prints %q", got)
		}
	})
}

// TestLentStack: below a view of layout v2 is a mount of the guest's own cgroup in the host's v2 hierarchy, which no runtime makes
// beside v1. Root in the container that takes its view away finds it, and gains nothing; nothing of the container is mounted on the host.
func TestLentStack(t *testing.T) {
	if !conn.KernelAtLeast(6, 5) {
		t.Skip("kernel: before 6.5 nothing can be mounted beneath what is there (MOVE_MOUNT_BENEATH)")
	}
	_, _, tree := lentHierarchies(t)
	runc := kit.NeedRuntime(t, "runc")
	h := kit.OpenHost(t)
	d := kit.StartDaemon(t)
	b := stackedBundle(t, d, runc, "--layout", "v2", "--controllers", "memory,pids")
	x := kit.StartProcess(t, b.Command(runc))
	check := func(when string) {
		t.Helper()
		got := kit.KernelMounts(x.Ask(t, "read", "/proc/self/mountinfo"))
		if len(got) != 1 || got[0].At != kit.GuestView || got[0].Root != "/" || !got[0].ReadOnly() {
			t.Errorf("%s: below the view are %+v; want one, read-only, at %s", when, got, kit.GuestView)
		}
		if host := kit.ReadFile("/proc/self/mountinfo"); strings.Contains(host, kit.HostDir(tree, b.Cgroup)) {
			t.Errorf("%s: something is mounted on the host's %s", when, kit.HostDir(tree, b.Cgroup))
		}
	}
	check("at the start")
	if says := d.DoctorOf(t, kit.InitOf(t, runc, b)); says.Sight != "stacked-lent" {
		t.Errorf("doctor says %q", says.Sight)
	}
	if got := x.Ask(t, "mkdir", kit.GuestView+"/child"); got != "ok" {
		t.Errorf("mkdir: %s", got)
	}
	if got := x.Ask(t, "umount", kit.GuestView); got != "ok" {
		t.Fatalf("umount: %s", got)
	}
	if got := x.Ask(t, "read", kit.GuestView+"/memory.max"); got != "ENOENT" {
		t.Errorf("below the view memory.max is %q", got)
	}
	for _, file := range []string{"child/cgroup.procs", "cgroup.subtree_control"} {
		if got := x.Ask(t, "write", kit.GuestView+"/"+file, "0"); got != "EROFS" && got != "EACCES" {
			t.Errorf("writing to the real %s: %s", file, got)
		}
	}
	if got := x.Ask(t, "mkdir", kit.GuestView+"/evil"); got != "EROFS" && got != "EACCES" {
		t.Errorf("making a real cgroup: %s", got)
	}
	d.WantTry(t, 0, "", "guest", "attach", b.ID)
	check("when it is back")
	if got := x.Ask(t, "read", kit.GuestView+"/memory.max"); got != "max\n" {
		t.Errorf("in the view that is back memory.max is %q", got)
	}
	x.End(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// TestLentOOM: a guest's watch on memory.events fires when the host's v1 controller has killed a process of the cgroup, also when no
// other process is in it.
func TestLentOOM(t *testing.T) {
	hiers, path, v := mountLent(t, t.Name())
	if word := kit.WriteFile(filepath.Join(v.Dir, subtreeControl), "+memory"); word != "ok" {
		t.Fatal(word)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	eventfds := func() (n int) {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", v.Cmd.Process.Pid))
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); to == "anon_inode:[eventfd]" {
				n++
			}
		}
		return n
	}
	before := eventfds()
	for _, name := range []string{"a", "b"} {
		dir := filepath.Join(v.Dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, value := range map[string]string{"memory.swap.max": "0", "memory.max": "8M"} {
			if word := kit.WriteFile(filepath.Join(dir, file), value); word != "ok" {
				t.Fatalf("%s: %s", file, word)
			}
		}
		if _, err := unix.InotifyAddWatch(fd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY); err != nil {
			t.Fatal(err)
		}
		killed := 0
		for range 2 {
			kit.ReadInotify(fd) // the last one's
			procs := filepath.Join(kit.HostDir(hiers["memory"], path+"/"+name), kit.Procs)
			cmd := exec.Command("sh", "-c", "echo $$ >"+procs+"; exec dd if=/dev/zero of=/dev/null bs=104857600 count=1")
			if err := cmd.Run(); err == nil {
				t.Error("nothing was killed")
			}
			kit.Eventually(t, "inotify on memory.events", func() bool { return kit.ReadInotify(fd) != "EAGAIN" })
			events, now := kit.ReadFile(filepath.Join(dir, "memory.events")), 0
			if found := regexp.MustCompile(`oom_kill (\d+)`).FindStringSubmatch(events); found != nil {
				now, _ = strconv.Atoi(found[1])
			}
			if now <= killed {
				t.Errorf("in %s after %d: %q", name, killed, events)
			}
			killed = now
		}
		if word := kit.Word(os.Remove(dir)); word != "ok" {
			t.Errorf("rmdir: %s", word)
		}
		kit.Eventually(t, "the descriptor of the removed cgroup to go", func() bool { return eventfds() == before })
	}
}
