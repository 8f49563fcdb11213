package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// procArgs are the options of a guest with layout v1 on this host's v2 hierarchy, and a v1 hierarchy of it beside "one".
func procArgs(t *testing.T, more ...string) (args []string, other string) {
	t.Helper()
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, hierarchy.Unified)
	other = "memory"
	if !slices.Contains(hier.Controllers, other) {
		if other = "hugetlb"; !slices.Contains(hier.Controllers, other) {
			t.Skip("machine: this kernel's v2 hierarchy has neither memory nor hugetlb")
		}
	}
	return append([]string{"--layout", "v1", "--controllers", other + ",name=one"}, more...), other
}

// procForms are the forms of "run" in which the guest's opens are answered.
var procForms = [][]string{{}, {"--userns"}, {"--privileged"}, {"--userns", "--privileged"}}

// TestProcOpens: a task's cgroup, mountinfo and mounts are the view's however they are opened for reading. What is not answered, is as
// without the option.
func TestProcOpens(t *testing.T) {
	binary := kit.PublicProgram(t)
	for _, form := range procForms {
		t.Run(kit.FormName(form), func(t *testing.T) {
			args, _ := procArgs(t, form...)
			native := kit.RunRole(t, binary, "proc-opens "+writableDir(t), args...)
			got := kit.RunRole(t, binary, "proc-opens "+writableDir(t), append(args, "--proc")...)
			if len(got) != len(native) || len(got) < 3*len(procWays) {
				t.Fatalf("%d results, without the option %d", len(got), len(native))
			}
			answered := map[string]bool{"/proc/mounts": true}
			for _, w := range procWays {
				for _, file := range []string{"cgroup", "mountinfo", "mounts"} {
					answered[file+", "+w.name] = w.answered
				}
			}
			for i := range native {
				name, was, _ := strings.Cut(native[i], ": ")
				_, is, _ := strings.Cut(got[i], ": ")
				want := was
				if answered[name] {
					want = "view"
				}
				if answered[name] && was != "kernel" || is != want {
					t.Errorf("%s: %s, want %s; without the option %s", name, is, want, was)
				}
			}
		})
	}
}

// writableDir is a directory that a guest of any form can write.
func writableDir(t *testing.T) string {
	t.Helper()
	dir := kit.PublicDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	})
	return dir
}

