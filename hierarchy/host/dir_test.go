package host

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestAcquire: an id leads to a directory at or below the boundary and to no other, with handles and without.
func TestAcquire(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		for _, handles := range []bool{p.hier.host.features.Handles, false} {
			p.hier.host.features.Handles = handles
			b, err := p.hier.Boundary(p.top + "/guest")
			if err != nil {
				t.Fatal(err)
			}
			testAcquire(t, p, b)
			b.Close()
			if _, err := b.Acquire(p.a.ID()); err == nil {
				t.Error("a closed boundary gives out directories")
			}
		}
	})
}

func testAcquire(t *testing.T, p *playground, b *Boundary) {
	root, err := b.Root()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Release()
	var st unix.Stat_t
	if err := root.Lookup("a", &st); err != nil || st.Ino != p.a.ID() {
		t.Fatalf("Lookup(a): %v, id %d, want %d", err, st.Ino, p.a.ID())
	}
	d, err := b.Acquire(st.Ino)
	if err != nil {
		t.Fatal(err)
	}
	path, err := d.Path()
	depth, err2 := d.Depth()
	if path != "a" || depth != 1 || err != nil || err2 != nil || d.IsBoundary() {
		t.Errorf("path %q at depth %d, %v, %v", path, depth, err, err2)
	}
	up, err := d.Parent()
	if err != nil || !up.IsBoundary() {
		t.Errorf("Parent: %v", err)
	} else {
		up.Release()
	}
	d.Release()
	unknown := unix.ENOENT
	if !p.hier.host.features.Handles {
		unknown = unix.ESTALE
	}
	for _, dir := range []string{p.top, p.top + "/sibling", p.top + "/guest-2", "/"} {
		fd, err := p.hier.open(dir)
		if err != nil {
			t.Fatal(err)
		}
		unix.Fstat(fd, &st)
		unix.Close(fd)
		if d, err := b.Acquire(st.Ino); !errors.Is(err, unknown) {
			t.Errorf("Acquire of %s, which is outside: %v, %v", dir, d, err)
		}
	}
	if _, err := b.Acquire(1 << 40); !errors.Is(err, unknown) {
		t.Errorf("Acquire of what is not there: %v", err)
	}
}

// TestNames: a name is one component, whatever is tried.
func TestNames(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		var st unix.Stat_t
		for _, name := range []string{"", ".", "..", "../sibling", "a/..", "/", "a/b", "x\x00y"} {
			_, openErr := p.root.OpenDir(name)
			_, fileErr := p.root.OpenFile(name, unix.O_RDONLY)
			_, mkdirErr := p.root.Mkdir(name, 0o755)
			for op, err := range map[string]error{
				"lookup": p.root.Lookup(name, &st), "opendir": openErr, "openfile": fileErr, "mkdir": mkdirErr,
				"rmdir": p.root.Rmdir(name), "rename": p.root.Rename("a", name), "write": p.root.WriteFile(name, nil),
			} {
				if !errors.Is(err, unix.EINVAL) {
					t.Errorf("%s(%q): %v", op, name, err)
				}
			}
		}
	})
}

