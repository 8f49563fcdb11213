// Package views opens a guest's boundary in each hierarchy, makes the view of the boundaries and serves it. The command
// mount needs no more than this.
package views

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
	"golang.org/x/sys/unix"
)

// Shown reports whether a view with this policy shows a hierarchy. It always shows the v2 hierarchy of a host without
// v1.
func Shown(h *host.Host, t *host.Hierarchy, p *policy.Policy) bool {
	if t.Version == hierarchy.V2 && len(h.Hierarchies()) == 1 {
		return true
	}
	return slices.ContainsFunc(t.Names(), p.Permits)
}

// Select lists the hierarchies that a view with this policy shows. The error lists the host's controllers when the view
// would show none.
func Select(h *host.Host, p *policy.Policy, layout hierarchy.Layout) ([]*host.Hierarchy, error) {
	var hierarchies []*host.Hierarchy
	for _, t := range h.Hierarchies() {
		if Shown(h, t, p) {
			hierarchies = append(hierarchies, t)
		}
	}
	if layout == hierarchy.LayoutV2 && slices.ContainsFunc(hierarchies, isV1) {
		return selectV2(h, hierarchies)
	}
	shown := Hierarchies(hierarchies)
	something := slices.DeleteFunc(slices.Clone(hierarchies), func(t *host.Hierarchy) bool {
		return layout.Translates(t.Hierarchy) && len(layout.Shown(t.Hierarchy, shown, p.Legacy().Controllers())) == 0
	})
	if len(something) == 0 && len(hierarchies) > 0 {
		return nil, fault.New(fault.Unsupported, "cannot show anything in layout %s: no permitted controller of this host "+
			"can be in a hierarchy of v1; it has %s", layout, Available(h))
	}
	if hierarchies = something; len(hierarchies) == 0 {
		return nil, fault.New(fault.Unsupported,
			"cannot show anything: no hierarchy of this host has a permitted controller; it has %s", Available(h))
	}
	return hierarchies, nil
}

func isV1(t *host.Hierarchy) bool { return t.Version == hierarchy.V1 }

// selectV2 returns the hierarchies for a v2 tree: the host's own, and the v1 hierarchies that lend it controllers.
func selectV2(h *host.Host, shown []*host.Hierarchy) ([]*host.Hierarchy, error) {
	tree := h.Hierarchy(hierarchy.Unified)
	if tree == nil {
		return nil, fault.New(fault.Unsupported, "cannot show layout v2: the host's v2 hierarchy is not mounted, and the "+
			"guest's cgroups are made in it; mount it first: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 "+
			"/sys/fs/cgroup/unified; or use layout v1")
	}
	all := slices.DeleteFunc(slices.Clone(shown), func(t *host.Hierarchy) bool {
		return t == tree || isV1(t) && len(t.Lends()) == 0
	})
	return append(all, tree), nil
}

// Available names the host's hierarchies, for messages.
func Available(h *host.Host) string {
	var names []string
	for _, t := range h.Hierarchies() {
		names = append(names, t.Names()...)
	}
	return strings.Join(names, ", ")
}

// Hierarchies returns the hierarchies of a host, or of a view.
func Hierarchies(of []*host.Hierarchy) (all []hierarchy.Hierarchy) {
	for _, t := range of {
		all = append(all, t.Hierarchy)
	}
	return all
}

// PolicyFor returns the policy of a view in a layout: where its files stand for those of v2, a controller has its names
// in both versions.
func PolicyFor(p *policy.Policy, layout hierarchy.Layout, shown []hierarchy.Hierarchy) *policy.Policy {
	if slices.ContainsFunc(shown, layout.Resolve(shown).Translates) {
		return p.Legacy()
	}
	return p
}

// CheckControllers checks that a host has the controllers named on a command line, or something that stands for them in
// the layout. The error names the first one that it lacks.
func CheckControllers(h *host.Host, names []string, layout hierarchy.Layout) error {
	all := Hierarchies(h.Hierarchies())
	for _, name := range names {
		stands := slices.ContainsFunc(all, func(t hierarchy.Hierarchy) bool {
			return layout.Translates(t) && slices.ContainsFunc(layout.Shown(t, all, []string{name}),
				func(one hierarchy.Hierarchy) bool { return one.Holds(name) })
		})
		if h.Hierarchy(name) == nil && !stands {
			return fault.New(fault.Unsupported,
				"cannot show controller %q: this host does not have it; it has %s", name, Available(h))
		}
		if t := h.Hierarchy(name); t != nil && !CanShow(t, name, layout) {
			return fault.New(fault.Unsupported, "cannot show controller %q in layout v2: this host has it in a v1 hierarchy, "+
				"and it cannot be lent to the v2 tree; use layout v1 or hybrid", name)
		}
	}
	return nil
}

