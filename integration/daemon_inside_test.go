package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// insiderMounts are the lines of the insider's mountinfo that name a file system of cgroups, the view and others apart.
func insiderMounts(t *testing.T, x *kit.Insider) (view, real int) {
	t.Helper()
	for line := range strings.Lines(x.Ask(t, "read", "/proc/self/mountinfo")) {
		switch {
		case strings.Contains(line, " - fuse.vcgroupfs "), strings.Contains(line, " - fuse.cgroup"), strings.Contains(line, " - fuse "):
			if strings.Contains(line, " /sys/fs/cgroup ") {
				view++
			}
		case strings.Contains(line, " /sys/fs/cgroup"):
			real++
		}
	}
	return view, real
}

// mountOf is the number of the mount that a path leads to.
func mountOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mnt_id
}

// TestInside: a view comes into a guest that runs, instead of the cgroups that were mounted there, and goes with it.
func TestInside(t *testing.T) {
	d := kit.StartDaemon(t)
	x := kit.StartInsider(t, d, "inside")
	if err := x.Place.Hierarchy.WriteFile(x.Place.Path, "pids.max", "77"); err != nil {
		t.Fatal(err)
	}
	view, real := insiderMounts(t, x)
	if view+real == 0 {
		t.Fatal("the insider sees no cgroups to begin with")
	}
	own := mountOf(t, kit.GuestView)
	x.Add(t, "in")
	d.WantTry(t, 0, x.Place.Path, "guest", "show", "in")
	d.WantTry(t, 0, kit.GuestView+" of process "+strconv.Itoa(x.PID()), "guest", "show", "in")
	if got := x.Ask(t, "read", x.At("pids.max")); got != "77\n" {
		t.Errorf("pids.max: %q", got)
	}
	if got := x.Ask(t, "write", x.At("pids.max"), "max"); got != "EPERM" {
		t.Errorf("lifting its own limit: %s", got)
	}
	if got := x.Ask(t, "mkdir", x.At("child")); got != "ok" || !x.Place.Hierarchy.Exists(x.Place.Path+"/child") {
		t.Errorf("a child cgroup: %s", got)
	}
	if got := strings.Fields(x.Ask(t, "read", x.At("cgroup.procs"))); len(got) != 1 || got[0] != strconv.Itoa(x.PID()) {
		t.Errorf("cgroup.procs: %q", got)
	}
	if mountOf(t, kit.GuestView) != own {
		t.Fatal("the host has the view at /sys/fs/cgroup")
	}
	hidden := x.Place.Hierarchy.View // in a guest, where what is below the view is out of everybody's reach
	view, real = insiderMounts(t, x)
	if view != 1 || real != 0 && conn.KernelAtLeast(6, 5) && !hidden {
		t.Errorf("the insider has %d views and %d other mounts at /sys/fs/cgroup", view, real)
	}

	sight := "a view with a directory for each hierarchy"
	if x.Place.Hierarchy.Version == hierarchy.V2 {
		sight = "a view of v2"
	}
	d.WantTry(t, 0, "finds at /sys/fs/cgroup: "+sight+"\n", "doctor", "--pid", strconv.Itoa(x.PID()))

	// What the guest mounts on its view, nobody else sees; what it unmounts can be attached again.
	x.Ask(t, "tmpfs", x.At("child"))
	hostView := filepath.Join(filepath.Dir(d.Socket), "views", "in")
	if !kit.IsFUSE(strings.Replace(x.At("child"), "/sys/fs/cgroup", hostView, 1)) {
		t.Error("a mount of the guest is on the host's mount of the view")
	}
	x.Ask(t, "umount", "/sys/fs/cgroup")
	if view, _ := insiderMounts(t, x); view != 0 {
		t.Errorf("%d views after the guest took it away", view)
	}
	d.Signal(t, unix.SIGKILL, 0) // the next worker can do it, too
	d.Ready(t)
	d.WantTry(t, 0, "", "guest", "attach", "in")
	d.WantTry(t, 0, "", "guest", "attach", "in")
	if view, _ := insiderMounts(t, x); view != 1 || x.Ask(t, "read", x.At("pids.max")) != "77\n" {
		t.Errorf("%d views after it was attached again; pids.max is %q", view, x.Ask(t, "read", x.At("pids.max")))
	}

	d.WantTry(t, 0, "", "guest", "rm", "in")
	if view, _ := insiderMounts(t, x); view != 0 {
		t.Errorf("%d views after the guest was removed", view)
	}
	x.Add(t, "in") // and with the end of its process it goes at once
	x.In.Close()
	x.Cmd.Wait()
	kit.Eventually(t, "the guest to go", func() bool { status, _ := d.Try(t, "guest", "show", "in"); return status == 6 })
	kit.Eventually(t, "its place on the host to go", func() bool { _, err := os.Lstat(hostView); return os.IsNotExist(err) })
	d.Stop(t)
}

