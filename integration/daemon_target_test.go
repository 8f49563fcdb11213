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

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// guestRoot is a file system of its own that a test's guest would have for its root.
func guestRoot(t testing.TB) string {
	t.Helper()
	root := publicDir(t)
	if err := unix.Mount("root", root, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	if err := unix.Mount("", root, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	return root
}

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
	pids := hostDir(need(t, openHost(t), "pids"), "")
	for _, c := range []struct {
		source, kind string
		flags        uintptr
		goes         string // the type of the file system that no guest has, in any form; "" for none
	}{{"deep", "tmpfs", 0, ""}, {"deep", "sysfs", unix.MS_RDONLY, "sysfs"}, {pids, "", unix.MS_BIND, "cgroup2*"}} {
		t.Run(cmp.Or(c.kind, "cgroup"), func(t *testing.T) {
			root := guestRoot(t)
			at := filepath.Join(root, "a/b")
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(c.source, at, c.kind, c.flags, ""); err != nil {
				t.Fatal(err)
			}
			buryDeep(t, root, "a")
			if n := len(readFile("/proc/self/mountinfo")); n < 64<<10 {
				t.Fatalf("the table has %d bytes", n)
			}
			if got := runCommand(t, "hierarchies"); got.status != 0 || got.err != "" {
				t.Errorf("hierarchies: status %d, %.300s", got.status, got.err)
			}
			for _, form := range hostileForms {
				if form.name == "privileged" && c.goes == "sysfs" {
					continue // it keeps what the host has mounted but for cgroups
				}
				ask := "true"
				if c.goes != "" {
					ask = "! grep -Eq 'buried.* - " + c.goes + " ' /proc/self/mountinfo"
				}
				got := runCommand(t, slices.Concat([]string{"run"}, form.args, []string{"--", "sh", "-c", ask})...)
				if got.status != 0 || got.err != "" {
					t.Errorf("run, %s: status %d, %.300s", form.name, got.status, got.err)
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

// viewsBelow are the mount points below a directory, from it, at which views are mounted.
func viewsBelow(t testing.TB, dir string) (at []string) {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = hierarchy.ReadMounts(f, func(m *mountinfo.Info) (skip, stop bool) {
		if rest, below := strings.CutPrefix(m.Mountpoint, dir); below && strings.HasPrefix(m.FSType, "fuse.cgroup") {
			at = append(at, rest)
		}
		return true, false
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestTargetLinks: a guest's symbolic links lead no view out of its root, be it mounted by hand, by the daemon or because it is declared;
// inside the root they are followed, where the root is named.
func TestTargetLinks(t *testing.T) {
	tree := need(t, openHost(t), "pids")
	path := boundary(t, "target-links", tree)
	root := guestRoot(t)
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
	d := startDaemon(t)
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
		got := runCommand(t, append(append([]string{"mount"}, mount...), c.dir)...)
		if got.status != 1 || !strings.Contains(got.err, c.says) || strings.Count(got.err, "\n") != 1 {
			t.Errorf("mount %q %q: status %d, %q; want %q", c.rootfs, c.dir, got.status, got.err, c.says)
		}
		d.wantTry(t, 1, c.says, add...)
	}
	if at := append(viewsBelow(t, own), viewsBelow(t, root)...); len(at) != 0 {
		t.Fatalf("views are mounted at %q", at)
	}
	for _, dir := range []string{"/inside/fs/cgroup", "/up/fs/cgroup", "/run/fs/cgroup"} {
		d.wantTry(t, 0, "added web at "+root+dir, "guest", "add", "web", "--boundary", path, "--controllers", "pids", "--rootfs", root, "--target", dir)
		if at := viewsBelow(t, root); !slices.Equal(at, []string{"/run/fs/cgroup"}) {
			t.Errorf("%s: views are mounted at %q", dir, at)
		}
		d.wantTry(t, 0, "", "guest", "rm", "web")
		if at := viewsBelow(t, root); len(at) != 0 {
			t.Errorf("%s: left is %q", dir, at)
		}
	}
	d.declare(t, "linked", "boundary: "+path+"\ncontrollers: [pids]\ntarget: "+root+"/sys/fs/cgroup\n")
	d.declare(t, "inside", "boundary: "+path+"\ncontrollers: [pids]\nrootfs: "+root+"\ntarget: /inside/fs/cgroup\n")
	eventually(t, "the declared guests", func() bool {
		return slices.Equal(viewsBelow(t, root), []string{"/run/fs/cgroup"}) && strings.Contains(d.log(), root+"/sys is a symbolic link")
	})
	if at := viewsBelow(t, own); len(at) != 0 {
		t.Errorf("views are mounted at %q", at)
	}
}

// TestTargetMounts: what is mounted below a guest's root may be a directory of the host's: a link of the guest's leads no view onto it.
func TestTargetMounts(t *testing.T) {
	tree := need(t, openHost(t), "pids")
	path := boundary(t, "target-mounts", tree)
	root, host := guestRoot(t), guestRoot(t)
	if err := errors.Join(os.MkdirAll(host+"/fs/cgroup", 0o755), os.Mkdir(root+"/data", 0o755), os.Symlink("data", root+"/sys"),
		unix.Mount("", host, "", unix.MS_SHARED, ""), unix.Mount(host, root+"/data", "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	got := runCommand(t, "mount", "--boundary", path, "--controllers", "pids", "--rootfs", root, "/sys/fs/cgroup")
	if got.status != 1 || !strings.Contains(got.err, "leads to another mount") {
		t.Errorf("status %d, %q", got.status, got.err)
	}
	if at := append(viewsBelow(t, host), viewsBelow(t, root)...); len(at) != 0 {
		t.Errorf("views are mounted at %q", at)
	}
	if err := unix.Mount("", host, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	v := mountAt(t, root+"/data/fs/cgroup", "--boundary", path, "--controllers", "pids", "--rootfs", root, "/data/fs/cgroup") // as the host names it
	if at := viewsBelow(t, root); !slices.Equal(at, []string{"/data/fs/cgroup"}) {
		t.Errorf("views are mounted at %q: %s", at, v.err)
	}
}

// TestTargetExchanged: a guest exchanges the directory for a link all the time, while its view is mounted and unmounted (as in
// CVE-2021-30465 and CVE-2023-27561 of runc). It never gets it mounted on the host's directory, and nothing stays mounted.
func TestTargetExchanged(t *testing.T) {
	tree := need(t, openHost(t), "pids")
	path := boundary(t, "target-exchanged", tree)
	root := guestRoot(t)
	own := hostTarget(t, root, "link")
	if err := os.MkdirAll(filepath.Join(root, "sys/fs/cgroup"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t)
	end := again(func() bool {
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
		err := d.call("PUT", "/v1/guests/web", guestSpec{Boundary: path, Target: at, Rootfs: rootfs, Controllers: []string{"pids"}}, nil)
		if err == nil {
			made++
			if err := d.call("DELETE", "/v1/guests/web", nil, nil); err != nil {
				t.Errorf("rm: %v", err)
			}
		}
		if at := append(viewsBelow(t, own), viewsBelow(t, root)...); len(at) != 0 {
			t.Fatalf("attempt %d: views are mounted at %q", i, at)
		}
	}
	end()
	t.Logf("%d of 60 were mounted", made)
}

// TestTargetMoved: a guest moves the directory that its view is mounted in, and puts a link to the host's in its place. Removing the guest
// takes the view away where it is now, also when another worker does so; a daemon that ends leaves nothing either.
func TestTargetMoved(t *testing.T) {
	tree := need(t, openHost(t), "pids")
	d := startDaemon(t)
	ends := map[string]func(){
		"rm": func() { d.wantTry(t, 0, "", "guest", "rm", "web") },
		"worker": func() {
			d.signal(t, unix.SIGKILL, 0)
			d.ready(t)
			d.wantTry(t, 0, "", "guest", "rm", "web")
		},
		"boundary": nil,
		"stop":     func() { d.stop(t) },
	}
	for _, name := range []string{"rm", "worker", "boundary", "stop"} {
		t.Run(name, func(t *testing.T) {
			path := boundary(t, "target-moved-"+name, tree)
			root := guestRoot(t)
			at := filepath.Join(root, "sys/fs/cgroup")
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			d.wantTry(t, 0, "added", "guest", "add", "web", "--boundary", path, "--controllers", "pids", "--rootfs", root, "--target", "/sys/fs/cgroup")
			buryDeep(t, root, "sys")
			own := hostTarget(t, root, "sys")
			if err := unix.Mount("other", own+"/fs/cgroup", "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(own+"/fs/cgroup", unix.MNT_DETACH)
			if at := viewsBelow(t, root); len(at) != 1 || len(at[0]) < 70*256 {
				t.Fatalf("views are mounted at %q", at)
			}
			if end := ends[name]; end != nil {
				end()
			} else if err := tree.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the view to be unmounted", func() bool { return len(viewsBelow(t, root)) == 0 })
			if !mounted(own + "/fs/cgroup") {
				t.Error("the host's own mount was unmounted")
			}
		})
	}
}

// TestTargetRenames: a guest renames the directories above its view all the time. It is unmounted all the same.
func TestTargetRenames(t *testing.T) {
	tree := need(t, openHost(t), "pids")
	path := boundary(t, "target-renames", tree)
	root := guestRoot(t)
	if err := os.MkdirAll(filepath.Join(root, "a/fs/cgroup"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t)
	for range 5 {
		d.wantTry(t, 0, "added", "guest", "add", "web", "--boundary", path, "--controllers", "pids", "--rootfs", root, "--target", "/a/fs/cgroup")
		end := again(func() bool {
			unix.Rename(root+"/a", root+"/b")
			unix.Rename(root+"/b", root+"/a")
			return true
		})
		began := time.Now()
		d.wantTry(t, 0, "", "guest", "rm", "web")
		end()
		t.Logf("removed after %v", time.Since(began))
		if at := viewsBelow(t, root); len(at) != 0 {
			t.Errorf("views are mounted at %q", at)
		}
	}
}

// TestTargetCovered: what the host's administrator mounts over a view is not unmounted in its place, and guest rm says that the view stays.
func TestTargetCovered(t *testing.T) {
	d := startDaemon(t)
	p := newPlace(t, d, "target-covered")
	d.wantTry(t, 0, "added", p.add("web")...)
	if err := unix.Mount("other", p.dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	d.wantTry(t, 1, "something else is mounted over it", "guest", "rm", "web")
	d.wantTry(t, 0, "web", "guest", "ls")
	if err := unix.Unmount(p.dir, 0); err != nil || !isFUSE(p.dir) {
		t.Errorf("%v: the other mount is gone, or the view", err)
	}
	d.wantTry(t, 0, "", "guest", "rm", "web")
	if mounted(p.dir) {
		t.Error("the view is still mounted")
	}
}
