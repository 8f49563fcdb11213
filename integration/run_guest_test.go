package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestRun is what the README promises of "run".
func TestRun(t *testing.T) {
	h := kit.OpenHost(t)
	kit.NeedHierarchy(t, h, "memory")
	p := kit.PathsOf(h)
	for _, form := range [][]string{nil, {"--userns"}, {"--privileged"}} {
		t.Run(strings.Join(append([]string{"as"}, form...), ""), func(t *testing.T) {
			name := "run-test-" + strconv.Itoa(os.Getpid())
			args := append([]string{"--name", name, "--controllers", "memory,pids", "--limit", "pids.max=64", "--limit", p.Limit + "=256M"}, form...)
			got := kit.RunGuest(t, args, p.Expand(`
cd /sys/fs/cgroup || exit 1
enable() { [ -z "MEMORY/" ] || return 0; echo "+memory +pids" >cgroup.subtree_control; }
echo root: $(ls -d memory pids cpu cpuset unified blkio 2>/dev/null)
echo limits: $(cat PIDS/pids.max MEMORY/LIMIT)
(echo max >PIDS/pids.max) 2>/dev/null && echo raised
(echo 1G >MEMORY/LIMIT) 2>/dev/null && echo raised
echo limits: $(cat PIDS/pids.max MEMORY/LIMIT)
[ -e cgroup.subtree_control ] && echo "+memory +pids" >cgroup.subtree_control
mkdir MEMORY/a && echo 64M >MEMORY/a/LIMIT && echo child: $(cat MEMORY/a/LIMIT)
echo $$ >MEMORY/a/cgroup.procs && read -r first <MEMORY/a/cgroup.procs && echo procs: $$ $first
echo 0 >MEMORY/cgroup.procs; echo left: $(cat MEMORY/a/cgroup.procs)
rmdir MEMORY/a && echo removed
grep -c . /proc/cgroups >/dev/null && echo cgroups: $(cut -f1 /proc/cgroups | tail -n +2)
exit 9`))
			want := []string{"limits: 64 268435456", "limits: 64 268435456", "child: 67108864", "procs: 1 1", "left:", "removed"}
			lines := strings.Split(got.Stdout, "\n")
			for _, w := range want {
				if !slices.Contains(lines, w) {
					t.Errorf("no line %q", w)
				}
			}
			if p.Memory != "" && !slices.Contains(lines, "root: memory pids") {
				t.Error("the root shows something else than memory and pids")
			}
			if got.Status != 9 || strings.Contains(got.Stdout, "raised") || got.Stderr != "" {
				t.Errorf("status %d, said %q", got.Status, got.Stderr)
			}
			if t.Failed() {
				t.Log(got.Stdout)
			}
			kit.WantGone(t, h, name)
		})
	}
}

// TestHostSees: the host sees what the guest makes, owned by root, with its own numbers of the tasks in it.
func TestHostSees(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "memory")
	p := kit.PathsOf(h)
	name := "sees-" + strconv.Itoa(os.Getpid())
	cmd := exec.Command(kit.Program(t), "run", "--name", name, "--userns", "--controllers", "memory,pids", "--", "sh", "-c", p.Expand(`
cd /sys/fs/cgroup
[ -e cgroup.subtree_control ] && echo "+memory" >cgroup.subtree_control
sleep 100 & mkdir MEMORY/a && chown 5:5 MEMORY/a && echo 64M >MEMORY/a/LIMIT && echo $! >MEMORY/a/cgroup.procs && echo $! $(cat MEMORY/a/cgroup.procs) $(stat -c %u:%U MEMORY/a)
read x`))
	g := kit.StartProcess(t, cmd)
	var inside, shown int
	line := g.Line(t)
	if n, _ := fmt.Sscan(line, &inside, &shown); n != 2 || inside != shown || !strings.Contains(line, "5:") {
		t.Errorf("the guest says %q", line)
	}
	dir := kit.HostDir(hier, "/vcgroupfs/"+name+"/a")
	if got := kit.StatText(dir); !strings.Contains(got, "owner 0:0") {
		t.Errorf("on the host: %s", got)
	}
	if got := strings.TrimSpace(kit.ReadFile(filepath.Join(dir, p.Limit))); got != "67108864" {
		t.Errorf("the limit on the host: %s", got)
	}
	var pid int
	fmt.Sscan(kit.ReadFile(filepath.Join(dir, kit.Procs)), &pid)
	status := kit.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if pid == inside || !strings.Contains(status, fmt.Sprintf("NSpid:\t%d\t%d\n", pid, inside)) {
		t.Errorf("process %d on the host is not %d in the guest", pid, inside)
	}
	g.In.Close()
	cmd.Wait()
	kit.WantGone(t, h, name)
}

