package target

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes directories and links ("name -> to") below a new one.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	for _, name := range names {
		link, to, is := strings.Cut(name, " -> ")
		at := filepath.Join(root, link)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(at), 0o755)); is {
			err = errors.Join(err, os.Symlink(to, at))
		} else {
			err = errors.Join(err, os.MkdirAll(at, 0o755))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestOpen: which directory a target is, or what is said of it.
func TestOpen(t *testing.T) {
	root := tree(t, "r/sys/fs/cgroup", "r/abs -> /sys", "r/rel -> sys/fs", "r/up -> ../../../sys", "r/loop -> loop", "r/gone -> /none", "sys/fs/host")
	if err := os.WriteFile(root+"/r/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(root, root+"/r/host"); err != nil {
		t.Fatal(err)
	}
	const cgroup = "/r/sys/fs/cgroup"
	for _, c := range []struct {
		inside     bool
		path, want string // where it leads, or what is said
	}{
		{false, cgroup, cgroup}, {true, "/sys/fs/cgroup", cgroup}, {true, "/abs/fs/cgroup", cgroup}, {true, "/rel/cgroup", cgroup},
		{true, "/up/fs/cgroup", cgroup}, {true, "/loop", "in a circle"}, {true, "/gone", "make the directory first"},
		{true, "/file", "not a directory"}, {false, "/r/file", "not a directory"}, {false, "/r/none", "make the directory first"},
		{false, "/r/rel/cgroup", "/r/rel is a symbolic link: name the directory itself, or the guest's root with --rootfs"},
		{false, "/r/loop", "/r/loop is a symbolic link"}, {true, "/host/sys/fs/host", "make the directory first"},
	} {
		at := Target{Path: root + c.path}
		if c.inside {
			at = Target{Rootfs: root + "/r", Path: c.path}
		}
		fd, err := at.Open()
		if err != nil {
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "cannot mount at "+at.String()) {
				t.Errorf("%+v: %v; want %q", at, err, c.want)
			}
			continue
		}
		where, _ := os.Readlink(Link(fd))
		unix.Close(fd)
		if where != root+c.want {
			t.Errorf("%+v leads to %s, want %s", at, where, c.want)
		}
	}
	if fd, err := Beside(root + "/r/rel").Open(); err != nil {
		t.Error(err)
	} else {
		unix.Close(fd)
	}
}

// TestLongPath: a path longer than PATH_MAX is opened part by part.
func TestLongPath(t *testing.T) {
	root := tree(t)
	at, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	path := root
	for range 40 {
		name := strings.Repeat("n", 250)
		path += "/" + name
		if err = errors.Join(err, unix.Mkdirat(at, name, 0o755)); err != nil {
			t.Fatal(err)
		}
		next, oerr := unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC, 0)
		unix.Close(at)
		at, err = next, oerr
	}
	defer unix.Close(at)
	fd, err := OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(at, &a), unix.Fstat(fd, &b)); err != nil || a.Ino != b.Ino {
		t.Errorf("%v: another directory", err)
	}
	if _, err := OpenPath(path + "/none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("what is not there: %v", err)
	}
}

// TestMount: a mount is known by its numbers, wherever it is, and nothing else is unmounted.
func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("machine: only root mounts")
	}
	root := tree(t, "a/at", "b")
	at := Target{Path: root + "/a/at"}
	mount := func(path string) Mount {
		t.Helper()
		if err := unix.Mount("test", path, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
		fd, err := OpenPath(path)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		m, err := MountOf(fd)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := mount(at.Path)
	if fd, err := m.At(at); err != nil {
		t.Fatal(err)
	} else {
		unix.Close(fd)
	}
	over := mount(at.Path)
	if err := m.Unmount(at); !errors.Is(err, ErrCovered) {
		t.Errorf("of what is covered: %v", err)
	}
	if err := over.Unmount(Target{}); err != nil {
		t.Error(err)
	}
	if err := os.Rename(root+"/a", root+"/b/c"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.At(at); !errors.Is(err, ErrGone) {
		t.Errorf("where it was: %v", err)
	}
	if err := m.Unmount(at); err != nil {
		t.Error(err)
	}
	if err := m.Unmount(at); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := m.Find(); !errors.Is(err, ErrGone) {
		t.Errorf("what was unmounted: %v", err)
	}
	if _, err := (Mount{}).Open(at); !errors.Is(err, ErrGone) {
		t.Errorf("none: %v", err)
	}
}