// TestInsideStack: what was mounted stays below, for those who look for it in mountinfo; what is opened is the view's. Mounts of hierarchies
// that the view does not show go: who takes the controllers from mountinfo would not find theirs.
func TestInsideStack(t *testing.T) {
	d := kit.StartDaemon(t)
	x := kit.StartInsider(t, d, "inside-stack")
	x.Add(t, "in", "--stack")
	mounts := kit.KernelMounts(x.Ask(t, "read", "/proc/self/mountinfo"))
	if len(mounts) != 1 || mounts[0].At != kit.TopOf(kit.GuestView, x.Place.Hierarchy) {
		t.Errorf("in mountinfo are %+v; want one mount, at %s", mounts, kit.TopOf(kit.GuestView, x.Place.Hierarchy))
	}
	if view, _ := insiderMounts(t, x); view != 1 {
		t.Errorf("%d views", view)
	}
	if got := x.Ask(t, "write", x.At("pids.max"), "max"); got != "EPERM" {
		t.Errorf("lifting its own limit: %s", got)
	}
	if x.Place.Hierarchy.Version == hierarchy.V2 { // what is below is no mount of the insider's own cgroup namespace, as those of a runtime are
		d.WantTry(t, 0, "finds at /sys/fs/cgroup: a view of v2\n", "doctor", "--pid", strconv.Itoa(x.PID()))
	}
	d.Stop(t)
}