// TestExitStatus: as a shell's.
func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"true"}, 0, ""}, {[]string{"sh", "-c", "exit 3"}, 3, ""}, {[]string{"sh", "-c", "kill -9 $$; sleep 9 & kill -9 -1"}, 0, ""},
		{[]string{"/nonexistent/command"}, 127, "cannot execute"}, {[]string{"no-such-command-here"}, 127, "cannot execute"},
		{[]string{"/etc/passwd"}, 126, "cannot execute"},
	} {
		got := kit.RunCommand(t, append([]string{"run", "--controllers", "pids", "--"}, c.args...)...)
		if got.Status != c.status || !strings.Contains(got.Stderr, c.says) || c.says == "" && got.Stderr != "" {
			t.Errorf("%v: status %d, %q; want %d", c.args, got.Status, got.Stderr, c.status)
		}
	}
}

// TestSignals: they are passed on, and end a command that does not handle them.
func TestSignals(t *testing.T) {
	h := kit.OpenHost(t)
	for _, c := range []struct {
		script string
		signal unix.Signal
		status int
	}{
		{"echo ready; exec sleep 100", unix.SIGTERM, 128 + 15}, {"echo ready; exec sleep 100", unix.SIGINT, 128 + 2},
		{"echo ready; exec sleep 100", unix.SIGHUP, 128 + 1},
		{"trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", unix.SIGTERM, 7},
		{"trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done", unix.SIGUSR1, 8},
	} {
		if ignored(c.signal) {
			continue // whoever started the tests ignores it, and so does what they start
		}
		name := "signal-" + strconv.Itoa(os.Getpid())
		cmd := exec.Command(kit.Program(t), "run", "--name", name, "--controllers", "pids", "--", "sh", "-c", c.script)
		g := kit.StartProcess(t, cmd)
		g.Line(t)
		if strings.Contains(c.script, "exec") { // a shell that is about to execute another program forgets a signal
			first := kit.ChildOf(t, cmd.Process.Pid)
			kit.Eventually(t, "sleep to begin", func() bool { return kit.ReadFile("/proc/"+strconv.Itoa(first)+"/comm") == "sleep\n" })
		}
		cmd.Process.Signal(c.signal)
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != c.status {
			t.Errorf("%q with %v: status %d, want %d", c.script, c.signal, got, c.status)
		}
		kit.WantGone(t, h, name)
	}
}

// ignored says whether this process was started with a signal ignored; signal.Ignored does not know.
func ignored(s unix.Signal) bool {
	_, rest, _ := strings.Cut(kit.ReadFile("/proc/self/status"), "SigIgn:")
	var mask uint64
	fmt.Sscanf(rest, "%x", &mask)
	return mask&(1<<(s-1)) != 0
}

// TestKilled: what a killed server leaves is removed by the next run, and its guest dies with it, also one whose first process has changed
// its ids, upon which the kernel forgets to end it (prctl(2), PR_SET_PDEATHSIG).
func TestKilled(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testKilled(t) })
	t.Run("other ids", func(t *testing.T) {
		setpriv, err := exec.LookPath("setpriv")
		if err != nil {
			t.Skip("machine: setpriv is not installed")
		}
		if exec.Command(setpriv, "--reuid", "1000", "--clear-groups", "true").Run() != nil {
			t.Skip("machine: this setpriv, such as busybox's, changes no ids")
		}
		testKilled(t, setpriv, "--reuid", "1000", "--clear-groups")
	})
}