// TestProcPlaces: in each hierarchy a task is where its directories say, and the text names that directory.
func TestProcPlaces(t *testing.T) {
	binary := kit.PublicProgram(t)
	for _, form := range procForms[:2] {
		args, other := procArgs(t, append([]string{"--proc"}, form...)...)
		got := kit.RunRole(t, binary, "proc-places "+other, args...)
		in := func(when, one, rest string) string {
			return fmt.Sprintf("%s: ONE:name=one:%s ID:%s:%s", when, one, other, rest)
		}
		want := []string{
			in("at first", "/", "/"), in("with directories", "/", "/"),
			in("one/a/b", "/a/b", "/a"), "one/a/b: not in one/tasks", "one/a/b: not in OTHER/tasks",
			in(other+"/a", "/a/b", "/a"), other + "/a: not in one/tasks", other + "/a: not in OTHER/tasks",
			in(other+"/c", "/", "/c"), other + "/c: in one/tasks", other + "/c: not in OTHER/tasks",
			in("one/a", "/a", "/a"), "one/a: not in one/tasks", "one/a: not in OTHER/tasks",
			in("one", "/", "/"), "one: in one/tasks", "one: in OTHER/tasks",
		}
		for i := range got {
			// The ids are the host's next ones.
			if _, lines, ok := strings.Cut(got[i], ": "); ok && strings.Contains(lines, ":name=one:") {
				for _, line := range strings.Fields(lines) {
					id, rest, _ := strings.Cut(line, ":")
					word := "ID"
					if strings.HasPrefix(rest, "name=") {
						word = "ONE"
					}
					got[i] = strings.Replace(got[i], id+":"+rest, word+":"+rest, 1)
				}
			}
			got[i] = strings.ReplaceAll(got[i], "in "+other+"/tasks", "in OTHER/tasks")
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: %s\nwant %s", form, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestProcCgroupsAgree: the ids in /proc/self/cgroup are those in /proc/cgroups, and no two hierarchies have the same.
func TestProcCgroupsAgree(t *testing.T) {
	args, other := procArgs(t, "--proc")
	res := kit.RunGuest(t, args, "cat /proc/self/cgroup; cat /proc/cgroups")
	ids := map[string]string{}
	for line := range strings.Lines(res.Stdout) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 3 {
			ids[f[1]] = f[0]
		}
		if f := strings.Fields(line); f[0] == other && f[1] != ids[other] {
			t.Errorf("%s, and %v", line, ids)
		}
	}
	if len(ids) != 2 || ids["name=one"] == ids[other] || ids[other] == "0" {
		t.Errorf("%q has ids %v", res.Stdout, ids)
	}
}

// TestProcInner: a cgroup namespace in the guest has paths of its own, and a mount there is of its part.
func TestProcInner(t *testing.T) {
	args, _ := procArgs(t, "--proc", "--userns", "--privileged")
	dir := writableDir(t)
	got := kit.RunRole(t, kit.PublicProgram(t), "proc-inner "+dir, args...)
	for i := range got {
		if what, line, ok := strings.Cut(got[i], ": "); ok && strings.Contains(line, ":name=one:") {
			_, rest, _ := strings.Cut(line, ":")
			got[i] = what + ": " + rest
		}
	}
	want := []string{
		"mount: ok", "self: name=one:/", "below: name=one:/below", "outer: name=one:/..", "mountinfo: / cgroup cgroup rw,name=one",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestProcLayouts: in the layouts that the host has, the view's lines take the type of the kernel's own mounts.
func TestProcLayouts(t *testing.T) {
	h := kit.OpenHost(t)
	for _, hier := range h.Hierarchies() {
		if len(kit.ShownControllers(hier)) == 0 {
			continue
		}
		args := []string{"--proc", "--no-stack", "--controllers", strings.Join(kit.ShownControllers(hier), ",")}
		res := kit.RunGuest(t, args, "grep ' /sys/fs/cgroup' /proc/self/mountinfo; cat /proc/self/cgroup")
		kind := "cgroup"
		if hier.Version == hierarchy.V2 {
			kind = "cgroup2"
		}
		if res.Status != 0 || strings.Contains(res.Stdout, "fuse") || !strings.Contains(res.Stdout, " - "+kind+" "+kind+" rw") || !strings.HasSuffix(res.Stdout, ":/\n") {
			t.Errorf("%s: %d %s %s", hier, res.Status, res.Stdout, res.Stderr)
		}
	}
}

// TestProcPrograms: libcgroup's programs, which look for mounts of v1 in /proc/mounts, find what the view shows, and without the option nothing.
func TestProcPrograms(t *testing.T) {
	if _, err := exec.LookPath("cgget"); err != nil {
		t.Skip("machine: no cgget is installed")
	}
	args, other := procArgs(t)
	file, limit := "memory.limit_in_bytes", "67108864"
	if other == "hugetlb" {
		file = "hugetlb.2MB.limit_in_bytes"
	}
	top := kit.GuestView + "/" + other
	script := "mkdir " + top + "/g; cgset -r " + file + "=" + limit + " g; cat " + top + "/g/" + file + "; cgget -n -v -r " + file + " g; " +
		"cgexec -g " + other + ":g grep :" + other + ": /proc/self/cgroup"
	res := kit.RunGuest(t, append(args, "--proc"), script)
	lines := strings.Split(strings.TrimSpace(res.Stdout), "\n")
	if len(lines) != 3 || lines[0] != limit || lines[1] != limit || !strings.HasSuffix(lines[2], ":"+other+":/g") {
		t.Errorf("%q %q", res.Stdout, res.Stderr)
	}
	if res := kit.RunGuest(t, args, script); !strings.Contains(res.Stderr, "libcgroup initialization failed: Cgroup is not mounted") {
		t.Errorf("without the option: %q %q", res.Stdout, res.Stderr)
	}
}

// TestProcRaces: no path that changes while it is answered gives anybody more than a text of the guest's own.
func TestProcRaces(t *testing.T) {
	binary := kit.PublicProgram(t)
	for _, form := range procForms {
		args, _ := procArgs(t, append([]string{"--proc"}, form...)...)
		got := kit.RunRole(t, binary, "proc-races "+writableDir(t), args...)
		views := 0
		for _, line := range got {
			kind, count, _ := strings.Cut(line, ": ")
			var n int
			fmt.Sscan(count, &n)
			switch kind {
			case "view":
				views = n
			case "kernel", "own", "ENOENT", "ENOTDIR", `""`: // the last is of a directory
			default:
				t.Errorf("%v: %s", form, line)
			}
		}
		if views == 0 {
			t.Errorf("%v: none was the view's: %q", form, got)
		}
		t.Log(form, got)
	}
}

// TestProcKeeps: what a guest keeps open is bounded, and then it gets the kernel's files.
func TestProcKeeps(t *testing.T) {
	args, _ := procArgs(t, "--proc")
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if was.Max < procKept {
		// The guest has no right to raise it.
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: was.Cur, Max: procKept}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &was) })
	}
	got := kit.RunRole(t, kit.PublicProgram(t), "proc-keeps", args...)
	var views, kernels int
	if fmt.Sscanf(got[0], "views %d kernels %d", &views, &kernels); views < 4000 || views > 4096 || views+kernels != 6000 {
		t.Errorf("of 6000: %s", got[0]) // Go's runtime has opened some, too
	}
	if want := []string{"afterwards view", "without room EMFILE"}; !slices.Equal(got[1:], want) {
		t.Errorf("%q, want %q", got[1:], want)
	}
}

