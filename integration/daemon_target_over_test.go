package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// isDead says whether a file system's server is no more.
func isDead(path string) bool {
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(path, &st), unix.ENOTCONN)
}

// TestDeadViews: holder and worker died. The next daemon unmounts the dead views of its own directory and of declared guests, and makes these
// anew; where somebody else's is dead, it says so.
func TestDeadViews(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "dead-views", hier)
	root := kit.GuestRoot(t)
	if err := os.MkdirAll(root+"/sys/fs/cgroup", 0o755); err != nil {
		t.Fatal(err)
	}
	d := kit.StartDaemon(t)
	views := filepath.Join(d.Dir, "views")
	declared := func(target string) string { return "boundary: " + path + "\ncontrollers: [pids]\n" + target }
	d.Declare(t, "rooted", declared("rootfs: "+root+"\ntarget: /sys/fs/cgroup\n"))
	d.Declare(t, "plain", declared(""))
	d.WantTry(t, 0, "added", "guest", "add", "hand", "--boundary", path, "--controllers", "pids")
	at := []string{root + "/sys/fs/cgroup", views + "/plain", views + "/hand"}
	served := func() bool {
		max := func(dir string) bool { return kit.ReadFile(filepath.Join(kit.TopOf(dir, hier), "pids.max")) == "max\n" }
		return max(at[0]) && max(at[1])
	}
	kit.Eventually(t, "the declared guests", served)
	for range 2 {
		d.Die(t)
		for _, dir := range at[:2] {
			kit.Eventually(t, "the view at "+dir+" to be dead", func() bool { return isDead(dir) })
		}
		d.Start(t, kit.Program(t), nil)
		kit.Eventually(t, "the declared guests to be there again", served)
		if kit.Exists(at[2]) || kit.IsMounted(at[2]) {
			t.Error("the view of a guest that nobody makes again is left")
		}
		for _, dir := range at[:2] {
			if n := strings.Count(kit.ReadFile("/proc/self/mountinfo"), " "+dir+" "); n != 1 {
				t.Errorf("%d views are mounted at %s", n, dir)
			}
		}
	}
	d.WantTry(t, 0, "added", "guest", "add", "hand", "--boundary", path, "--controllers", "pids")
	d.Stop(t)
	for _, dir := range at {
		if kit.IsMounted(dir) {
			t.Errorf("a view is left at %s", dir)
		}
	}
}

// TestForeignDead: what is mounted where a guest is declared, and is no view, stays, dead or not.
func TestForeignDead(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "foreign-dead", hier)
	dir := kit.PublicDir(t)
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Mount("foreign", dir, "fuse.foreign", 0, "fd="+strconv.Itoa(device)+",rootmode=40000,user_id=0,group_id=0,allow_other")
	unix.Close(device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	d := kit.StartDaemon(t)
	d.Declare(t, "foreign", "boundary: "+path+"\ncontrollers: [pids]\ntarget: "+dir+"\n")
	d.WantLog(t, "umount "+dir)
	if !isDead(dir) {
		t.Error("what was mounted there was unmounted, or covered")
	}
}

// TestOver: what is mounted at a directory, or in it, is not covered by the way: mount and guest add refuse without --over.
func TestOver(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "over", hier)
	d := kit.StartDaemon(t)
	full, taken := kit.PublicDir(t), kit.GuestRoot(t)
	if err := os.WriteFile(full+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(full + "/file") })
	for _, c := range []struct{ dir, says string }{{full, "the directory is not empty: give --over"}, {taken, "something is mounted there: unmount it first, or give --over"}} {
		mount := []string{"--boundary", path, "--controllers", "pids"}
		add := append([]string{"guest", "add", "web", "--target", c.dir}, mount...)
		got := kit.RunCommand(t, append(append([]string{"mount"}, mount...), c.dir)...)
		if got.Status != 1 || !strings.Contains(got.Stderr, c.says) || strings.Count(got.Stderr, "\n") != 1 {
			t.Errorf("mount at %s: status %d, %q; want %q", c.dir, got.Status, got.Stderr, c.says)
		}
		d.WantTry(t, 1, c.says, add...)
		if at := kit.ViewsBelow(t, c.dir); len(at) != 0 {
			t.Errorf("a view is mounted at %s", c.dir)
		}
		d.WantTry(t, 0, "added", append(add, "--over")...)
		d.WantTry(t, 0, "", "guest", "rm", "web")
		t.Run("mount", func(t *testing.T) { kit.MountAt(t, c.dir, append(mount, "--over", c.dir)...) })
		if at := kit.ViewsBelow(t, c.dir); len(at) != 0 {
			t.Errorf("a view is left at %s", c.dir)
		}
	}
}

// TestMountDead: where a server was killed, who mounts is told to unmount what it has left, with --over, too.
func TestMountDead(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "mount-dead", hier)
	dir := kit.PublicDir(t)
	cmd := exec.Command(kit.Program(t), "mount", "--boundary", path, "--controllers", "pids", dir)
	p := kit.StartProcess(t, cmd)
	if line := p.Line(t); !strings.Contains(line, "mounted at "+dir) {
		t.Fatalf("it says %q", line)
	}
	cmd.Process.Kill()
	kit.Eventually(t, "the view to be dead", func() bool { return isDead(dir) })
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for _, over := range [][]string{nil, {"--over"}} {
		got := kit.RunCommand(t, append(append([]string{"mount", "--boundary", path, "--controllers", "pids"}, over...), dir)...)
		if got.Status != 1 || !strings.Contains(got.Stderr, "umount "+dir) {
			t.Errorf("%v: status %d, %q", over, got.Status, got.Stderr)
		}
	}
}

// TestMountAll: mount -a finds a view that is there already by the source that fstab says, and mounts none over it.
func TestMountAll(t *testing.T) {
	if out, err := exec.Command("mount", "--version").Output(); err != nil || !strings.Contains(string(out), "util-linux") {
		t.Skip("machine: no mount(8) of util-linux")
	}
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "mount-all", hier)
	const at = "/srv/web/rootfs/sys/fs/cgroup"
	out := paste(t, "mount -t tmpfs tmpfs /sbin/.\nln -s \"$(command -v vcgroupfs)\" /sbin/mount.vcgroupfs\n"+
		"echo '/machines/web "+at+" vcgroupfs rootfs=/srv/web/rootfs,controllers=pids 0 0' >/srv/fstab\n"+
		"mount -a -T /srv/fstab\nmount -a -T /srv/fstab\nmount -a -T /srv/fstab -v\n"+
		"grep -c ' "+at+" ' /proc/self/mountinfo\ngrep -o 'fuse.cgroup.* /machines/web ' /proc/self/mountinfo\n"+
		"umount "+at+"\nmount -a -T /srv/fstab\ngrep -c ' "+at+" ' /proc/self/mountinfo\n"+
		"ln -s /srv/out /srv/web/rootfs/bad\nmkdir -p /srv/out/x\nsed -i 's,/sys/fs/cgroup,/bad/x,' /srv/fstab\nmount -a -T /srv/fstab 2>&1 || true\n",
		"/machines/web", path)
	for _, want := range []string{"already mounted", "\n1\n", " " + path + " \n", "lead out of it"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "\n2\n") {
		t.Errorf("views are stacked:\n%s", out)
	}
}
