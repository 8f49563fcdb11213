package notify

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// treeGuest has a tmpfs for its view.
type treeGuest struct{ dir string }

func (g treeGuest) Type(int) uint32 { return 0 }

func (g treeGuest) Tree(*Caller, string, string) (int, error) {
	return unix.OpenTree(unix.AT_FDCWD, g.dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}

// mountedAt says how often something is mounted at a path in this process's namespace.
func mountedAt(t *testing.T, path string) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Fields(line)[4] == path {
			n++
		}
	}
	return n
}

// TestMountStays: a mount that is shared with this process's own namespace takes none, one that is a slave does; a place outside the
// caller's root is reached by no link; nothing comes here.
func TestMountStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("machine: not root")
	}
	dir := t.TempDir()
	view, place := filepath.Join(dir, "view"), filepath.Join(dir, "place")
	for _, d := range []string{view, place} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", 0, "size=64k"); err != nil {
			t.Skipf("machine: cannot mount: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(d, unix.MNT_DETACH) })
	}
	if err := unix.Mount("", place, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(place, "at")
	if err := errors.Join(os.Mkdir(at, 0o755), os.Symlink("/../../../../../../../at", filepath.Join(place, "climb")), os.Mkdir(filepath.Join(dir, "at"), 0o755)); err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{Guest: treeGuest{view}}
	err := host.OnThread(func() error { // in a mount namespace of its own, with the mounts shared as they are
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		fd, err := Install(Filter(Rules{Mounts: true}))
		if err != nil {
			return err
		}
		l, err := NewListener(fd)
		if err != nil {
			return err
		}
		go s.Serve(l, nil)
		mount := func(path string) error { return unix.Mount("none", path, "cgroup2", 0, "") }
		if err := mount(at); !errors.Is(err, unix.EPERM) {
			t.Errorf("on a mount that is shared with this process's: %v", err)
		}
		if n := mountedAt(t, at); n != 0 {
			t.Errorf("it came here %d times", n)
		}
		if err := unix.Mount("", place, "", unix.MS_SLAVE, ""); err != nil {
			return err
		}
		if err := mount(at); err != nil {
			t.Errorf("on a slave: %v", err)
		}
		if err := mount(at); !errors.Is(err, unix.EBUSY) {
			t.Errorf("twice: %v", err)
		}
		if err := errors.Join(unix.Unmount(at, 0), unix.Chroot(place)); err != nil {
			return err
		}
		if err := mount("/climb"); err != nil {
			t.Errorf("by a link that climbs: %v", err)
		}
		return unix.Unmount("/at", 0)
	})
	if errors.Is(err, unix.EBUSY) {
		t.Skip("machine: a seccomp filter with a listener holds here already")
	}
	if err != nil {
		t.Error(err)
	}
	for _, path := range []string{at, filepath.Join(dir, "at")} {
		if n := mountedAt(t, path); n != 0 {
			t.Errorf("%s: mounted here %d times", path, n)
		}
	}
}

// TestMountOwnNamespace: in this process's own mount namespace nothing is mounted for a caller.
func TestMountOwnNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("machine: not root")
	}
	dir := t.TempDir()
	onFiltered(t, Rules{Mounts: true}, func(l *os.File) { go (&Supervisor{Guest: treeGuest{dir}}).Serve(l, nil) }, func() {
		if err := unix.Mount("none", dir, "cgroup2", 0, ""); !errors.Is(err, unix.EPERM) {
			t.Errorf("mount: %v", err)
		}
		if n := mountedAt(t, dir); n != 0 {
			t.Errorf("mounted %d times", n)
		}
		if _, err := unix.Fsopen("cgroup2", 0); !errors.Is(err, unix.ENOSYS) {
			t.Errorf("fsopen of cgroup2: %v", err)
		}
		fd, err := unix.Fsopen("tmpfs", 0)
		if err != nil {
			t.Errorf("fsopen of tmpfs: %v", err)
		}
		unix.Close(fd)
	})
}

