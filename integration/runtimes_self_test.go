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
)

// startSelf starts a daemon whose self is for the cgroups of this test run alone.
func startSelf(t testing.TB, options ...string) *daemon {
	t.Helper()
	if !slices.Contains(options, "--container") {
		options = append(options, "--container", "/"+testPrefix+"*")
	}
	if !slices.Contains(options, "--self-controllers") {
		options = append(options, "--self-controllers", "pids")
	}
	d := startDaemonWith(t, program(t), append([]string{"--self"}, options...))
	if err := os.Chmod(d.dir, 0o755); err != nil { // root of a user namespace is nobody here
		t.Fatal(err)
	}
	d.mounts[d.self()] = true
	return d
}

func (d *daemon) self() string { return filepath.Join(d.dir, "self") }

// guestsNow are the guests that the daemon has.
func (d *daemon) guestsNow(t testing.TB) (all []selfGuest) {
	t.Helper()
	if err := d.call("GET", "/v1/guests", nil, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

type selfGuest struct {
	Name string `json:"name"`
	Rule string `json:"rule"`
	Spec struct {
		Boundary, Owner string
	} `json:"spec"`
}

// wantOne wants one guest, made by self, and says which.
func (d *daemon) wantOne(t testing.TB, boundary, owner string) selfGuest {
	t.Helper()
	all := d.guestsNow(t)
	if len(all) != 1 || all[0].Spec.Boundary != boundary || all[0].Spec.Owner != owner || all[0].Rule != "/"+testPrefix+"*" {
		t.Fatalf("the guests are %+v; want one at %s of %s", all, boundary, owner)
	}
	return all[0]
}

// wantNone waits until the daemon has seen that its guests' cgroups are gone.
func (d *daemon) wantNone(t testing.TB) {
	t.Helper()
	eventually(t, "the guests to go with their cgroups", func() bool {
		left, _ := os.ReadDir(filepath.Join(d.dir, "views"))
		return len(d.guestsNow(t)) == 0 && len(left) == 0
	})
}

// bindSelf has a bundle bind self as Docker's -v does, and nothing else of cgroups.
func bindSelf(b *bundle, d *daemon) {
	delete(b.config, "hooks")
	mounts := slices.DeleteFunc(b.config["mounts"].([]any), func(m any) bool { return m.(map[string]any)["destination"] == guestView })
	b.config["mounts"] = append(mounts, map[string]any{"destination": guestView, "type": "bind", "source": d.self(), "options": []string{"rbind", "rprivate"}})
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
		"EROFS when made": withFile(dir+"/x", unix.O_WRONLY|unix.O_CREAT, func(int) error { return nil }), "EROFS for its mode": unix.Chmod(dir, 0o777),
	} {
		if got := word(err); got != strings.Fields(what)[0] {
			t.Errorf("in self the host gets %s, want %s", got, what)
		}
	}
}

// TestSelfOCI: a container that has self bound, and no hook, has its view there.
func TestSelfOCI(t *testing.T) {
	for _, runtime := range ociRuntimes(t) {
		for name, namespaces := range map[string][]string{"default": nil, "userns": {"user", "cgroup"}, "hostpid": {"-pid"}} {
			t.Run(runtime+"-"+name, func(t *testing.T) { testSelfOCI(t, needRuntime(t, runtime), namespaces) })
		}
	}
}

func testSelfOCI(t *testing.T, runtime string, namespaces []string) {
	h := openHost(t)
	tree := need(t, h, "pids")
	needPlainCrun(t, h, runtime)
	d := startSelf(t)
	b := newBundle(t, d, runtime, "self", "commands")
	bindSelf(b, d)
	b.with(namespaces...)
	b.write(t)
	cmd := b.command(runtime)
	cmd.Stderr = os.Stderr
	x := startProcess(t, cmd)
	if got := x.ask(t, "read", "/proc/version"); got == "" { // it runs
		t.Error("no version")
	}
	d.signal(t, unix.SIGKILL, 0) // before it has looked
	top := topOf(guestView, tree)
	x.useView(t, tree, "64", b.cgroup)
	owner := "0:0"
	if slices.Contains(namespaces, "user") {
		owner = fmt.Sprintf("%[1]d:%[1]d", guestID)
	}
	g := d.wantOne(t, b.cgroup, owner)
	d.wantTry(t, 0, "self", "guest", "ls")
	d.wantTry(t, 0, "its cgroup matches /"+testPrefix+"*", "guest", "show", g.Name)
	emptySelf(t, d.self())
	d.signal(t, unix.SIGKILL, 0)
	if got := x.ask(t, "read", top+"/child/pids.max"); got != "50\n" {
		t.Errorf("after the worker was killed: %q", got)
	}
	x.in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the container ended with %v", err)
	}
	d.wantNone(t)
	nothingLeft(t, d, h, b.cgroup)
	d.stop(t)
	if exists(d.self()) {
		t.Error("the directory is left")
	}
}