func testKilled(t *testing.T, before ...string) {
	h := kit.OpenHost(t)
	name := "killed-" + strconv.Itoa(os.Getpid())
	args := append([]string{"run", "--name", name, "--controllers", "pids", "--"}, before...)
	cmd := exec.Command(kit.Program(t), append(args, "sh", "-c", "echo ready; sleep 100 & sleep 100")...)
	g := kit.StartProcess(t, cmd)
	g.Line(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	if !hier.Exists("/vcgroupfs/" + name) {
		t.Fatal("no boundary")
	}
	cmd.Process.Kill()
	cmd.Wait()
	kit.Eventually(t, "the guest's end", func() bool { s, err := hier.ReadFile("/vcgroupfs/"+name, kit.Procs); return s == "" && err == nil })
	if got := kit.RunCommand(t, "run", "--controllers", "pids", "--", "true"); got.Status != 0 {
		t.Errorf("the next run: %d, %s", got.Status, got.Stderr)
	}
	kit.WantGone(t, h, name)
}

// TestRunRefuses: a failing step leaves nothing, and says what to do.
func TestRunRefuses(t *testing.T) {
	h := kit.OpenHost(t)
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	os.WriteFile(bad, []byte("version: 1\nnonsense: 2\n"), 0o644)
	name := "refused-" + strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"run"}, 125, "no command"}, {[]string{"run", "--limit", "nonsense", "--", "true"}, 125, "FILE=VALUE"},
		{[]string{"run", "--limit", "pids.max=lots", "--", "true"}, 125, "pids.max=lots: write "},
		{[]string{"run", "--limit", "no.such=1", "--", "true"}, 125, "no hierarchy"},
		{[]string{"run", "--limit", "cgroup.procs=1", "--", "true"}, 125, "no hierarchy"},
		{[]string{"run", "--controllers", "memroy", "--", "true"}, 125, "allowed:"},
		{[]string{"run", "--policy", bad, "--", "true"}, 125, "nonsense"}, {[]string{"run", "--policy", "/nonexistent", "--", "true"}, 125, "no such file"},
		{[]string{"run", "--layout", "v3", "--", "true"}, 125, "allowed:"}, {[]string{"run", "--nonsense", "--", "true"}, 125, "--help"},
		{[]string{"run", "--name", "../x", "--", "true"}, 125, "cannot use the name"}, {[]string{"run", "--name", "memory.max", "--", "true"}, 125, "control file"},
		{[]string{"nonsense"}, 2, "no such command"}, {[]string{"policy", "check", bad}, 3, bad + ":2:1"}, {[]string{"policy", "explain", "memory.mx"}, 2, "did you mean memory.max"},
		{[]string{"--log-level", "loud", "version"}, 2, "allowed:"},
	} {
		if c.args[0] == "run" && !slices.Contains(c.args, "--name") {
			c.args = append([]string{"run", "--name", name}, c.args[1:]...)
		}
		got := kit.RunCommand(t, c.args...)
		if got.Status != c.status || !strings.Contains(got.Stderr, c.says) {
			t.Errorf("%v: status %d, %q; want %d and %q", c.args, got.Status, got.Stderr, c.status, c.says)
		}
	}
	kit.WantGone(t, h, name)
}

