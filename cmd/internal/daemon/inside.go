package daemon

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// attacher attaches views in guests, and reclaims the cgroups of guests from their roots. All fields are immutable.
type attacher struct {
	host  *host.Host
	paths paths
}

// inside describes the attachment of a guest's view. s may be nil: then the guest's boundaries are unknown.
func (a *attacher) inside(g *guest, s *views.Served) (in attach.Inside, err error) {
	into := g.record.Spec.Into
	in = attach.Inside{Work: a.paths.run, Pid: g.record.Spec.Pid, Start: g.record.PidStart,
		Rootfs: into.Rootfs, Path: into.Path, Stack: g.record.stack()}
	if s != nil {
		in.Own = attach.OwnMountsOf(s.Boundaries, s.View.Layout())
		in.Tree = attach.TreeOf(s.Boundaries, s.View.Layout())
	}
	if into.Tmpfs && s != nil {
		var hierarchies []*host.Hierarchy
		for _, b := range s.Boundaries {
			hierarchies = append(hierarchies, b.Hierarchy())
		}
		in.Dirs = attach.DirsOf(hierarchies)
	}
	if into.ProcCgroups {
		if in.Cgroups, err = attach.CgroupsText(a.host, g.policy, layoutOf(g.record.Spec)); err != nil {
			return in, err
		}
	}
	return in, nil
}

// attach attaches the view in the mount namespace of the guest's process, if the spec asks for it, and reclaims the
// cgroups that a runtime chowned to the guest's root.
func (a *attacher) attach(g *guest, s *views.Served) error {
	into := g.record.Spec.Into
	if into == nil && g.record.Rule == "" {
		return nil
	}
	if into != nil && into.Tmpfs && s.View.Layout() == hierarchy.LayoutV2 {
		return fault.New(fault.Invalid,
			"cannot attach a view of layout v2 as a tmpfs with a mount for each hierarchy: it is one tree; "+
				"show a v1 hierarchy")
	}
	// MS_PRIVATE keeps the guest's own mounts on its view out of other mount namespaces.
	view, release, err := g.at.Open()
	if err == nil {
		defer release()
		err = unix.Mount("", target.Link(view), "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		return fmt.Errorf("cannot keep the mounts on the view apart: %w", err)
	}
	if into == nil {
		// Touching self shows the view.
		return a.reclaimAll(g, s.Boundaries)
	}
	in, err := a.inside(g, s)
	if err != nil {
		return err
	}
	if err := in.Attach(view); err != nil {
		return err
	}
	if err := a.reclaimAll(g, s.Boundaries); err != nil {
		a.detach(g, s, true)
		return err
	}
	return nil
}

// detach removes the view from a guest whose process lives on. giveBack returns the reclaimed cgroups to the guest's
// root, on a removal by request only: the end of a daemon leaves no guest with more than it had.
func (a *attacher) detach(g *guest, s *views.Served, giveBack bool) {
	if g.record.Spec.Into == nil || g.at.View.Device == 0 || ended(g.record) {
		return
	}
	if giveBack {
		err := a.eachCgroup(g, s.Boundaries, func(b *host.Boundary, _ bool) error { return fs.GiveBack(b) })
		if err != nil {
			g.log.WithError(err).Warn("not all cgroups of the guest belong to whom they did")
		}
	}
	in, err := a.inside(g, s)
	if in.Later = true; err == nil {
		err = in.Detach(g.at.View.Device)
	}
	if err != nil {
		g.log.WithError(err).Infof("the view is not taken out of process %d, where it has no server any more",
			g.record.Spec.Pid)
	}
}

// reclaim takes a cgroup back from a guest's root. In a hidden hierarchy the cgroup may belong to someone else, so it
// must be the guest's by owner or group.
func (g *guest) reclaim(b *host.Boundary, shown bool) error {
	if !shown {
		root, err := b.Root()
		if err != nil {
			return err
		}
		defer root.Release()
		var st unix.Stat_t
		if err := root.Stat(&st); err != nil || (st.Uid == 0 || st.Uid != g.record.UID) &&
			(st.Gid == 0 || st.Gid != g.record.GID) {
			return err
		}
	}
	return fs.Reclaim(b, fs.Owner{UID: g.record.UID, GID: g.record.GID})
}

// reclaimAll takes a guest's cgroups back from its root.
func (a *attacher) reclaimAll(g *guest, boundaries []*host.Boundary) error {
	if err := a.eachCgroup(g, boundaries, g.reclaim); err != nil {
		return fmt.Errorf("cannot take the cgroups of guest %s from its root, which would write there around the view: %w",
			g.record.Name, err)
	}
	return nil
}

// given reports that a runtime chowned a boundary to the guest after we had reclaimed it.
func (g *guest) given(boundaries []*host.Boundary) bool {
	return g.mayBeGiven() && slices.ContainsFunc(boundaries, func(b *host.Boundary) bool {
		root, err := b.Root()
		if err != nil {
			return false
		}
		defer root.Release()
		var st unix.Stat_t
		return root.Stat(&st) == nil && (st.Uid != 0 || st.Gid != 0)
	})
}

// mayBeGiven reports that runtimes chown the guest's boundaries, and that we reclaim them.
func (g *guest) mayBeGiven() bool {
	return (g.record.Spec.Into != nil || g.record.Rule != "") && (g.record.UID != 0 || g.record.GID != 0)
}

// reclaimAgain reclaims a guest's cgroups in the background: they may be many, and the sweep must not wait.
func (a *attacher) reclaimAgain(g *guest) {
	if !g.taking.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer g.taking.Store(false)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.gone {
			return
		}
		if err := a.reclaimAll(g, g.boundaries()); err != nil {
			g.log.WithError(err).Warn("a runtime has given the guest its cgroups")
		}
	}()
}

