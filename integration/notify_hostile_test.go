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
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestNotifyRaces: calls whose arguments change while they are answered attach nothing but in the guest's own mount namespace.
func TestNotifyRaces(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	binary, a, b := kit.PublicProgram(t), kit.PublicDir(t), kit.PublicDir(t)
	before := mountPoints()
	for _, form := range [][]string{{"--privileged"}, {"--userns", "--privileged"}} {
		got := kit.RunRole(t, binary, "notify-races "+a+" "+b, append(form, "--controllers", kit.AllControllers(kit.OpenHost(t)))...)
		t.Logf("%v: %s", form, got[0])
		if !strings.Contains(got[0], "ok:") {
			t.Errorf("%v: no mount ever succeeded: %s", form, got[0])
		}
		if now := mountPoints(); !slices.Equal(now, before) {
			t.Errorf("%v: the host's mounts were %q and are %q", form, before, now)
		}
	}
}

// mountPoints are where something is mounted here.
func mountPoints() (all []string) {
	for line := range strings.Lines(kit.MountTable()) {
		all = append(all, strings.Fields(line)[4])
	}
	return all
}

// TestNotifyHang: a file system of the guest's own that never answers keeps neither the guest's other calls nor anybody else's waiting.
func TestNotifyHang(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	for _, role := range []string{"notify-hang", "notify-stuck", "notify-hang-proc"} {
		binary, at := kit.PublicProgram(t), kit.PublicDir(t)
		cmd := kit.RoleCommand(t, binary, role+" "+at, "--privileged", "--controllers", "pids")
		out, err := outputWithin(t, cmd, 60*time.Second)
		if err != nil {
			t.Fatalf("%s: %v: %s", role, err, out)
		}
		if out == "" {
			t.Errorf("%s: it says nothing", role)
		}
		for line := range strings.Lines(out) {
			var ms int
			if n, _ := fmt.Sscanf(line, "slowest %d ms", &ms); n != 1 || ms > 10_000 { // another supervisor goes on after a second
				t.Errorf("%s: beside a path that hangs: %q", role, line)
			}
		}
		t.Log(role, strings.Fields(out))
	}
}