// TestNothingInherited: neither the working directory nor a descriptor that "run" was started with leads to the real cgroups.
func TestNothingInherited(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	for _, form := range []string{"--privileged", "--userns"} {
		real, err := os.Open(hier.Mountpoint)
		if err != nil {
			t.Fatal(err)
		}
		defer real.Close()
		// With the type answered, a view would say what the real cgroups say.
		cmd := exec.Command(kit.Program(t), "run", form, "--no-bpf", "--no-notify", "--controllers", "pids", "--", "sh", "-c",
			"stat -f -c %t .; ls -d vcgroupfs 2>/dev/null; for i in 3 4 5 6 7 8 9 10 11 12; do [ -d /proc/self/fd/$i/vcgroupfs ] && echo found $i; done; true")
		cmd.Dir = hier.Mountpoint
		cmd.ExtraFiles = []*os.File{real, real, real, real, real, real, real, real}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "vcgroupfs") || strings.Contains(string(out), "found") {
			t.Errorf("%s: %v, %s", form, err, out)
		}
		if got := strings.Fields(string(out)); len(got) == 0 || got[0] != "65735546" {
			t.Errorf("%s: the working directory is on a file system of type %q, want FUSE's 65735546", form, out)
		}
	}
}

// TestConfined: without --privileged the command has a container's capabilities, cannot make a user namespace in which it
// would own the real cgroups, cannot mount, and cannot write the kernel's files.
func TestConfined(t *testing.T) {
	const script = `
grep CapEff /proc/self/status
unshare -U true 2>/dev/null && echo made a user namespace
unshare -m true 2>/dev/null && echo made a mount namespace
mkdir /tmp/confined.$$ && mount -t cgroup2 none /tmp/confined.$$ 2>/dev/null && echo mounted; rmdir /tmp/confined.$$
for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled; do
	[ ! -e $f ] || ! (echo x >$f) 2>/dev/null || echo wrote $f
done
umount /sys/fs/cgroup 2>/dev/null && echo unmounted
true`
	for _, form := range [][]string{nil, {"--userns"}} {
		got := kit.RunGuest(t, append(form, "--controllers", "pids"), script)
		want := "CapEff:\t00000000a00425fb\n"
		if form != nil { // there it may: what comes of it is nobody on the host
			got.Stdout = strings.Replace(got.Stdout, "made a user namespace\n", "", 1)
		}
		if got.Stdout != want || got.Stderr != "" || got.Status != 0 {
			t.Errorf("%v: %+v, want %q", form, got, want)
		}
	}
}

// TestMountRefuses: one line that says what to do.
func TestMountRefuses(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "refuses", hier)
	dir := kit.PublicDir(t)
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o644)
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"mount", dir}, 2, "--boundary PATH or --pid PID"}, {[]string{"mount", "--boundary", path}, 2, "one directory"},
		{[]string{"mount", "--boundary", path, "--controllers", "pids", file}, 1, "not a directory"},
		{[]string{"mount", "--boundary", path, "--controllers", "pids", dir + "/nowhere"}, 1, "make the directory first"},
		{[]string{"mount", "--boundary", "/nowhere-at-all", "--controllers", "pids", dir}, 1, "no such cgroup"},
		{[]string{"mount", "--boundary", "/", "--controllers", "pids", dir}, 2, "below the root"},
		{[]string{"mount", "--boundary", "relative", "--controllers", "pids", dir}, 2, "below the root"},
		{[]string{"mount", "--boundary", path, "--controllers", "nope", dir}, 2, "allowed:"},
		{[]string{"mount", "--boundary", path, "--controllers", "pids", "--owner", "root", dir}, 2, "UID:GID"},
		{[]string{"mount", "--boundary", path, "--controllers", "pids", "-o", "nonsense=1", dir}, 2, "unknown option"},
		{[]string{"mount", "--pid", "4194302", "--controllers", "pids", dir}, 1, "no such process"},
		{[]string{"mount", "--pid", strconv.Itoa(os.Getpid()), "--controllers", "pids", dir}, 1, "own cgroup namespace"},
		{[]string{"mount", "--pid", strconv.Itoa(os.Getpid()), "--current-cgroup", "--controllers", "pids", dir}, 1, "root of the hierarchy"},
		{[]string{"mount", "--boundary", "/x", "--current-cgroup", "--controllers", "pids", dir}, 2, "--pid PID"},
	} {
		got := kit.RunCommand(t, c.args...)
		if got.Status != c.status || !strings.Contains(got.Stderr, c.says) || strings.Count(got.Stderr, "\n") != 1 {
			t.Errorf("%v: status %d, %q; want %d, one line with %q", c.args, got.Status, got.Stderr, c.status, c.says)
		}
	}
	kit.AsUser(65534, func() {
		if got := kit.RunCommand(t, "mount", "--boundary", path, "--controllers", "pids", dir); got.Status != 4 || !strings.Contains(got.Stderr, "as root") {
			t.Errorf("not root: %d, %q", got.Status, got.Stderr)
		}
	})
}