// TestSelfTwo: containers side by side find each its own.
func TestSelfTwo(t *testing.T) {
	runtime := needRuntime(t, "runc")
	h := openHost(t)
	tree := need(t, h, "pids")
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\ncontrollers: [pids]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := startSelf(t, "--self-policy", policy)
	os.WriteFile(policy, []byte("nonsense"), 0o644) // what later workers go on with is what was read
	top := topOf(guestView, tree)
	var boxes []*helper
	for i := range 2 {
		b := newBundle(t, d, runtime, "two"+strconv.Itoa(i), "commands")
		bindSelf(b, d)
		b.linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 40 + i}}
		b.write(t)
		cmd := b.command(runtime)
		cmd.Stderr = os.Stderr
		boxes = append(boxes, startProcess(t, cmd))
	}
	for _, change := range []func(){func() { d.signal(t, unix.SIGKILL, 0) }, func() { d.run(t, "serve", "--upgrade") }, func() {}} {
		for i, x := range boxes {
			if got := x.ask(t, "read", top+"/pids.max"); got != strconv.Itoa(40+i)+"\n" {
				t.Errorf("container %d has pids.max %q", i, got)
			}
		}
		change()
	}
	if n := len(d.guestsNow(t)); n != 2 {
		t.Errorf("%d guests", n)
	}
	for _, x := range boxes {
		x.in.Close()
		x.cmd.Wait()
	}
	d.stop(t)
}

// TestSelfPodman: an ordinary volume, and the same as a device that CDI describes.
func TestSelfPodman(t *testing.T) {
	podman, err := exec.LookPath("podman")
	if err != nil {
		t.Skip("machine: podman is not installed")
	}
	needRuntime(t, "runc")
	for name, of := range map[string]func(d *daemon) []string{
		"volume": func(d *daemon) []string { return []string{"--volume", d.self() + ":" + guestView} },
		"cdi":    func(d *daemon) []string { return []string{"--device", ourDevices(t, d, podmanCDI) + "=self"} },
	} {
		t.Run(name, func(t *testing.T) {
			d := startSelf(t, "--container", "/"+testPrefix+"podman/libpod-{id}")
			testPodmanWith(t, podman, d, nil, of(d))
		})
	}
}

// selfInsider is a process in a container's cgroup, and in a mount namespace of its own.
func selfInsider(t *testing.T, d *daemon, name string) (*insider, func() string) {
	t.Helper()
	x := startInsider(t, d, name)
	if err := x.place.tree.WriteFile(x.place.path, "pids.max", "77"); err != nil {
		t.Fatal(err)
	}
	limit := topOf(d.self(), x.place.tree) + "/pids.max"
	return x, func() string { return x.ask(t, "read", limit) }
}

// TestSelfAgain: what becomes of self where it is used again and again.
func TestSelfAgain(t *testing.T) {
	d := startSelf(t)
	x, limit := selfInsider(t, d, "self-again")
	for range 3 { // it comes back when the container takes it away
		if got := limit(); got != "77\n" {
			t.Fatalf("pids.max: %q", got)
		}
		if got := x.ask(t, "umount", d.self()); got != "ok" {
			t.Fatalf("umount: %s", got)
		}
	}
	// A descriptor from before finds nothing, then or later, and keeps nobody from finding it by path.
	if got := x.ask(t, "keep", d.self()); got != "ok" {
		t.Fatal(got)
	}
	for range 3 {
		if got := x.ask(t, "kept"); got != "ok" && got != "ESTALE" {
			t.Errorf("what is kept of self: %s", got)
		}
		if got := x.ask(t, "kept-read", filepath.Base(filepath.Dir(topOf("x/y", x.place.tree)))); got != "ENOENT" && got != "ESTALE" {
			t.Errorf("below what is kept of self: %s", got)
		}
	}
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max beside a descriptor: %q", got)
	}
	// Its own cgroup below is the same container.
	if err := x.place.tree.Create(x.place.path+"/child", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := x.place.tree.Attach(x.place.path+"/child", x.pid()); err != nil {
		t.Fatal(err)
	}
	x.ask(t, "umount", d.self())
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max from a child: %q", got)
	}
	d.wantOne(t, x.place.path, "0:0")
	// What was mounted over it is the container's own affair.
	x.ask(t, "tmpfs", d.self())
	if got := limit(); got != "ENOENT" {
		t.Errorf("below a tmpfs: %q", got)
	}
	x.ask(t, "umount", d.self())
	if got := limit(); got != "77\n" {
		t.Errorf("after the tmpfs: %q", got)
	}
	// Several mounts are covered at once, each as it is.
	x.ask(t, "umount", d.self())
	writable, readOnly := publicDir(t), publicDir(t)
	for _, dir := range []string{readOnly, writable} {
		if got := x.ask(t, "bind", d.self(), dir); got != "ok" {
			t.Fatal(got)
		}
	}
	if got := x.ask(t, "readonly", readOnly); got != "ok" {
		t.Fatal(got)
	}
	for _, c := range []struct{ dir, want string }{{readOnly, "EROFS"}, {writable, "ok"}} { // both lead to the same cgroups
		if got := x.ask(t, "read", topOf(c.dir, x.place.tree)+"/pids.max"); got != "77\n" {
			t.Errorf("one of several: %q", got)
		}
		if got := x.ask(t, "mkdir", topOf(c.dir, x.place.tree)+"/made"); got != c.want {
			t.Errorf("one of several: mkdir: %s, want %s", got, c.want)
		}
	}
	emptySelf(t, d.self())
	d.stop(t)
}

