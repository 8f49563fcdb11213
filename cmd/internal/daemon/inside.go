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
func (d *Daemon) inside(g *guest, boundaries []*host.Boundary) (in life.Inside, err error) {
	into := g.record.Spec.Into
	in = life.Inside{Pid: g.record.Spec.Pid, Start: g.record.PidStart, Rootfs: into.Rootfs, Path: into.Path, Stack: into.Stack}
	if into.Tmpfs {
		var trees []*host.Tree
		for _, b := range boundaries {
			trees = append(trees, b.Tree())
		}
		in.Dirs = life.DirsOf(trees)
	}
	if into.ProcCgroups {
		p, err := d.policy(g.record.Spec)
		if err != nil {
			return in, err
		}
		if in.Cgroups, err = life.CgroupsText(d.host, p); err != nil {
			return in, err
		}
	}
	return in, nil
}

// attach attaches the view in the mount namespace of the guest's process, where the spec asks for it.
func (d *Daemon) attach(g *guest, s *life.Served) error {
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
	in, err := d.inside(g, s.Boundaries)
	if err != nil {
		return err
	}
	return in.Attach(g.at.Path)
}

// detach takes the view out of a guest whose process goes on.
func (d *Daemon) detach(g *guest, s *life.Served) {
	if g.record.Spec.Into == nil || g.at.Device == 0 || ended(g.record) {
		return
	}
	in, err := d.inside(g, s.Boundaries)
	if err == nil {
		err = in.Detach(g.at.Device)
	}
	if err != nil {
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
	in, err := d.inside(g, g.boundaries())
	if err == nil {
		err = in.Mend(g.at.Path, g.at.Device)
	}
	return asError(api.CodeFailed, err)
}