// TestDirs: a directory's life.
func TestDirs(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		made, err := p.a.Mkdir("b", 0o755)
		if err != nil {
			t.Fatal(err)
		}
		made.Release()
		if _, err := p.a.Mkdir("b", 0o755); !errors.Is(err, unix.EEXIST) {
			t.Errorf("mkdir again: %v", err)
		}
		if n, err := p.boundary.CountCgroups(); n != 2 || err != nil {
			t.Errorf("CountCgroups = %d, %v; want 2", n, err)
		}
		entries, err := p.a.ReadDir()
		if err != nil || !slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == "b" && e.IsDir && e.ID != 0 }) ||
			!slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == "cgroup.procs" && !e.IsDir }) {
			t.Errorf("ReadDir: %v, %v", entries, err)
		}
		if p.hier.Version == hierarchy.V1 {
			if err := p.a.Rename("b", "c"); err != nil {
				t.Error(err)
			}
			p.a.Rename("c", "b")
		}
		b, err := p.a.OpenDir("b")
		if err != nil {
			t.Fatal(err)
		}
		defer b.Release()
		const attr = "test"
		for _, file := range []string{"", "cgroup.procs"} {
			var buf [8]byte
			n, err := b.Node(file)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			if err := b.SetXattr(file, attr, []byte("x"), 0); err != nil {
				t.Errorf("SetXattr(%q): %v", file, err)
			}
			if size, err := b.GetXattr(file, attr, buf[:]); size != 1 || err != nil {
				t.Errorf("GetXattr(%q) = %d, %v", file, size, err)
			}
			if names, err := n.ListXattr(); err != nil || !slices.Contains(names, attr) {
				t.Errorf("ListXattr(%q) = %v, %v", file, names, err)
			}
			if err := b.RemoveXattr(file, attr); err != nil {
				t.Error(err)
			}
			if _, err := b.GetXattr(file, attr, buf[:]); !errors.Is(err, unix.ENODATA) {
				t.Errorf("GetXattr of a removed one: %v", err)
			}
			if err := n.SetTimes(unix.Timespec{Sec: 1}, unix.Timespec{Nsec: unix.UTIME_OMIT}); err != nil {
				t.Error(err)
			}
		}
		if err := p.a.Rmdir("b"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Path(); !errors.Is(err, unix.ENOENT) {
			t.Errorf("path of a removed directory: %v", err)
		}
		if _, err := b.OpenFile("cgroup.procs", unix.O_RDONLY); !errors.Is(err, unix.ENOENT) {
			t.Errorf("file of a removed directory: %v", err)
		}
	})
}

// TestCache: directories beyond the cache's bound stay usable while they are held.
func TestCache(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		var held []*Dir
		for i := range maxOpenDirs + 20 {
			name := "d" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + string(rune('a'+i/26))
			d, err := p.a.Mkdir(name, 0o755)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, d)
		}
		for _, d := range held {
			if _, err := d.ReadFile("cgroup.procs"); err != nil {
				t.Fatal(err)
			}
			d.Release()
		}
		for _, d := range held {
			again, err := p.boundary.Acquire(d.ID())
			if err != nil {
				t.Fatal(err)
			}
			again.Release()
		}
	})
}

// TestKill: every process below is killed, and the cgroups can be removed at once.
func TestKill(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		var reaps []func()
		for _, dir := range []string{"/guest", "/guest/a"} {
			for range 3 {
				pid, reap := startSleep(t)
				p.put(t, dir, pid)
				reaps = append(reaps, reap)
			}
		}
		if p.hier.Holds("freezer") {
			if err := p.hier.WriteFile(p.top+"/guest/a", "freezer.state", "FROZEN"); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.hier.Kill(p.top + "/guest"); err != nil {
			t.Error(err)
		}
		for _, reap := range reaps {
			reap()
		}
		if err := p.hier.RemoveAll(p.top + "/guest"); err != nil {
			t.Error(err)
		}
		if err := p.hier.Kill(p.top + "/guest"); err != nil {
			t.Errorf("killing in what is not there: %v", err)
		}
	})
}

// TestBoundary: what cannot be one.
func TestBoundary(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		for dir, want := range map[string]error{
			"/": unix.EINVAL, "relative": unix.EINVAL, "/a/../b": unix.EINVAL, p.top + "/nowhere": unix.ENOENT, "": unix.EINVAL,
		} {
			if _, err := p.hier.Boundary(dir); !errors.Is(err, want) {
				t.Errorf("Boundary(%q): %v, want %v", dir, err, want)
			}
		}
		if got := p.boundary.Path(); got != p.top+"/guest" {
			t.Errorf("Path() = %s", got)
		}
	})
}

// TestKillBoundary: what is at and below the boundary is killed, also what is frozen, and nothing beside it.
func TestKillBoundary(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		inside, reapInside := startSleep(t)
		beside, _ := startSleep(t)
		p.put(t, "/guest/a", inside)
		p.put(t, "/sibling", beside)
		if p.hier.Holds("freezer") {
			if err := p.hier.WriteFile(p.top+"/guest/a", "freezer.state", "FROZEN"); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.boundary.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the process to end", func() bool {
			raw, err := p.a.ReadFile("cgroup.procs")
			return err == nil && len(raw) == 0
		})
		reapInside()
		if left, err := p.hier.ReadFile(p.top+"/sibling", "cgroup.procs"); err != nil || left != fmt.Sprintln(beside) {
			t.Error("a process beside the boundary was killed")
		}
	})
}