// outputWithin is the output of a command that must end within a time.
func outputWithin(t *testing.T, cmd *exec.Cmd, bound time.Duration) (string, error) {
	t.Helper()
	timer := time.AfterFunc(bound, func() { cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.Output()
	return string(out), err
}

// TestNotifyKilled: the process that answers is killed while it does, some times: nobody gets a wrong answer, and nobody waits for ever.
// With kills beyond measure the calls are passed on.
func TestNotifyKilled(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	binary := kit.PublicProgram(t)
	cmd := kit.RoleCommand(t, binary, "notify-loop", "--controllers", "pids")
	cmd.Stderr = nil
	g := kit.StartProcess(t, cmd)
	if line := g.Line(t); line == "type 0x65735546" {
		t.Fatalf("at first: %s", line)
	}
	killed := map[int]bool{}
	for range 5 {
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
	fmt.Fprintln(g.In)
	if got := g.Line(t); got != "wrong 0 asked true" {
		t.Errorf("killed five times: %s", got)
	}
	g.In.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the guest ended with %v", err)
	}
}

// TestNotifyPassedOn: where what answers keeps ending, the kernel answers.
func TestNotifyPassedOn(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	g := kit.StartProcess(t, exec.Command(kit.Program(t), "run", "--no-bpf", "--controllers", "pids", "--", "sh", "-c",
		"while read x; do stat -f -c %t /sys/fs/cgroup; done"))
	ask := func() string {
		fmt.Fprintln(g.In)
		return g.Line(t)
	}
	first := ask()
	passed := false
	for i := 0; i < 20 && !passed; i++ {
		if pid := kit.SupervisorOf(g.Cmd.Process.Pid); pid != 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
		passed = ask() == "65735546"
	}
	if first == "65735546" || !passed || ask() != "65735546" {
		t.Errorf("at first %s, and never passed on: %v", first, passed)
	}
	g.In.Close()
	g.Cmd.Wait()
}

// TestNotifyRunKilled: "run" is killed while its guest asks all the time: all of it ends, and the view's connection too.
func TestNotifyRunKilled(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	binary := kit.PublicProgram(t)
	before := connections()
	for range 5 {
		cmd := kit.RoleCommand(t, binary, "notify-loop", "--name", "killed-"+strconv.Itoa(os.Getpid()), "--controllers", "pids")
		cmd.Stderr = nil
		g := kit.StartProcess(t, cmd)
		g.Line(t)
		time.Sleep(20 * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	kit.Eventually(t, "the views' connections to end", func() bool { return connections() <= before })
	kit.RunGuest(t, []string{"--controllers", "pids"}, "true") // which clears up
	kit.WantGone(t, kit.OpenHost(t), "killed-"+strconv.Itoa(os.Getpid()))
}

// connections counts FUSE connections, where they can be seen.
func connections() int {
	entries, _ := os.ReadDir("/sys/fs/fuse/connections")
	return len(entries)
}

// TestNestedNotify: a guest in a guest has no listener of its own. That is silent, and the outer guest's own view keeps its type.
func TestNestedNotify(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	n := kit.NewNest(t)
	cmd := n.Run(n.Role("notify-types [\"\"]", "--controllers", "pids"), "--userns", "--privileged", "--controllers", "pids")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || errs.Len() > 0 {
		t.Errorf("%v: %s", err, &errs)
	}
	if got := strings.TrimSpace(string(out)); got != "0x65735546 0x65735546" {
		t.Errorf("the inner view: %q", got)
	}
	cmd = n.Run(n.Role("notify-types [\"\"]", "--controllers", "pids"), "--userns", "--privileged", "--controllers", "pids", "--no-notify", "--no-bpf")
	if out, err := cmd.Output(); err != nil || strings.Contains(string(out), "65735546") {
		t.Errorf("the inner view, with the listener: %v, %q", err, out)
	}
}

// TestNestedNotifyMount: what a guest in a guest mounts is the outer view, from the inner boundary on: to the inner root the limits there
// are somebody else's files, as the real cgroups would be.
func TestNestedNotifyMount(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	n := kit.NewNest(t)
	inner := []string{"--userns", "--privileged", "--controllers", "pids", "--limit", "pids.max=50"}
	cmd := n.Run(n.Role("notify-limit /tmp", inner...), "--userns", "--privileged", "--controllers", "pids")
	out, err := cmd.Output()
	if got := strings.TrimSpace(string(out)); got != "limit 50, write: EACCES, directory: EACCES" {
		t.Errorf("%v: %s", err, got)
	}
}

// notifyView is a view that is served by hand, for guests that "run" does not make.
func notifyView(t *testing.T) (dir, top, magic string) {
	t.Helper()
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "exec", hier)
	v := kit.MountView(t, "--no-bpf", "--boundary", path, "--controllers", "pids")
	if kit.OnV1(h, "pids") {
		return v.Dir, "1021994", "27e0eb"
	}
	return v.Dir, "63677270", "63677270"
}

// TestNotifyExec: inside a guest whose manager cannot answer for it the command is itself: its number, its status, its descriptors. Views
// have their types, mounts are the guest's view, and no process is left.
func TestNotifyExec(t *testing.T) {
	before := keepers()
	dir, top, magic := notifyView(t)
	at := kit.PublicDir(t)
	part, kind, options := kit.GuestView, "cgroup2", ""
	if top != magic {
		part, kind, options = kit.GuestView+"/pids", "cgroup", "-o pids"
	}
	script := fmt.Sprintf(`echo $$; stat -f -c %%t %s %s /; mount -t %s %s none %s && stat -f -c %%t %[5]s && ls %[5]s/pids.max; mount -t cgroup -o foo none %[5]s 2>/dev/null || echo refused
cat <&5; grep -c Seccomp:.2 /proc/self/status; exit 7`, kit.GuestView, part, kind, options, at)
	cmd := exec.Command("unshare", "-m", "-p", "-f", "--mount-proc", "--propagation", "private", "sh", "-c",
		"mount --rbind "+dir+" "+kit.GuestView+" && exec 5</proc/sys/kernel/ostype && exec "+kit.AbsProgram(t)+" notify-exec -- sh -c '"+script+"'")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var root unix.Statfs_t
	unix.Statfs("/", &root)
	want := []string{
		"1", top, magic, strconv.FormatInt(int64(root.Type), 16), magic, at + "/pids.max", "refused", "Linux", "1",
	}
	if cmd.ProcessState.ExitCode() != 7 || len(lines) < len(want) || !slices.Equal(lines[:len(want)], want) {
		t.Errorf("%v: %q, want %q", err, lines, want)
	}
	kit.Eventually(t, "what answered to end", func() bool { return left(keepers(), before) == 0 })
}

// keepers are the processes that notify-exec left beside its commands.
func keepers() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		if strings.HasPrefix(kit.ReadFile(path), "@vcgroupfs\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// left counts the processes that were not there before.
func left(now, before []int) (n int) {
	for _, pid := range now {
		if !slices.Contains(before, pid) {
			n++
		}
	}
	return n
}

// TestNotifyExecBubblewrap: in a guest of bubblewrap, as an ordinary user's root.
func TestNotifyExecBubblewrap(t *testing.T) {
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Skip("machine: bubblewrap is not installed")
	}
	before := keepers()
	dir, top, _ := notifyView(t)
	programs := kit.PublicDir(t)
	kit.CopyProgram(t, kit.AbsProgram(t), filepath.Join(programs, "vcgroupfs"))
	cmd := exec.Command("bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--bind", dir, kit.GuestView,
		"--", filepath.Join(programs, "vcgroupfs"), "notify-exec", "--", "sh", "-c", "stat -f -c %t "+kit.GuestView+"; exit 5")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if got := strings.TrimSpace(string(out)); got != top || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("%v: type %s, want %s", err, got, top)
	}
	kit.Eventually(t, "what answered to end", func() bool { return left(keepers(), before) == 0 })
}

// TestNotifyExecForeignProc: where /proc is another pid namespace's, no caller is taken for the process that has its number there.
func TestNotifyExecForeignProc(t *testing.T) {
	dir, _, _ := notifyView(t)
	script := "mount --rbind " + dir + " " + kit.GuestView + "; stat -f -c %t " + kit.GuestView + "; exec unshare -p -f " +
		kit.AbsProgram(t) + " notify-exec -- stat -f -c %t " + kit.GuestView
	cmd := exec.Command("unshare", "-m", "-p", "-f", "--mount-proc", "--propagation", "private", "sh", "-c", script)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	// The number of the inner "stat" is in that /proc one of the processes around it.
	if got := strings.Fields(string(out)); err != nil || !slices.Equal(got, []string{"65735546", "65735546"}) {
		t.Errorf("%v: types %q", err, got)
	}
	kit.Eventually(t, "what answered to end", func() bool { return len(keepers()) == 0 })
}

// TestNotifyExecStatus: what cannot be executed has a shell's status, and a signal reaches the command.
func TestNotifyExecStatus(t *testing.T) {
	before := keepers()
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{nil, 125, "no command to execute"}, {[]string{"/nonexistent/command"}, 127, "cannot execute"}, {[]string{"/etc/passwd"}, 126, "cannot execute"},
		{[]string{"sh", "-c", "exit 3"}, 3, ""},
	} {
		got := kit.RunCommand(t, append([]string{"notify-exec", "--"}, c.args...)...)
		if got.Status != c.status || !strings.Contains(got.Stderr, c.says) || c.says == "" && got.Stderr != "" {
			t.Errorf("%v: status %d, %q", c.args, got.Status, got.Stderr)
		}
	}
	cmd := exec.Command(kit.Program(t), "notify-exec", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
	g := kit.StartProcess(t, cmd)
	g.Line(t)
	cmd.Process.Signal(unix.SIGTERM)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 9 {
		t.Errorf("after a signal: status %d", got)
	}
	// Whoever reads its standard error waits for no process that it has left behind.
	parent := kit.RunCommand(t, "notify-exec", "--", "sh", "-c", "sleep 30 >/dev/null 2>&1 & echo $!")
	if pid, err := strconv.Atoi(strings.TrimSpace(parent.Stdout)); err != nil || unix.Kill(pid, unix.SIGKILL) != nil {
		t.Errorf("%q: standard error was held until the command's child had ended", parent.Stdout)
	}
	// Under a filter with a listener it does nothing but execute the command.
	nested := kit.RunGuest(t, []string{"--privileged", "--controllers", "pids"}, kit.AbsProgram(t)+" notify-exec -- stat -f -c %t /sys/fs/cgroup")
	if nested.Status != 0 || strings.Contains(nested.Stdout, "65735546") || nested.Stderr != "" {
		t.Errorf("in run: %q %q", nested.Stdout, nested.Stderr)
	}
	kit.Eventually(t, "what answered to end", func() bool { return left(keepers(), before) == 0 })
}

// TestRunNameTaken: a guest whose cgroup is there already is refused in words, and the cgroup stays.
func TestRunNameTaken(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	name := "taken-" + strconv.Itoa(os.Getpid())
	if err := hier.Create("/vcgroupfs/"+name, 0o755); err != nil {
		t.Fatal(err)
	}
	defer hier.RemoveAll("/vcgroupfs/" + name)
	got := kit.RunCommand(t, "run", "--name", name, "--controllers", "pids", "--", "true")
	if got.Status != 125 || !strings.Contains(got.Stderr, "choose another --name") || !hier.Exists("/vcgroupfs/"+name) {
		t.Errorf("status %d, %q, still there: %v", got.Status, got.Stderr, hier.Exists("/vcgroupfs/"+name))
	}
}
