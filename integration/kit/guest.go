package kit

import (
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Place is a boundary in the pids hierarchy and a directory for its view.
type Place struct {
	Hierarchy *host.Hierarchy
	Path      string
	Dir       string
	d         *Daemon
}

// NewPlace makes a place for a guest of a daemon.
func NewPlace(t *testing.T, d *Daemon, name string) *Place {
	t.Helper()
	h := OpenHost(t)
	p := &Place{Hierarchy: NeedHierarchy(t, h, "pids"), d: d}
	p.Path = NewBoundary(t, name, p.Hierarchy)
	p.Dir = PublicDir(t)
	t.Cleanup(func() { d.Stop(t) })
	d.Mounts[p.Dir] = true
	return p
}

// Add is the command that adds the place as a guest.
func (p *Place) Add(name string, more ...string) []string {
	return append([]string{"guest", "add", name, "--boundary", p.Path, "--controllers", "pids", "--target", p.Dir},
		more...)
}

// At is a file of the boundary as the guest sees it.
func (p *Place) At(file string) string { return filepath.Join(TopOf(p.Dir, p.Hierarchy), file) }

// Insider is a process in a cgroup, a cgroup namespace and a mount namespace of its own, in which all cgroups of the
// host are mounted: what a runtime starts a guest as.
type Insider struct {
	*Helper
	Place *Place
}

// StartInsider starts an insider in a place for a daemon's guest.
func StartInsider(t *testing.T, d *Daemon, name string) *Insider {
	t.Helper()
	p := NewPlace(t, d, name)
	h := StartHelper(t, "commands")
	if err := p.Hierarchy.Attach(p.Path, h.PID()); err != nil {
		t.Fatal(err)
	}
	if got := h.Ask(t, "unshare"); got != "ok" {
		t.Fatalf("unshare: %s", got)
	}
	return &Insider{h, p}
}

// Add adds the insider as a guest whose view is at /sys/fs/cgroup.
func (x *Insider) Add(t *testing.T, name string, more ...string) {
	t.Helper()
	x.Place.d.WantTry(t, 0, "added "+name, append([]string{"guest", "add", name, "--pid", strconv.Itoa(x.PID()),
		"--controllers", "pids", "--into", "/sys/fs/cgroup"}, more...)...)
}

// At is a file of the boundary as the insider finds it.
func (x *Insider) At(file string) string {
	return filepath.Join(TopOf(GuestView, x.Place.Hierarchy), file)
}

// GuestRoot is a file system of its own that a test's guest would have for its root.
func GuestRoot(t testing.TB) string {
	t.Helper()
	root := PublicDir(t)
	if err := unix.Mount("root", root, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	if err := unix.Mount("", root, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	return root
}
