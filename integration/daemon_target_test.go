package integration

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// buryDeep moves a directory of a guest's root so deep, below names that mount tables write with four bytes for one, that the line of
// what is mounted below it has more than 64 KiB.
func buryDeep(t testing.TB, root, dir string) {
	t.Helper()
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(top)
	at, err := unix.Dup(top)
	for range 70 {
		name := strings.Repeat("\n", 255)
		var next int
		if err == nil {
			err = unix.Mkdirat(at, name, 0o755)
		}
		if err == nil {
			next, err = unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		unix.Close(at)
		at = next
	}
	if err == nil {
		err = unix.Renameat(top, dir, at, "buried")
		unix.Close(at)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestLongMountTable: a line of the mount table that a guest has made longer than 64 KiB, and a path longer than PATH_MAX, keep nobody from
// reading it, nor "run" from taking away what its command must not have.
func TestLongMountTable(t *testing.T) {
	pids := kit.HostDir(kit.NeedHierarchy(t, kit.OpenHost(t), "pids"), "")
	for _, c := range []struct {
		source, kind string
		flags        uintptr
		goes         string // the type of the file system that no guest has, in any form; "" for none
	}{{"deep", "tmpfs", 0, ""}, {"deep", "sysfs", unix.MS_RDONLY, "sysfs"}, {pids, "", unix.MS_BIND, "cgroup2*"}} {
		t.Run(cmp.Or(c.kind, "cgroup"), func(t *testing.T) {
			root := kit.GuestRoot(t)
			at := filepath.Join(root, "a/b")
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(c.source, at, c.kind, c.flags, ""); err != nil {
				t.Fatal(err)
			}
			buryDeep(t, root, "a")
			if n := len(kit.ReadFile("/proc/self/mountinfo")); n < 64<<10 {
				t.Fatalf("the table has %d bytes", n)
			}
			if got := kit.RunCommand(t, "hierarchies"); got.Status != 0 || got.Stderr != "" {
				t.Errorf("hierarchies: status %d, %.300s", got.Status, got.Stderr)
			}
			for _, form := range hostileForms {
				if form.name == "privileged" && c.goes == "sysfs" {
					continue // it keeps what the host has mounted but for cgroups
				}
				ask := "true"
				if c.goes != "" {
					ask = "! grep -Eq 'buried.* - " + c.goes + " ' /proc/self/mountinfo"
				}
				got := kit.RunCommand(t, slices.Concat([]string{"run"}, form.args, []string{"--", "sh", "-c", ask})...)
				if got.Status != 0 || got.Stderr != "" {
					t.Errorf("run, %s: status %d, %.300s", form.name, got.Status, got.Stderr)
				}
			}
		})
	}
}

// hostTarget has a directory of the host's own, and a link that a guest has made to it.
func hostTarget(t testing.TB, root string, guest ...string) (own string) {
	t.Helper()
	own, err := os.MkdirTemp("", "vcgroupfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(own) })
	if err := os.MkdirAll(filepath.Join(own, "fs/cgroup"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, link := range guest {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(own, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	return own
}

// TestTargetLinks: a guest's symbolic links lead no view out of its root, be it mounted by hand, by the daemon or because it is declared;
// inside the root they are followed, where the root is named.
func TestTargetLinks(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "target-links", hier)
	root := kit.GuestRoot(t)
	own := hostTarget(t, root, "sys", "out/sys")
	for _, dir := range []string{"run/fs/cgroup", "proc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"inside": "/run", "magic": "/proc/self/root", "circle": "circle", "up": "../../../../../../run"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	d := kit.StartDaemon(t)
	for _, c := range []struct{ rootfs, dir, says string }{
		{"", root + "/sys/fs/cgroup", root + "/sys is a symbolic link: name the directory itself, or the guest's root with --rootfs"},
		{"", root + "/out/sys/fs/cgroup", root + "/out/sys is a symbolic link"}, {"", root + "/circle", "is a symbolic link"},
		{"", root + "/inside/fs/cgroup", root + "/inside is a symbolic link"}, {root, "/sys/fs/cgroup", "make the directory first"},
		{root, "/magic/run/fs/cgroup", "leads to another mount"}, {root, "/circle", "in a circle"}, {root, "/run/fs/cgroup/no", "make the directory first"},
		{root, "/magic" + own + "/fs/cgroup", "leads to another mount"},
	} {
		mount := []string{"--boundary", path, "--controllers", "pids"}
		add := []string{"guest", "add", "web", "--boundary", path, "--controllers", "pids", "--target", c.dir}
		if c.rootfs != "" {
			mount, add = append(mount, "--rootfs", c.rootfs), append(add, "--rootfs", c.rootfs)
		}
		got := kit.RunCommand(t, append(append([]string{"mount"}, mount...), c.dir)...)
		if got.Status != 1 || !strings.Contains(got.Stderr, c.says) || strings.Count(got.Stderr, "\n") != 1 {
			t.Errorf("mount %q %q: status %d, %q; want %q", c.rootfs, c.dir, got.Status, got.Stderr, c.says)
		}
		d.WantTry(t, 1, c.says, add...)
	}
	if at := append(kit.ViewsBelow(t, own), kit.ViewsBelow(t, root)...); len(at) != 0 {
		t.Fatalf("views are mounted at %q", at)
	}
	for _, dir := range []string{"/inside/fs/cgroup", "/up/fs/cgroup", "/run/fs/cgroup"} {
		d.WantTry(t, 0, "added web at "+root+dir, "guest", "add", "web", "--boundary", path, "--controllers", "pids", "--rootfs", root, "--target", dir)
		if at := kit.ViewsBelow(t, root); !slices.Equal(at, []string{"/run/fs/cgroup"}) {
			t.Errorf("%s: views are mounted at %q", dir, at)
		}
		d.WantTry(t, 0, "", "guest", "rm", "web")
		if at := kit.ViewsBelow(t, root); len(at) != 0 {
			t.Errorf("%s: left is %q", dir, at)
		}
	}
	d.Declare(t, "linked", "boundary: "+path+"\ncontrollers: [pids]\ntarget: "+root+"/sys/fs/cgroup\n")
	d.Declare(t, "inside", "boundary: "+path+"\ncontrollers: [pids]\nrootfs: "+root+"\ntarget: /inside/fs/cgroup\n")
	kit.Eventually(t, "the declared guests", func() bool {
		return slices.Equal(kit.ViewsBelow(t, root), []string{"/run/fs/cgroup"}) && strings.Contains(d.Log(), root+"/sys is a symbolic link")
	})
	if at := kit.ViewsBelow(t, own); len(at) != 0 {
		t.Errorf("views are mounted at %q", at)
	}
}

// TestTargetMounts: what is mounted below a guest's root may be a directory of the host's: a link of the guest's leads no view onto it.
func TestTargetMounts(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "target-mounts", hier)
	root, host := kit.GuestRoot(t), kit.GuestRoot(t)
	if err := errors.Join(os.MkdirAll(host+"/fs/cgroup", 0o755), os.Mkdir(root+"/data", 0o755), os.Symlink("data", root+"/sys"),
		unix.Mount("", host, "", unix.MS_SHARED, ""), unix.Mount(host, root+"/data", "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	got := kit.RunCommand(t, "mount", "--boundary", path, "--controllers", "pids", "--rootfs", root, "/sys/fs/cgroup")
	if got.Status != 1 || !strings.Contains(got.Stderr, "leads to another mount") {
		t.Errorf("status %d, %q", got.Status, got.Stderr)
	}
	if at := append(kit.ViewsBelow(t, host), kit.ViewsBelow(t, root)...); len(at) != 0 {
		t.Errorf("views are mounted at %q", at)
	}
	if err := unix.Mount("", host, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	v := kit.MountAt(t, root+"/data/fs/cgroup", "--boundary", path, "--controllers", "pids", "--rootfs", root, "/data/fs/cgroup") // as the host names it
	if at := kit.ViewsBelow(t, root); !slices.Equal(at, []string{"/data/fs/cgroup"}) {
		t.Errorf("views are mounted at %q: %s", at, v.Stderr)
	}
}

// TestTargetExchanged: a guest exchanges the directory for a link all the time, while its view is mounted and unmounted (as in
// CVE-2021-30465 and CVE-2023-27561 of runc). It never gets it mounted on the host's directory, and nothing stays mounted.
func TestTargetExchanged(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "target-exchanged", hier)
	root := kit.GuestRoot(t)
	own := hostTarget(t, root, "link")
	if err := os.MkdirAll(filepath.Join(root, "sys/fs/cgroup"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := kit.StartDaemon(t)
	end := kit.Repeat(func() bool {
		unix.Renameat2(unix.AT_FDCWD, root+"/sys", unix.AT_FDCWD, root+"/link", unix.RENAME_EXCHANGE)
		return true
	})
	defer end()
	made := 0
	for i := range 60 {
		at, rootfs := root+"/sys/fs/cgroup", ""
		if i%2 == 1 {
			at, rootfs = "/sys/fs/cgroup", root
		}
		err := d.Call("PUT", "/v1/guests/web", kit.GuestSpec{Boundary: path, Target: at, Rootfs: rootfs, Controllers: []string{"pids"}}, nil)
		if err == nil {
			made++
			if err := d.Call("DELETE", "/v1/guests/web", nil, nil); err != nil {
				t.Errorf("rm: %v", err)
			}
		}
		if at := append(kit.ViewsBelow(t, own), kit.ViewsBelow(t, root)...); len(at) != 0 {
			t.Fatalf("attempt %d: views are mounted at %q", i, at)
		}
	}
	end()
	t.Logf("%d of 60 were mounted", made)
}

// TestTargetMoved: a guest moves the directory that its view is mounted in, and puts a link to the host's in its place. Removing the guest
// takes the view away where it is now, also when another worker does so; a daemon that ends leaves nothing either.
func TestTargetMoved(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	d := kit.StartDaemon(t)
	ends := map[string]func(){
		"rm": func() { d.WantTry(t, 0, "", "guest", "rm", "web") },
		"worker": func() {
			d.Signal(t, unix.SIGKILL, 0)
			d.Ready(t)
			d.WantTry(t, 0, "", "guest", "rm", "web")
		},
		"boundary": nil,
		"stop":     func() { d.Stop(t) },
	}
	for _, name := range []string{"rm", "worker", "boundary", "stop"} {
		t.Run(name, func(t *testing.T) {
			path := kit.NewBoundary(t, "target-moved-"+name, hier)
			root := kit.GuestRoot(t)
			at := filepath.Join(root, "sys/fs/cgroup")
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			d.WantTry(t, 0, "added", "guest", "add", "web", "--boundary", path, "--controllers", "pids", "--rootfs", root, "--target", "/sys/fs/cgroup")
			buryDeep(t, root, "sys")
			own := hostTarget(t, root, "sys")
			if err := unix.Mount("other", own+"/fs/cgroup", "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(own+"/fs/cgroup", unix.MNT_DETACH)
			if at := kit.ViewsBelow(t, root); len(at) != 1 || len(at[0]) < 70*256 {
				t.Fatalf("views are mounted at %q", at)
			}
			if end := ends[name]; end != nil {
				end()
			} else if err := hier.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			kit.Eventually(t, "the view to be unmounted", func() bool { return len(kit.ViewsBelow(t, root)) == 0 })
			if !kit.IsMounted(own + "/fs/cgroup") {
				t.Error("the host's own mount was unmounted")
			}
		})
	}
}

// TestTargetRenames: a guest renames the directories above its view all the time. It is unmounted all the same.
func TestTargetRenames(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "target-renames", hier)
	root := kit.GuestRoot(t)
	if err := os.MkdirAll(filepath.Join(root, "a/fs/cgroup"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := kit.StartDaemon(t)
	for range 5 {
		d.WantTry(t, 0, "added", "guest", "add", "web", "--boundary", path, "--controllers", "pids", "--rootfs", root, "--target", "/a/fs/cgroup")
		end := kit.Repeat(func() bool {
			unix.Rename(root+"/a", root+"/b")
			unix.Rename(root+"/b", root+"/a")
			return true
		})
		began := time.Now()
		d.WantTry(t, 0, "", "guest", "rm", "web")
		end()
		t.Logf("removed after %v", time.Since(began))
		if at := kit.ViewsBelow(t, root); len(at) != 0 {
			t.Errorf("views are mounted at %q", at)
		}
	}
}

// TestTargetCovered: what the host's administrator mounts over a view is not unmounted in its place, and guest rm says that the view stays.
func TestTargetCovered(t *testing.T) {
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "target-covered")
	d.WantTry(t, 0, "added", p.Add("web")...)
	if err := unix.Mount("other", p.Dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	d.WantTry(t, 1, "something else is mounted over it", "guest", "rm", "web")
	d.WantTry(t, 0, "web", "guest", "ls")
	if err := unix.Unmount(p.Dir, 0); err != nil || !kit.IsFUSE(p.Dir) {
		t.Errorf("%v: the other mount is gone, or the view", err)
	}
	d.WantTry(t, 0, "", "guest", "rm", "web")
	if kit.IsMounted(p.Dir) {
		t.Error("the view is still mounted")
	}
}