// TestNoDevice: where there is no /dev/fuse, the error says what to do, and nothing is left.
func TestNoDevice(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "no-device", hier)
	name := "no-device-" + strconv.Itoa(os.Getpid())
	for command, status := range map[string]int{
		"mount --boundary " + path + " --controllers pids " + kit.PublicDir(t): 4,
		"run --name " + name + " --controllers pids -- true":                   125,
	} {
		cmd := exec.Command("sh", "-c", "mount -t tmpfs none /dev && exec "+kit.Program(t)+" "+command)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // and its mounts are made private
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != status || !strings.Contains(string(out), "modprobe fuse") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s: status %d, %s; want %d", command, got, out, status)
		}
	}
	kit.WantGone(t, h, name)
}

// TestUmount: umount ends the server with status 0, and takes -o as mount(8) gives it.
func TestUmount(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "umount", hier)
	v := kit.MountView(t, "-o", "boundary="+path+",controllers=pids,rw,nosuid")
	if !kit.Exists(filepath.Join(v.Top(hier), kit.Procs)) {
		t.Error("the view is not there")
	}
	if err := unix.Unmount(v.Dir, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // kit.MountView's clean-up sees the status
}

// TestMountHelper: as mount.vcgroupfs it goes into the background once the view is there.
func TestMountHelper(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "helper", hier)
	dir, link := kit.PublicDir(t), filepath.Join(t.TempDir(), "mount.vcgroupfs")
	abs, err := filepath.Abs(kit.Program(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(abs, link); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(link, path, dir, "-v", "-o", "rw,controllers=pids").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	if !kit.IsFUSE(dir) {
		t.Error("not mounted when the helper had ended")
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command(link, "/nowhere", dir, "-o", "controllers=pids").CombinedOutput(); err == nil || !strings.Contains(string(out), "no such cgroup") {
		t.Errorf("a boundary that is not there: %v, %s", err, out)
	}
}

// TestMountPid: the boundary and the owner of a process in a user namespace.
func TestMountPid(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "pid", hier)
	g := exec.Command(kit.Program(t), "run", "--userns", "--controllers", "pids", "--", "sh", "-c", "echo ready; read x")
	p := kit.StartProcess(t, g)
	p.Line(t)
	pid := kit.ChildOf(t, g.Process.Pid)
	old, err := hier.PathOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := hier.Attach(path, pid); err != nil {
		t.Fatal(err)
	}
	if got := kit.RunCommand(t, "mount", "--pid", strconv.Itoa(pid), "--controllers", "pids", kit.PublicDir(t)); got.Status != 1 || !strings.Contains(got.Stderr, "moved out") {
		t.Errorf("of a process that was moved out of its namespace: status %d, %s", got.Status, got.Stderr)
	}
	v := kit.MountView(t, "--pid", strconv.Itoa(pid), "--current-cgroup", "--controllers", "pids")
	top := v.Top(hier)
	if got := strings.TrimSpace(kit.ReadFile(filepath.Join(top, kit.Procs))); got != strconv.Itoa(pid) {
		t.Errorf("the view shows %q, not process %d", got, pid)
	}
	if got := kit.StatText(top); !strings.Contains(got, fmt.Sprintf("owner %[1]d:%[1]d", kit.RootOf(t, pid))) {
		t.Errorf("the view's root: %s", got)
	}
	hier.Attach(old, pid)
	p.In.Close()
	g.Wait()
}
