package integration

import (
	"fmt"
	"maps"
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

// bindSelf has a bundle bind self as Docker's -v does, and nothing else of cgroups.
func bindSelf(b *kit.Bundle, d *kit.Daemon) {
	delete(b.Config, "hooks")
	mounts := slices.DeleteFunc(b.Config["mounts"].([]any), func(m any) bool { return m.(map[string]any)["destination"] == kit.GuestView })
	b.Config["mounts"] = append(mounts, map[string]any{"destination": kit.GuestView, "type": "bind", "source": d.Self(), "options": []string{"rbind", "rprivate"}})
}

// emptySelf checks what somebody finds who is in no container.
func emptySelf(t testing.TB, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	var st unix.Stat_t
	if serr := unix.Stat(dir, &st); err != nil || serr != nil || len(list) > 0 || st.Mode != unix.S_IFDIR|0o555 || st.Uid != 0 {
		t.Errorf("the host finds in self: %v, %v; it is %v %o of %d", list, err, serr, st.Mode, st.Uid)
	}
	for what, err := range map[string]error{
		"ENOENT": unix.Access(dir+"/pids.max", unix.F_OK), "EROFS": unix.Mkdir(dir+"/x", 0o755),
		"EROFS when made": kit.WithFile(dir+"/x", unix.O_WRONLY|unix.O_CREAT, func(int) error { return nil }), "EROFS for its mode": unix.Chmod(dir, 0o777),
	} {
		if got := kit.Word(err); got != strings.Fields(what)[0] {
			t.Errorf("in self the host gets %s, want %s", got, what)
		}
	}
}

// TestSelfOCI: a container that has self bound, and no hook, has its view there.
func TestSelfOCI(t *testing.T) {
	for _, runtime := range kit.OCIRuntimes(t) {
		for name, namespaces := range map[string][]string{"default": nil, "userns": {"user", "cgroup"}, "hostpid": {"-pid"}} {
			t.Run(runtime+"-"+name, func(t *testing.T) { testSelfOCI(t, kit.NeedRuntime(t, runtime), namespaces) })
		}
	}
}

func testSelfOCI(t *testing.T, runtime string, namespaces []string) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	kit.NeedPlainCrun(t, h, runtime)
	d := kit.StartSelfDaemon(t)
	b := kit.NewBundle(t, d, runtime, "self", "commands")
	bindSelf(b, d)
	b.WithNamespaces(namespaces...)
	b.Write(t)
	cmd := b.Command(runtime)
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	if got := x.Ask(t, "read", "/proc/version"); got == "" { // it runs
		t.Error("no version")
	}
	d.Signal(t, unix.SIGKILL, 0) // before it has looked
	top := kit.TopOf(kit.GuestView, hier)
	x.UseView(t, hier, "64", b.Cgroup)
	owner := "0:0"
	if slices.Contains(namespaces, "user") {
		owner = fmt.Sprintf("%[1]d:%[1]d", kit.GuestID)
	}
	g := d.WantOne(t, b.Cgroup, owner)
	d.WantTry(t, 0, "self", "guest", "ls")
	d.WantTry(t, 0, "its cgroup matches /"+kit.Prefix+"*", "guest", "show", g.Name)
	emptySelf(t, d.Self())
	d.Signal(t, unix.SIGKILL, 0)
	if got := x.Ask(t, "read", top+"/child/pids.max"); got != "50\n" {
		t.Errorf("after the worker was killed: %q", got)
	}
	x.End(t)
	d.WantNone(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
	if kit.Exists(d.Self()) {
		t.Error("the directory is left")
	}
}

// TestSelfTwo: containers side by side find each its own.
func TestSelfTwo(t *testing.T) {
	runtime := kit.NeedRuntime(t, "runc")
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\ncontrollers: [pids]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := kit.StartSelfDaemon(t, "--self-policy", policy)
	os.WriteFile(policy, []byte("nonsense"), 0o644) // what later workers go on with is what was read
	top := kit.TopOf(kit.GuestView, hier)
	var boxes []*kit.Helper
	for i := range 2 {
		b := kit.NewBundle(t, d, runtime, "two"+strconv.Itoa(i), "commands")
		bindSelf(b, d)
		b.Linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 40 + i}}
		b.Write(t)
		cmd := b.Command(runtime)
		cmd.Stderr = os.Stderr
		boxes = append(boxes, kit.StartProcess(t, cmd))
	}
	for _, change := range []func(){func() { d.Signal(t, unix.SIGKILL, 0) }, func() { d.Run(t, "serve", "--upgrade") }, func() {}} {
		for i, x := range boxes {
			if got := x.Ask(t, "read", top+"/pids.max"); got != strconv.Itoa(40+i)+"\n" {
				t.Errorf("container %d has pids.max %q", i, got)
			}
		}
		change()
	}
	if n := len(d.Guests(t)); n != 2 {
		t.Errorf("%d guests", n)
	}
	for _, x := range boxes {
		x.In.Close()
		x.Cmd.Wait()
	}
	d.Stop(t)
}