// TestJoined: of a hierarchy that has several controllers all are named, in any order, or none of them is meant.
func TestJoined(t *testing.T) {
	joined := hierarchy.Hierarchy{Version: hierarchy.V1, ID: 3, Controllers: []string{"cpu", "cpuacct"}, Dir: "cpu,cpuacct"}
	named := hierarchy.Hierarchy{Version: hierarchy.V1, ID: 2, Name: "systemd", Dir: "systemd"}
	unified := Legacy(hierarchy.Hierarchy{Version: hierarchy.V2, Controllers: []string{"io", "memory", "hugetlb", "misc"}},
		func(c string) bool { return c != "hugetlb" }, func(c string) bool { return c != "misc" })
	all := []hierarchy.Hierarchy{joined, named, unified}
	for _, c := range []struct {
		kind, options string
		want          string
		err           error
	}{
		{"cgroup", "cpu,cpuacct", "cpu,cpuacct", nil}, {"cgroup", "cpuacct,cpu", "cpu,cpuacct", nil}, {"cgroup", "rw,cpuacct,cpu,xattr", "cpu,cpuacct", nil},
		{"cgroup", "cpu", "", unix.EPERM}, {"cgroup", "cpuacct", "", unix.EPERM}, {"cgroup", "cpu,memory", "", unix.EPERM}, {"cgroup", "memory", "", unix.EPERM},
		{"cgroup", "blkio", "", unix.EPERM}, {"cgroup", "io", "", unix.EINVAL}, {"cgroup", "pids", "", unix.EINVAL}, {"cgroup", "hugetlb", "", unix.EINVAL},
		{"cgroup", "misc", "", unix.EINVAL},
		{"cgroup", "none,name=systemd", "name=systemd", nil}, {"cgroup", "name=systemd", "name=systemd", nil}, {"cgroup", "cpu,name=systemd", "", unix.EBUSY},
		{"cgroup", "name=other", "", unix.EINVAL}, {"cgroup", "none,name=other", "", unix.EPERM}, {"cgroup", "cpu,name=other", "", unix.EPERM},
		{"cgroup2", "", "unified", nil}, {"cgroup2", "nsdelegate,rw", "unified", nil}, {"cgroup2", "cpu", "", unix.EINVAL},
	} {
		h, err := Choose(c.kind, c.options, all, Rights{Cgroups: true})
		if !errors.Is(err, c.err) || err == nil && h.String() != c.want {
			t.Errorf("%s %s: %s, %v; want %s, %v", c.kind, c.options, h, err, c.want, c.err)
		}
		if _, err := Choose(c.kind, c.options, all, Rights{}); c.err == nil && !errors.Is(err, unix.EPERM) {
			t.Errorf("%s %s, without the right: %v", c.kind, c.options, err)
		}
	}
	if _, err := Choose("cgroup2", "", all[:2], Rights{Cgroups: true}); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a guest without v2: %v", err)
	}
}

// TestBelowBoundary: whatever a namespace's root is, no mount shows what is above or beside the boundary.
func TestBelowBoundary(t *testing.T) {
	v2 := hierarchy.Hierarchy{Version: hierarchy.V2}
	for _, c := range []struct{ root, boundary, want string }{
		{"/m/web", "/m/web", "/"}, {"/m/web/a/b", "/m/web", "/a/b"}, {"/m", "/m/web", "/"}, {"/", "/m/web", "/"}, {"/m/web2", "/m/web", "EPERM"},
		{"/other", "/m/web", "EPERM"}, {"/m/web/.vcgroupfs", "/m/web", "/"}, {"/m/web/.vcgroupfs/a", "/m/web", "/a"}, {"/m/web/a/.vcgroupfs", "/m/web", "/a/.vcgroupfs"},
		{"/a", "/", "/a"}, {"/m/web/../other", "/m/web", "EPERM"},
	} {
		got, err := Part{Hierarchy: v2, Host: v2, Boundary: c.boundary}.belowBoundary(c.root)
		if err != nil {
			got = unix.ErrnoName(err.(unix.Errno))
		}
		if got != c.want {
			t.Errorf("%s of %s: %s, want %s", c.root, c.boundary, got, c.want)
		}
	}
}

// FuzzChoose: no options make a hierarchy out of what a guest has not, and no more are asked for than there are.
func FuzzChoose(f *testing.F) {
	has := []hierarchy.Hierarchy{{Version: hierarchy.V1, Controllers: []string{"memory"}}, {Version: hierarchy.V1, Name: "systemd"}}
	for _, seed := range []string{"", "memory", "none,name=systemd", "all", "name=,x=1", ",,memory=", "release_agent=/x,memory"} {
		f.Add("cgroup", seed)
	}
	f.Fuzz(func(t *testing.T, kind, options string) {
		h, err := Choose(kind, options, has, Rights{Cgroups: true})
		if err == nil && !slices.ContainsFunc(has, func(x hierarchy.Hierarchy) bool { return x.String() == h.String() }) {
			t.Errorf("%s %q: %v", kind, options, h)
		}
	})
}
