package daemon

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	life "github.com/vcgroupfs/vcgroupfs/cmd/internal/guest"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// viewsDir is where the views of guests are mounted that name no directory of the host.
func (d *Daemon) viewsDir() string { return filepath.Join(filepath.Dir(d.settings.Socket), "views") }

// ownTarget says whether a view is mounted where we make the directory ourselves.
func (d *Daemon) ownTarget(target string) bool { return filepath.Dir(target) == d.viewsDir() }

// inside is where the view of a guest is attached that has boundaries in these hierarchies.
func (g *guest) inside(boundaries []*host.Boundary) life.Inside {
	into := g.record.Spec.Into
	in := life.Inside{Pid: g.record.Spec.Pid, Start: g.record.PidStart, Rootfs: into.Rootfs, Path: into.Path, Stack: into.Stack}
	if into.Tmpfs {
		var trees []*host.Tree
		for _, b := range boundaries {
			trees = append(trees, b.Tree())
		}
		in.Dirs = life.DirsOf(trees)
	}
	return in
}

// attach attaches the view in the mount namespace of the guest's process, where the spec asks for it.
func (g *guest) attach(s *life.Served) error {
	if g.record.Spec.Into == nil {
		return nil
	}
	if g.record.Spec.Into.Tmpfs && s.View.Layout() == hierarchy.LayoutV2 {
		return failf(api.CodeInvalid, "cannot attach a view of layout v2 as a tmpfs with a mount for each hierarchy: it is one tree; show a v1 hierarchy")
	}
	// What the guest mounts on its view is not for others to see.
	if err := unix.Mount("", g.at.Path, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot keep the mounts on the view apart: %w", err)
	}
	return g.inside(s.Boundaries).Attach(g.at.Path)
}

// detach takes the view out of a guest whose process goes on.
func (g *guest) detach(s *life.Served) {
	if g.record.Spec.Into == nil || g.at.Device == 0 || ended(g.record) {
		return
	}
	if err := g.inside(s.Boundaries).Detach(g.at.Device); err != nil {
		g.log.WithError(err).Infof("the view is not taken out of process %d, where it has no server any more", g.record.Spec.Pid)
	}
}

// Attach attaches a guest's view anew, after the guest has taken it away.
func (d *Daemon) Attach(name string) error {
	g, err := d.find(name)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.gone:
		return notFound(name)
	case g.record.Spec.Into == nil:
		return failf(api.CodeInvalid, "cannot attach guest %s anew: it was added without a place in the guest (--into)", name)
	case ended(g.record):
		return failf(api.CodeInvalid, "cannot attach guest %s anew: its process has ended", name)
	}
	in := g.inside(g.boundaries())
	attached, err := in.Has(g.at.Device)
	if err == nil && !attached {
		err = in.Attach(g.at.Path)
	}
	return asError(api.CodeFailed, err)
}