// eachCgroup calls do for the boundaries of a guest whose root is not the host's, and in hidden hierarchies for the
// cgroups of the same path, which a runtime makes too. Any other cgroup there may hold a user's whole session.
func (a *attacher) eachCgroup(
	g *guest, boundaries []*host.Boundary, do func(b *host.Boundary, shown bool) error,
) error {
	if g.record.UID == 0 && g.record.GID == 0 {
		return nil
	}
	var paths []string
	for _, b := range boundaries {
		if err := do(b, true); err != nil {
			return fmt.Errorf("in the hierarchy %s: %w", b.Hierarchy(), err)
		}
		if path := b.Path(); path != "" && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	for _, t := range a.host.Hierarchies() {
		if slices.ContainsFunc(boundaries, func(b *host.Boundary) bool { return b.Hierarchy() == t }) {
			continue
		}
		for _, path := range paths {
			b, err := t.Boundary(path)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err == nil {
				err = do(b, false)
				b.Close()
			}
			if err != nil {
				return fmt.Errorf("in the hierarchy %s: %w", t, err)
			}
		}
	}
	return nil
}

// again attaches a guest's view after the guest has removed it. fault.Invalid without --into or after the end of
// its process. Called with the guest's mu held.
func (a *attacher) again(g *guest, boundaries []*host.Boundary) error {
	name := g.record.Name
	switch {
	case g.record.Spec.Into == nil:
		return fault.New(fault.Invalid,
			"cannot attach guest %s anew: it was added without a place in the guest (--into)", name)
	case ended(g.record):
		return fault.New(fault.Invalid, "cannot attach guest %s anew: its process has ended", name)
	}
	in, err := a.inside(g, g.served())
	var view int
	var release func()
	if err == nil {
		view, release, err = g.at.Open()
	}
	if in.Later = true; err == nil {
		err = in.Mend(view, g.at.View.Device)
		release()
	}
	if err == nil {
		err = a.reclaimAll(g, boundaries)
	}
	return err
}