// TestProcKilled: the process that answers is killed some times: every open succeeds.
func TestProcKilled(t *testing.T) {
	args, _ := procArgs(t, "--proc")
	cmd := kit.RoleCommand(t, kit.PublicProgram(t), "proc-loop", args...)
	g := kit.StartProcess(t, cmd)
	if line := g.Line(t); line != "view" {
		t.Fatalf("at first: %s", line)
	}
	killed := map[int]bool{}
	for range 4 {
		var pid int
		kit.Eventually(t, "a supervisor that was not killed yet", func() bool {
			pid = kit.SupervisorOf(cmd.Process.Pid)
			return pid != 0 && !killed[pid]
		})
		time.Sleep(50 * time.Millisecond)
		killed[pid] = true
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond)
	g.In.Close()
	if got := g.Line(t); !strings.HasPrefix(got, "map[view:") {
		t.Errorf("killed some times: %s", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the guest ended with %v", err)
	}
}

// TestProcStuck: paths that cannot be read, and file systems that never answer, keep nobody else's opens waiting, nor the guest's end.
func TestProcStuck(t *testing.T) {
	args, _ := procArgs(t, "--proc", "--privileged")
	cmd := kit.RoleCommand(t, kit.PublicProgram(t), "proc-stuck "+writableDir(t), args...)
	out, err := outputWithin(t, cmd, 60*time.Second)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(out) {
		var ms int
		if n, _ := fmt.Sscanf(line, "slowest %d ms", &ms); n == 1 && ms > 3000 {
			t.Errorf("beside paths that hang: %q", line)
		}
	}
	if !strings.Contains(out, "map[view:100]") {
		t.Errorf("%q", out)
	}
	t.Log(out)
}

// TestProcOutside: a task of the host, whose /proc a guest can reach, is not described.
func TestProcOutside(t *testing.T) {
	args, _ := procArgs(t, "--proc", "--privileged")
	script := "nsenter --version >/dev/null 2>&1; umount /proc/cgroups; umount /proc; grep -c 0:: /proc/" + fmt.Sprint(os.Getpid()) + "/cgroup"
	if res := kit.RunGuest(t, args, script); res.Stdout != "1\n" {
		t.Errorf("%q %q", res.Stdout, res.Stderr)
	}
}

// TestProcNested: where an outer filter answers already, that is said.
func TestProcNested(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	n := kit.NewNest(t)
	form := []string{"--userns", "--privileged", "--no-bpf", "--controllers", "pids"}
	cmd := n.Run(n.Role("read /proc/self/cgroup", append(form, "--proc")...), form...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || !strings.Contains(errs.String(), "an outer filter has a listener already: files in /proc are the kernel's") {
		t.Errorf("%v: %q %q", err, out, errs.String())
	}
}

// TestProcOption: without notification there is none.
func TestProcOption(t *testing.T) {
	cmd := exec.Command(kit.Program(t), "run", "--proc", "--no-notify", "--", "true")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--proc needs seccomp notification: leave out --no-notify") {
		t.Errorf("%v: %s", err, out)
	}
}