// CanShow reports that a view in a layout can show what a hierarchy has under a name: in layout v2 v1 hierarchies
// show what they lend.
func CanShow(t *host.Hierarchy, name string, layout hierarchy.Layout) bool {
	return layout != hierarchy.LayoutV2 || !isV1(t) || slices.Contains(t.Lends(), name)
}

// Place locates a guest's boundary: at Path, counted from the root of each hierarchy; at the root of the cgroup
// namespace of a process; or, with Current, at the process's present cgroups.
type Place struct {
	Path    string
	Pid     int
	Current bool
}

// Served is a view with its boundaries, its mount and the end of its serving.
type Served struct {
	View       *fs.View
	Boundaries []*host.Boundary
	Done       chan struct{} // closed when serving has ended; nil before Serve
	Err        error         // the result of serving, valid after Done
	Ended      func()        // called after Done, on a goroutine of its own; may be nil
	Mount      *os.File      // nil if no descriptor of the mount is kept
}

// NewView opens the boundaries and makes the view of them, not mounted yet. The errors are those of OpenBoundaries and
// NewViewOf.
func NewView(
	cfg fs.Config, hierarchies []*host.Hierarchy, path func(*host.Hierarchy) (string, error),
) (*Served, error) {
	boundaries, err := OpenBoundaries(hierarchies, path)
	if err != nil {
		return nil, err
	}
	if err := Agree(boundaries, cfg.Layout); err != nil {
		CloseBoundaries(boundaries)
		return nil, err
	}
	return NewViewOf(cfg, boundaries)
}

// Agree checks that the boundaries of a v2 tree with the controllers of v1 hierarchies are at one path, since a
// cgroup of the guest is at one in all of them. A container is at another in the v2 hierarchy if its runtime makes it
// none there: it stays in the runtime's own, which others share.
func Agree(boundaries []*host.Boundary, layout hierarchy.Layout) error {
	i := slices.IndexFunc(boundaries, func(b *host.Boundary) bool { return b.Hierarchy().Version == hierarchy.V2 })
	if layout != hierarchy.LayoutV2 || len(boundaries) == 0 {
		return nil
	}
	if i < 0 {
		return fault.New(fault.Unsupported, "cannot show layout v2: the guest has no cgroup of its own in the host's v2 "+
			"hierarchy, only in v1 hierarchies; give it one with a runtime that does, as runc 1.1 and later, or use layout v1")
	}
	for _, b := range boundaries {
		if in, tree := b.Path(), boundaries[i].Path(); in != tree {
			return fault.New(fault.Unsupported, "cannot show layout v2: the guest's cgroup in the hierarchy %s is %s, and %s "+
				"in the host's v2 hierarchy: its runtime made it none there, or another one; use a runtime that makes one, as "+
				"runc 1.1 and later, or layout v1", b.Hierarchy(), in, tree)
		}
	}
	return nil
}

// NewViewOf makes the view of open boundaries. It owns them from then on, and closes them on failure. The error tells
// how to get FUSE where it is missing.
func NewViewOf(cfg fs.Config, boundaries []*host.Boundary) (*Served, error) {
	if err := checkNesting(boundaries); err != nil {
		if cfg.Device == nil {
			CloseBoundaries(boundaries)
			return nil, err
		}
		// An earlier version made the view, and the guest runs.
		cfg.Log.WithError(err).Error("a guest can escape a memory limit")
	}
	cfg.Boundaries = boundaries
	view, err := fs.New(cfg)
	if err != nil {
		CloseBoundaries(boundaries)
		return nil, viewError(err)
	}
	return &Served{View: view, Boundaries: boundaries}, nil
}

// checkNesting checks that a cgroup which the guest makes does not escape the memory limit of the boundary.
func checkNesting(boundaries []*host.Boundary) error {
	for _, b := range boundaries {
		nests, err := b.MemoryNests()
		if err != nil {
			return fmt.Errorf("cannot use %s as a boundary in the hierarchy %s: %w", b.Path(), b.Hierarchy(), err)
		}
		if !nests {
			file := b.Hierarchy().Mountpoint + b.Path() + "/memory.use_hierarchy"
			return fault.New(fault.Unsupported, "cannot use %s as a boundary in the hierarchy %s: its memory limit would "+
				"not hold for the cgroups below it, which the guest may make; before it has any, echo 1 > %s",
				b.Path(), b.Hierarchy(), file)
		}
	}
	return nil
}

