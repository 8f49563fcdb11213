package host

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// playground is a boundary with a child, and a sibling that the guest must not reach, in one hierarchy.
type playground struct {
	hier     *Hierarchy
	top      string
	boundary *Boundary
	root, a  *Dir
}

// missingFile is the file that a move which must be refused would write: were it not refused, nothing would be moved.
const missingFile = "there-is-no-such-file"

// inHierarchies runs a test in a v1 hierarchy and in v2, as far as the host has them.
func inHierarchies(t *testing.T, test func(t *testing.T, p *playground)) {
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	for _, controller := range []string{"pids", "freezer", "unified"} {
		hier := h.Hierarchy(controller)
		if hier == nil || controller != "unified" && hier.Version == hierarchy.V2 {
			continue // a host of another layout; one of the three is on every host
		}
		t.Run(controller, func(t *testing.T) { test(t, newPlayground(t, hier)) })
	}
}

func newPlayground(t testing.TB, hier *Hierarchy) *playground {
	t.Helper()
	name := strings.NewReplacer("/", "-", "=", "-").Replace(t.Name())
	p := &playground{hier: hier, top: fmt.Sprintf("/vcgroupfs-test-%d-%s", os.Getpid(), name)}
	t.Cleanup(func() {
		if err := hier.RemoveAll(p.top); err != nil {
			t.Errorf("cannot clean up: %v", err)
		}
	})
	for _, dir := range []string{"/guest/a", "/guest-2", "/sibling"} {
		if err := hier.Create(p.top+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if p.boundary, err = hier.Boundary(p.top + "/guest"); err != nil {
		t.Fatal(err)
	}
	if p.root, err = p.boundary.Root(); err != nil {
		t.Fatal(err)
	}
	if p.a, err = p.root.OpenDir("a"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.a.Release()
		p.root.Release()
		p.boundary.Close()
	})
	return p
}

// put moves a process that the test started, from the host's side.
func (p *playground) put(t testing.TB, dir string, pid int) {
	t.Helper()
	if err := p.hier.Attach(p.top+dir, pid); err != nil {
		t.Fatal(err)
	}
}

// putThread is put for one thread. v2 has no file for it outside threaded cgroups.
func (p *playground) putThread(t testing.TB, dir string, tid int) {
	t.Helper()
	if err := p.hier.WriteFile(p.top+dir, "tasks", strconv.Itoa(tid)); err != nil {
		t.Fatal(err)
	}
}

// where is the cgroup of a task, counted from the playground's top.
func (p *playground) where(t testing.TB, tid int) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	path, ok := membershipOf(raw, p.hier.Hierarchy)
	if !ok {
		t.Fatalf("task %d is not in the hierarchy", tid)
	}
	return strings.TrimPrefix(path, p.top)
}

func (p *playground) wantAt(t testing.TB, tid int, dir string) {
	t.Helper()
	if got := p.where(t, tid); got != dir {
		t.Errorf("task %d is in %s, want %s", tid, got, dir)
	}
}

func (p *playground) wantContains(t testing.TB, tid int, want bool) {
	t.Helper()
	if got, err := p.boundary.Contains(tid); err != nil || got != want {
		t.Errorf("Contains(%d) = %t, %v; want %t", tid, got, err, want)
	}
	if above, err := AncestryIn([]*Hierarchy{p.hier}, tid); err != nil || above.Has(p.boundary) != want {
		t.Errorf("AncestryIn(%d) = %v, %v; want %d among them: %t", tid, above, err, p.boundary.ID(), want)
	}
}

// beyond is the errno for a task outside.
func (p *playground) beyond() unix.Errno {
	if p.hier.Version == hierarchy.V2 {
		return unix.ENOENT
	}
	return unix.ESRCH
}

func (p *playground) wantRefused(t testing.TB, pid int, thread bool) {
	t.Helper()
	err := move(p.boundary, p.a, missingFile, pid, thread, func(*Task) error {
		t.Error("the check was asked about a task that is outside")
		return unix.EPERM
	})
	if !errors.Is(err, p.beyond()) {
		t.Errorf("moving %d: %v, want %v", pid, err, p.beyond())
	}
}

// move is Boundary.Move by a descriptor of its own, opened as the guest's is: before the task is looked at.
func move(b *Boundary, dst *Dir, file string, pid int, thread bool, check func(*Task) error) error {
	fd, err := dst.OpenFile(file, unix.O_WRONLY)
	if err != nil {
		fd = -1 // the cgroup is gone: Move is not to get as far as writing
	} else {
		defer unix.Close(fd)
	}
	_, moved := b.Move(dst, file, fd, pid, thread, check)
	if err != nil && (moved == nil || errors.Is(moved, unix.EBADF)) {
		return unix.ENODEV
	}
	return moved
}
