package host

import (
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

func TestMoveInside(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		pid, _ := startSleep(t)
		p.put(t, "/guest", pid)
		p.wantContains(t, pid, true)
		var asked int
		check := func(task *Task) error {
			uid, suid, err := task.UIDs()
			if asked++; err != nil || uid != 0 || suid != 0 || task.Pid() != pid || !task.Alive() {
				t.Errorf("held task: %d, ids %d and %d, %v", task.Pid(), uid, suid, err)
			}
			return nil
		}
		if err := move(p.boundary, p.a, "cgroup.procs", pid, false, check); err != nil {
			t.Fatal(err)
		}
		p.wantAt(t, pid, "/guest/a")
		p.wantContains(t, pid, true)
		if path, err := p.boundary.PathOf(pid); path != "a" || err != nil {
			t.Errorf("PathOf = %q, %v", path, err)
		}
		if err := move(p.boundary, p.root, "cgroup.procs", pid, false, check); err != nil {
			t.Fatal(err)
		}
		p.wantAt(t, pid, "/guest")
		if asked != 2 {
			t.Errorf("the check was asked %d times", asked)
		}
		err := move(p.boundary, p.a, "cgroup.procs", pid, false, func(*Task) error { return unix.EACCES })
		if !errors.Is(err, unix.EACCES) {
			t.Errorf("the check said EACCES, the move %v", err)
		}
		p.wantAt(t, pid, "/guest")
	})
}

func TestMoveFromOutside(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		host, _ := startSleep(t) // wherever this test is
		p.wantContains(t, host, false)
		p.wantRefused(t, host, false)
		p.wantRefused(t, host, true)
		if _, err := p.boundary.PathOf(host); !errors.Is(err, unix.ENOENT) {
			t.Errorf("PathOf outside: %v, want ENOENT", err)
		}
		// Above the boundary, beside it, and beside it with a name that begins as the boundary's.
		for _, dir := range []string{"", "/sibling", "/guest-2"} {
			pid, _ := startSleep(t)
			p.put(t, dir, pid)
			p.wantContains(t, pid, false)
			p.wantRefused(t, pid, false)
			p.wantRefused(t, pid, true)
			p.wantAt(t, pid, dir)
		}
	})
}

func TestMoveNobody(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		pid, reap := startSleep(t)
		p.put(t, "/guest", pid)
		reap()
		for _, nr := range []int{pid, 0, -1, math.MaxInt32} {
			if err := move(p.boundary, p.a, "cgroup.procs", nr, false, nil); !errors.Is(err, unix.ESRCH) {
				t.Errorf("moving %d: %v, want ESRCH", nr, err)
			}
			if _, err := p.boundary.Contains(nr); !errors.Is(err, unix.ESRCH) {
				t.Errorf("Contains(%d): %v, want ESRCH", nr, err)
			}
		}
	})
}

func TestMoveToRemoved(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		pid, _ := startSleep(t)
		p.put(t, "/guest", pid)
		if err := p.hier.RemoveAll(p.top + "/guest/a"); err != nil {
			t.Fatal(err)
		}
		if err := move(p.boundary, p.a, "cgroup.procs", pid, false, nil); !errors.Is(err, unix.ENODEV) {
			t.Errorf("moving to a removed cgroup: %v, want ENODEV", err)
		}
	})
}