// OpenBoundaries opens a guest's boundary in each hierarchy. The error names the hierarchy that lacks it.
func OpenBoundaries(hierarchies []*host.Hierarchy,
	path func(*host.Hierarchy) (string, error)) (all []*host.Boundary, err error) {
	for _, t := range hierarchies {
		dir, err := path(t)
		if err != nil {
			CloseBoundaries(all)
			return nil, err
		}
		b, err := t.Boundary(dir)
		if err != nil {
			CloseBoundaries(all)
			return nil, boundaryError(t, dir, err)
		}
		all = append(all, b)
	}
	return all, nil
}

// CloseBoundaries closes boundaries.
func CloseBoundaries(all []*host.Boundary) {
	for _, b := range all {
		b.Close()
	}
}

func boundaryError(t *host.Hierarchy, dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf(
			"cannot use %s as a boundary: there is no such cgroup in the hierarchy %s (%s%s); make it, or show "+
				"fewer controllers with --controllers", dir, t, t.Mountpoint, dir)
	case errors.Is(err, unix.EINVAL):
		return fault.New(fault.Invalid, "cannot use %q as a boundary: give the path of a cgroup below the root, "+
			"counted from the root of each hierarchy, such as /machines/web", dir)
	}
	return err
}

// viewError tells how to get FUSE where the kernel, or the container around this process, has none.
func viewError(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fault.New(fault.Unsupported, "cannot open /dev/fuse: %w; load the module (modprobe fuse), or give "+
			"this container the device", err)
	case errors.Is(err, os.ErrPermission):
		return fault.New(fault.Unsupported, "cannot open /dev/fuse: %w; run as root with the device permitted", err)
	}
	return err
}

// Find returns a function that finds the boundary in a hierarchy. The errors offer an alternative for a process without
// a boundary: in the host's cgroup namespace, moved out of it, or at the root of a hierarchy.
func (p Place) Find() (func(*host.Hierarchy) (string, error), error) {
	if p.Path != "" {
		return func(*host.Hierarchy) (string, error) { return p.Path, nil }, nil
	}
	now := sync.OnceValues(func() (host.Membership, error) { return host.MembershipOf(p.Pid) })
	at := func(t *host.Hierarchy) (string, error) {
		m, err := now()
		if err != nil {
			return "", err
		}
		return m.Path(t)
	}
	what := "the cgroup"
	if !p.Current {
		ns, err := host.CgroupNamespaceOf(p.Pid)
		switch {
		case errors.Is(err, host.ErrOwnNamespace):
			return nil, fmt.Errorf(
				"cannot find the boundary of process %d: it is in the host's own cgroup namespace, so nothing marks "+
					"one; take the cgroup that it is in now (--current-cgroup), or give a path (--boundary PATH)", p.Pid)
		case errors.Is(err, unix.ESRCH):
			return nil, fmt.Errorf("cannot find the boundary of process %d: no such process", p.Pid)
		case err != nil:
			return nil, fmt.Errorf("cannot find the boundary of process %d: %w", p.Pid, err)
		}
		at = func(t *host.Hierarchy) (string, error) { return ns.Root(t.Hierarchy) }
		what = "the root of the cgroup namespace"
	}
	return func(t *host.Hierarchy) (string, error) {
		path, err := at(t)
		switch {
		case errors.Is(err, unix.ENOENT) && !p.Current:
			return "", fmt.Errorf(
				"cannot find %s of process %d in the hierarchy %s: the process was moved out of it; give a path "+
					"(--boundary PATH)", what, p.Pid, t)
		case err != nil:
			return "", fmt.Errorf("cannot find %s of process %d in the hierarchy %s: %w", what, p.Pid, t, err)
		case path == "/":
			return "", fmt.Errorf(
				"cannot use %s of process %d as a boundary: it is the root of the hierarchy %s; move it to one "+
					"of its own (some runtimes make none in a v2 hierarchy beside v1; runc does since 1.1), or show fewer "+
					"controllers with --controllers", what, p.Pid, t)
		}
		return path, nil
	}, nil
}

// Close ends the view and waits for the end of its serving.
func (s *Served) Close() {
	s.View.Close()
	if s.Done != nil {
		<-s.Done
	}
	if s.Mount != nil {
		s.Mount.Close()
	}
	CloseBoundaries(s.Boundaries)
}

// Serve starts serving a mounted view.
func (s *Served) Serve() {
	s.Done = make(chan struct{})
	s.View.Start(func(err error) {
		s.Err = err
		close(s.Done)
		if s.Ended != nil {
			s.Ended()
		}
	})
}