// TestSelfFirst: whatever looks first finds the view, as if it had always been there.
func TestSelfFirst(t *testing.T) {
	d := startSelf(t)
	x, _ := selfInsider(t, d, "self-first")
	top := topOf(d.self(), x.place.tree)
	looks := map[string]func() string{
		"read":  func() string { return x.ask(t, "read", top+"/pids.max") },
		"mkdir": func() string { return x.ask(t, "mkdir", top+"/made") },
		"write": func() string { return x.ask(t, "write", top+"/made/cgroup.procs", "0") },
		"deny":  func() string { return x.ask(t, "write", top+"/pids.max", "max") },
	}
	for call := range firstLooks {
		looks[call] = func() string { return x.ask(t, "first", d.self(), call) }
	}
	want := map[string]string{"read": "77\n", "deny": "EPERM", "inotify": "ESTALE"}
	for _, call := range slices.Sorted(maps.Keys(looks)) {
		if got := looks[call](); got != orOK(want[call]) {
			t.Errorf("%s as the first call: %q", call, got)
		}
		var st unix.Stat_t
		if got := x.ask(t, "umount", d.self()); got != "ok" || unix.Stat(d.self(), &st) != nil {
			t.Errorf("after %s nothing was mounted: %s", call, got)
		}
	}
	d.stop(t)
}

func orOK(want string) string {
	if want == "" {
		return "ok"
	}
	return want
}

// TestSelfKill: workers that are killed while a container looks, and looks again, are not noticed.
func TestSelfKill(t *testing.T) {
	d := startSelf(t)
	x, limit := selfInsider(t, d, "self-kill")
	resend, every := d.ready(t).Resend, time.Duration(float64(100*time.Millisecond)/scale(t))
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
				if pid := d.signal(t, unix.SIGKILL, last); pid != 0 {
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
			x.ask(t, "umount", d.self())
		case !resend && (got == "ECONNABORTED" || got == "EIO"):
			aborted++
		default:
			t.Fatalf("look %d: %q", looks, got)
		}
	}
	close(end)
	t.Logf("%d workers killed during %d looks, of which %d were aborted", <-killed, looks, aborted)
	d.ready(t)
	if got := limit(); got != "77\n" {
		t.Errorf("afterwards: %q", got)
	}
	d.wantOne(t, x.place.path, "0:0")
	d.stop(t)
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
		cmd := exec.Command(program(t), append([]string{"serve", "--socket", t.TempDir() + "/api.sock"}, c.args...)...)
		if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != c.status || !strings.Contains(string(out), c.word) {
			t.Errorf("serve %q: status %d: %s; want %d and %q", c.args, cmd.ProcessState.ExitCode(), out, c.status, c.word)
		}
	}
	place := publicDir(t)
	if err := unix.Mount("ours", place, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(place, unix.MNT_DETACH) })
	d := startSelf(t, "--self-at", place)
	if !strings.Contains(d.log(), "something is mounted there") {
		t.Errorf("over another mount: %s", d.log())
	}
	unix.Unmount(place, unix.MNT_DETACH)
	eventually(t, "self where there is room now", func() bool { return strings.Contains(readFile("/proc/self/mountinfo"), " "+place+" ") })
	// Whoever unmounts it gets it anew.
	unix.Unmount(place, unix.MNT_DETACH)
	eventually(t, "self again", func() bool { return strings.Contains(readFile("/proc/self/mountinfo"), " "+place+" ") })
	d.stop(t)
	if strings.Contains(readFile("/proc/self/mountinfo"), " "+place+" ") {
		t.Error("self is left")
	}
}

// TestSelfDead: what a daemon that was killed with its holder has left does not stand in the way of the next.
func TestSelfDead(t *testing.T) {
	place := publicDir(t)
	d := startSelf(t, "--self-at", place)
	_, worker := d.worker(t)
	defer unix.Close(worker)
	d.cmd.Process.Kill()
	unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0)
	<-d.ended
	if !hasEnded(worker, patience) {
		t.Fatal("the worker is still there")
	}
	if _, err := os.Stat(place); err == nil {
		t.Error("self is not dead")
	}
	next := startSelf(t, "--self-at", place)
	emptySelf(t, place)
	next.stop(t)
	if mounted(place) {
		t.Error("self is left")
	}
}