// TestSelfPodman: an ordinary volume, and the same as a device that CDI describes.
func TestSelfPodman(t *testing.T) {
	podman := kit.NeedPodman(t)
	kit.NeedRuntime(t, "runc")
	for name, of := range map[string]func(d *kit.Daemon) []string{
		"volume": func(d *kit.Daemon) []string { return []string{"--volume", d.Self() + ":" + kit.GuestView} },
		"cdi": func(d *kit.Daemon) []string {
			return []string{"--device", kit.PackagedDevices(t, d, kit.PodmanCDI) + "=self"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := kit.StartSelfDaemon(t, "--container", "/"+kit.Prefix+"podman/libpod-{id}")
			kit.CheckPodman(t, podman, d, nil, of(d))
		})
	}
}

// TestSelfAgain: what becomes of self where it is used again and again.
func TestSelfAgain(t *testing.T) {
	d := kit.StartSelfDaemon(t)
	x, limit := kit.StartSelfInsider(t, d, "self-again")
	for range 3 { // it comes back when the container takes it away
		if got := limit(); got != "77\n" {
			t.Fatalf("pids.max: %q", got)
		}
		if got := x.Ask(t, "umount", d.Self()); got != "ok" {
			t.Fatalf("umount: %s", got)
		}
	}
	// A descriptor from before finds nothing, then or later, and keeps nobody from finding it by path.
	if got := x.Ask(t, "keep", d.Self()); got != "ok" {
		t.Fatal(got)
	}
	for range 3 {
		if got := x.Ask(t, "kept"); got != "ok" && got != "ESTALE" {
			t.Errorf("what is kept of self: %s", got)
		}
		if got := x.Ask(t, "kept-read", filepath.Base(filepath.Dir(kit.TopOf("x/y", x.Place.Hierarchy)))); got != "ENOENT" && got != "ESTALE" {
			t.Errorf("below what is kept of self: %s", got)
		}
	}
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max beside a descriptor: %q", got)
	}
	// Its own cgroup below is the same container.
	if err := x.Place.Hierarchy.Create(x.Place.Path+"/child", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := x.Place.Hierarchy.Attach(x.Place.Path+"/child", x.PID()); err != nil {
		t.Fatal(err)
	}
	x.Ask(t, "umount", d.Self())
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max from a child: %q", got)
	}
	d.WantOne(t, x.Place.Path, "0:0")
	// What was mounted over it is the container's own affair.
	x.Ask(t, "tmpfs", d.Self())
	if got := limit(); got != "ENOENT" {
		t.Errorf("below a tmpfs: %q", got)
	}
	x.Ask(t, "umount", d.Self())
	if got := limit(); got != "77\n" {
		t.Errorf("after the tmpfs: %q", got)
	}
	// Several mounts are covered at once, each as it is.
	x.Ask(t, "umount", d.Self())
	writable, readOnly := kit.PublicDir(t), kit.PublicDir(t)
	for _, dir := range []string{readOnly, writable} {
		if got := x.Ask(t, "bind", d.Self(), dir); got != "ok" {
			t.Fatal(got)
		}
	}
	if got := x.Ask(t, "readonly", readOnly); got != "ok" {
		t.Fatal(got)
	}
	for _, c := range []struct{ dir, want string }{{readOnly, "EROFS"}, {writable, "ok"}} { // both lead to the same cgroups
		if got := x.Ask(t, "read", kit.TopOf(c.dir, x.Place.Hierarchy)+"/pids.max"); got != "77\n" {
			t.Errorf("one of several: %q", got)
		}
		if got := x.Ask(t, "mkdir", kit.TopOf(c.dir, x.Place.Hierarchy)+"/made"); got != c.want {
			t.Errorf("one of several: mkdir: %s, want %s", got, c.want)
		}
	}
	emptySelf(t, d.Self())
	d.Stop(t)
}

// TestSelfFirst: whatever looks first finds the view, as if it had always been there.
func TestSelfFirst(t *testing.T) {
	d := kit.StartSelfDaemon(t)
	x, _ := kit.StartSelfInsider(t, d, "self-first")
	top := kit.TopOf(d.Self(), x.Place.Hierarchy)
	looks := map[string]func() string{
		"read":  func() string { return x.Ask(t, "read", top+"/pids.max") },
		"mkdir": func() string { return x.Ask(t, "mkdir", top+"/made") },
		"write": func() string { return x.Ask(t, "write", top+"/made/cgroup.procs", "0") },
		"deny":  func() string { return x.Ask(t, "write", top+"/pids.max", "max") },
	}
	for call := range kit.FirstLooks {
		looks[call] = func() string { return x.Ask(t, "first", d.Self(), call) }
	}
	want := map[string]string{"read": "77\n", "deny": "EPERM", "inotify": "ESTALE"}
	for _, call := range slices.Sorted(maps.Keys(looks)) {
		if got := looks[call](); got != orOK(want[call]) {
			t.Errorf("%s as the first call: %q", call, got)
		}
		var st unix.Stat_t
		if got := x.Ask(t, "umount", d.Self()); got != "ok" || unix.Stat(d.Self(), &st) != nil {
			t.Errorf("after %s nothing was mounted: %s", call, got)
		}
	}
	d.Stop(t)
}