// TestInsideTmpfs: what hosts with v1 have, and what a systemd of these years asks for: a tmpfs with a mount for each hierarchy.
func TestInsideTmpfs(t *testing.T) {
	d := kit.StartDaemon(t)
	x := kit.StartInsider(t, d, "inside-tmpfs")
	if x.Place.Hierarchy.Version == hierarchy.V2 {
		d.WantTry(t, 2, "layout v2", "guest", "add", "in", "--pid", strconv.Itoa(x.PID()), "--controllers", "pids", "--into", "/sys/fs/cgroup", "--tmpfs")
		d.Stop(t)
		return
	}
	x.Add(t, "in", "--tmpfs")
	d.WantTry(t, 0, "finds at /sys/fs/cgroup: a tmpfs with a view for each hierarchy\n", "doctor", "--pid", strconv.Itoa(x.PID()))
	if got := x.Ask(t, "write", x.At("pids.max"), "max"); got != "EPERM" {
		t.Errorf("lifting its own limit: %s", got)
	}
	if got := x.Ask(t, "mkdir", "/sys/fs/cgroup/evil"); got != "EROFS" {
		t.Errorf("a directory beside the hierarchies: %s", got)
	}
	if got := x.Ask(t, "rmdir", x.At("")); got != "EROFS" {
		t.Errorf("rmdir of a hierarchy: %s", got)
	}
	if got := x.Ask(t, "mkdir", x.At("child")); got != "ok" || !x.Place.Hierarchy.Exists(x.Place.Path+"/child") {
		t.Errorf("a child cgroup: %s", got)
	}
	x.Ask(t, "umount", "/sys/fs/cgroup")
	d.WantTry(t, 0, "", "guest", "attach", "in")
	d.WantTry(t, 0, "", "guest", "attach", "in")
	d.WantTry(t, 0, "finds at /sys/fs/cgroup: a tmpfs with a view for each hierarchy\n", "doctor", "--pid", strconv.Itoa(x.PID()))
	d.WantTry(t, 0, "", "guest", "rm", "in")
	d.WantTry(t, 0, "finds at /sys/fs/cgroup: nothing\n", "doctor", "--pid", strconv.Itoa(x.PID()))
	if left, _ := os.ReadDir(filepath.Join(filepath.Dir(d.Socket), "views")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	d.Stop(t)
}

// TestInsideRefused: what cannot be attached leaves nothing, neither here nor there.
func TestInsideRefused(t *testing.T) {
	d := kit.StartDaemon(t)
	x := kit.StartInsider(t, d, "inside-refused")
	_, before := insiderMounts(t, x)
	for _, c := range []struct {
		status int
		word   string
		args   []string
	}{
		{1, "no such file", []string{"--into", "/nowhere"}}, {1, "not a directory", []string{"--into", "/proc/version"}},
		{2, "rootfs", []string{"--into", "/sys", "--rootfs", "relative"}}, {2, "not allowed", []string{"--into", "/sys/../sys"}},
	} {
		d.WantTry(t, c.status, c.word, append([]string{"guest", "add", "in", "--pid", strconv.Itoa(x.PID()), "--controllers", "pids"}, c.args...)...)
	}
	// A guest that has a file system which never answers keeps nobody waiting for ever, and no other guest at all.
	dead := kit.PublicDir(t)
	if got := x.Ask(t, "deadfuse", dead); got != "ok" {
		t.Fatalf("a file system that never answers: %s", got)
	}
	hangs := make(chan string, 1)
	go func() {
		_, out := d.Try(t, "guest", "add", "in", "--pid", strconv.Itoa(x.PID()), "--controllers", "pids", "--into", dead+"/x")
		hangs <- out
	}()
	time.Sleep(100 * time.Millisecond)
	d.WantTry(t, 0, "", x.Place.Add("other")...)
	d.WantTry(t, 0, "", "guest", "rm", "other")
	select {
	case out := <-hangs:
		if !strings.Contains(out, "does not answer") {
			t.Errorf("a place that never answers: %s", out)
		}
	case <-time.After(kit.Patience):
		t.Error("a place in the guest that never answers keeps guest add waiting")
	}
	x.Ask(t, "umount", dead)
	if view, real := insiderMounts(t, x); view != 0 || real != before {
		t.Errorf("%d views and %d other mounts at /sys/fs/cgroup, before %d", view, real, before)
	}
	if left, _ := os.ReadDir(filepath.Join(filepath.Dir(d.Socket), "views")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	d.WantTry(t, 6, "no guest", "guest", "attach", "in")
	d.WantTry(t, 0, "", x.Place.Add("plain")...)
	d.WantTry(t, 2, "--into", "guest", "attach", "plain")
	d.Stop(t)
}

// TestInsideShared: where a change of the guest's mounts would be one of the host's, nothing is changed.
func TestInsideShared(t *testing.T) {
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "inside-shared")
	dir := kit.PublicDir(t)
	if err := unix.Mount("ours", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := kit.StartHelper(t, "commands")
	if err := p.Hierarchy.Attach(p.Path, h.PID()); err != nil {
		t.Fatal(err)
	}
	before := kit.MountTable()
	for _, c := range []struct{ unshare, says string }{{"unshare-cgroup", "own mount namespace"}, {"unshare-mounts", "shared with the host"}} {
		if got := h.Ask(t, c.unshare); got != "ok" {
			t.Fatalf("%s: %s", c.unshare, got)
		}
		for _, into := range []string{dir, dir + "/below"} {
			d.WantTry(t, 1, c.says, "guest", "add", "in", "--pid", strconv.Itoa(h.PID()), "--controllers", "pids", "--into", into)
		}
		if after := kit.MountTable(); after != before {
			t.Errorf("%s: the host's mounts were\n%s\nand are\n%s", c.unshare, before, after)
		}
	}
	d.Stop(t)
}

// TestInsideFiltered: a daemon that a seccomp filter keeps from mounting by descriptor says so, whatever the filter answers.
func TestInsideFiltered(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			d := kit.StartDaemonOf(t, "/proc/self/exe", kit.RoleVariable+"=filtered "+strconv.Itoa(int(errno)), "VCGROUPFS="+kit.AbsProgram(t))
			x := kit.StartInsider(t, d, "inside-filtered")
			for _, file := range []string{"/sys/fs/cgroup", "/nowhere"} {
				d.WantTry(t, 1, "seccomp filter", "guest", "add", "in", "--pid", strconv.Itoa(x.PID()), "--controllers", "pids", "--into", file)
			}
			if left, _ := os.ReadDir(filepath.Join(filepath.Dir(d.Socket), "views")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			d.WantTry(t, 0, "", x.Place.Add("plain")...) // mount(2) does for what is not attached elsewhere
			d.Stop(t)
		})
	}
}

// playFiltered becomes the program under a filter that answers open_tree, move_mount and fsopen with an errno.
func playFiltered(errno string) {
	n, err := strconv.Atoi(errno)
	if err != nil {
		panic(err)
	}
	is := func(call uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: skip, K: call}
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		is(unix.SYS_OPEN_TREE, 3), is(unix.SYS_MOVE_MOUNT, 2), is(unix.SYS_FSOPEN, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(n)},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		panic(errno)
	}
	os.Unsetenv(kit.RoleVariable)
	panic(unix.Exec(os.Getenv("VCGROUPFS"), append([]string{"vcgroupfs"}, os.Args[1:]...), os.Environ()))
}