// Nothing may be left that guests could pile up.
func TestMoveLeavesNoDescriptor(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		pid, _ := startRole(t, "threads 2", 0)
		p.put(t, "/guest", pid)
		out, _ := startSleep(t)
		count := func() int {
			names, err := os.ReadDir("/proc/self/fd")
			if err != nil {
				t.Fatal(err)
			}
			return len(names)
		}
		round := func() {
			move(p.boundary, p.a, "cgroup.procs", pid, false, nil)
			move(p.boundary, p.root, "cgroup.procs", pid, false, nil)
			p.wantRefused(t, out, false)
		}
		round()
		before := count()
		for range 20 {
			round()
		}
		if after := count(); after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

func TestPathBelow(t *testing.T) {
	for _, x := range []struct {
		base, path, rest string
		ok               bool
	}{
		{"/a/b", "/a/b", "", true},
		{"/a/b", "/a/b/c/d", "c/d", true},
		{"/a/b", "/a/bc", "", false},
		{"/a/b", "/a", "", false},
		{"/a/b", "/", "", false},
		{"/a/b", "/a/b/../c", "", false},
		{"/", "/x", "x", true},
		{"/", "/", "", true},
		{"/", "/..", "", false},
		{"/", "/../x", "", false},
		{"/", "x", "", false},
		{"", "/x", "", false},
		{"/a", "", "", false},
		{"/a b", "/a b/c (deleted)", "c (deleted)", true},
		{"/..a", "/..a/b..", "b..", true},
	} {
		if rest, ok := pathBelow(x.base, x.path); rest != x.rest || ok != x.ok {
			t.Errorf("pathBelow(%q, %q) = %q, %t; want %q, %t", x.base, x.path, rest, ok, x.rest, x.ok)
		}
	}
}

func TestMembershipOf(t *testing.T) {
	const text = "12:name=systemd:/s\n4:cpu,cpuacct:/a:b\nrubbish\n1:cpuset:/c\n0::/u \n"
	v1, v2 := hierarchy.V1, hierarchy.V2
	for _, x := range []struct {
		h    hierarchy.Hierarchy
		path string
		ok   bool
	}{
		{hierarchy.Hierarchy{Version: v1, ID: 12}, "/s", true},
		{hierarchy.Hierarchy{Version: v1, ID: 4}, "/a:b", true},
		{hierarchy.Hierarchy{Version: v1, ID: 2}, "", false},
		{hierarchy.Hierarchy{Version: v1, ID: 0}, "", false},
		{hierarchy.Hierarchy{Version: v2}, "/u ", true},
	} {
		if path, ok := membershipOf([]byte(text), x.h); path != x.path || ok != x.ok {
			t.Errorf("hierarchy %d: %q, %t", x.h.ID, path, ok)
		}
	}
}

// Whatever the text, a path that counts as below a boundary has no way up in it.
func FuzzMembership(f *testing.F) {
	f.Add([]byte("4:cpu,cpuacct:/a/b\n0::/a/../b\n"), "/a")
	f.Add([]byte("0::/..\n4::\n:::\n"), "/")
	f.Fuzz(func(t *testing.T, raw []byte, base string) {
		for _, h := range []hierarchy.Hierarchy{{Version: hierarchy.V1, ID: 4}, {Version: hierarchy.V2}} {
			path, ok := membershipOf(raw, h)
			if !ok {
				continue
			}
			rest, ok := pathBelow(base, path)
			if !ok {
				continue
			}
			if strings.HasPrefix(rest, "../") || strings.Contains("/"+rest+"/", "/../") {
				t.Errorf("%q is said to be below %q: %q", path, base, rest)
			}
			if joined := strings.TrimSuffix(base, "/") + "/" + rest; rest != "" && joined != path {
				t.Errorf("%q and %q are not %q", base, rest, path)
			}
		}
	})
}

func BenchmarkMove(b *testing.B) {
	h, err := Open()
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	hier := h.Hierarchy("pids")
	if hier == nil {
		hier = h.Hierarchy("unified")
	}
	p := newPlayground(b, hier)
	pid, _ := startSleep(b)
	p.put(b, "/guest", pid)
	dirs := []*Dir{p.a, p.root}
	number := []byte(strconv.Itoa(pid))
	b.Run("checked", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if err := move(p.boundary, dirs[i%2], "cgroup.procs", pid, false, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("native", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			fd, err := dirs[i%2].OpenFile("cgroup.procs", unix.O_WRONLY)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := WriteCommand(fd, number); err != nil {
				b.Fatal(err)
			}
			unix.Close(fd)
		}
	})
	b.Run("contains", func(b *testing.B) {
		for b.Loop() {
			p.boundary.Contains(pid)
		}
	})
}