func orOK(want string) string {
	if want == "" {
		return "ok"
	}
	return want
}

// TestSelfKill: workers that are killed while a container looks, and looks again, are not noticed.
func TestSelfKill(t *testing.T) {
	d := kit.StartSelfDaemon(t)
	x, limit := kit.StartSelfInsider(t, d, "self-kill")
	resend, every := d.Ready(t).Resend, time.Duration(float64(100*time.Millisecond)/kit.Scale(t))
	end := make(chan struct{})
	killed := make(chan int, 1)
	go func() {
		last, n := 0, 0
		defer func() { killed <- n }()
		for {
			select {
			case <-end:
				return
			case <-time.After(every):
				if pid := d.Signal(t, unix.SIGKILL, last); pid != 0 {
					last = pid
					n++
				}
			}
		}
	}()
	looks, aborted := 0, 0
	for began := time.Now(); time.Since(began) < 10*every; looks++ {
		switch got := limit(); {
		case got == "77\n":
			x.Ask(t, "umount", d.Self())
		case !resend && (got == "ECONNABORTED" || got == "EIO"):
			aborted++
		default:
			t.Fatalf("look %d: %q", looks, got)
		}
	}
	close(end)
	t.Logf("%d workers killed during %d looks, of which %d were aborted", <-killed, looks, aborted)
	d.Ready(t)
	if got := limit(); got != "77\n" {
		t.Errorf("afterwards: %q", got)
	}
	d.WantOne(t, x.Place.Path, "0:0")
	d.Stop(t)
}

// TestSelfRefused: what serve does not take, and what cannot be set up yet.
func TestSelfRefused(t *testing.T) {
	for _, c := range []struct {
		status int
		word   string
		args   []string
	}{
		{2, "--self", []string{"--container", "/x/*"}}, {2, "names nothing", []string{"--self", "--container", "/*"}},
		{2, "self-controllers", []string{"--self", "--self-controllers", "nonsense"}}, {3, "nowhere.yaml", []string{"--self", "--self-policy", "/nowhere.yaml"}},
	} {
		cmd := exec.Command(kit.Program(t), append([]string{"serve", "--socket", t.TempDir() + "/api.sock"}, c.args...)...)
		if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != c.status || !strings.Contains(string(out), c.word) {
			t.Errorf("serve %q: status %d: %s; want %d and %q", c.args, cmd.ProcessState.ExitCode(), out, c.status, c.word)
		}
	}
	place := kit.PublicDir(t)
	if err := unix.Mount("ours", place, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(place, unix.MNT_DETACH) })
	d := kit.StartSelfDaemon(t, "--self-at", place)
	d.WantLog(t, "something is mounted there") // over another mount
	unix.Unmount(place, unix.MNT_DETACH)
	kit.Eventually(t, "self where there is room now", func() bool { return strings.Contains(kit.ReadFile("/proc/self/mountinfo"), " "+place+" ") })
	// Whoever unmounts it gets it anew.
	unix.Unmount(place, unix.MNT_DETACH)
	kit.Eventually(t, "self again", func() bool { return strings.Contains(kit.ReadFile("/proc/self/mountinfo"), " "+place+" ") })
	d.Stop(t)
	if strings.Contains(kit.ReadFile("/proc/self/mountinfo"), " "+place+" ") {
		t.Error("self is left")
	}
}

// TestSelfDead: what a daemon that was killed with its holder has left does not stand in the way of the next.
func TestSelfDead(t *testing.T) {
	place := kit.PublicDir(t)
	d := kit.StartSelfDaemon(t, "--self-at", place)
	_, worker := d.Worker(t)
	defer unix.Close(worker)
	d.Cmd.Process.Kill()
	unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0)
	<-d.Ended
	if !kit.HasEnded(worker, kit.Patience) {
		t.Fatal("the worker is still there")
	}
	if _, err := os.Stat(place); err == nil {
		t.Error("self is not dead")
	}
	next := kit.StartSelfDaemon(t, "--self-at", place)
	emptySelf(t, place)
	next.Stop(t)
	if kit.IsMounted(place) {
		t.Error("self is left")
	}
}
