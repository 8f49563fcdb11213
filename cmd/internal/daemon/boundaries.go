package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// openBoundaries opens the boundaries of a new guest and records their permanent names.
func (m *making) openBoundaries(g *guest) ([]*host.Boundary, error) {
	if len(g.record.Boundaries) > 0 {
		return reopen(m.host, g.record.Boundaries)
	}
	spec := g.record.Spec
	hierarchies, err := views.Select(m.host, g.policy, layoutOf(spec))
	if err == nil {
		err = views.CheckControllers(m.host, spec.Controllers, layoutOf(spec))
	}
	if err != nil {
		return nil, fault.With(fault.Unsupported, err)
	}
	if spec.Pid != 0 {
		if g.record.PidStart, err = host.StartOf(spec.Pid); err != nil {
			return nil, fault.New(fault.Missing, "cannot use process %d: no such process", spec.Pid)
		}
	}
	find, err := views.Place{Path: spec.Boundary, Pid: spec.Pid, Current: spec.CurrentCgroup}.Find()
	if err != nil {
		return nil, fault.With(fault.Missing, err)
	}
	boundaries, err := views.OpenBoundaries(hierarchies, find)
	if err != nil {
		return nil, fault.With(fault.Missing, err)
	}
	for _, b := range boundaries {
		g.record.Boundaries = append(g.record.Boundaries, boundaryID{b.Hierarchy().String(), b.ID(), b.Path()})
	}
	return boundaries, nil
}

// reopen opens boundaries by their permanent names.
func reopen(h *host.Host, ids []boundaryID) (all []*host.Boundary, err error) {
	for _, id := range ids {
		i := slices.IndexFunc(h.Hierarchies(), func(t *host.Hierarchy) bool { return t.String() == id.Tree })
		if i < 0 {
			views.CloseBoundaries(all)
			return nil, fmt.Errorf("the host has no hierarchy %s any more", id.Tree)
		}
		t := h.Hierarchies()[i]
		b, err := t.BoundaryByID(id.ID, id.Path)
		if err != nil {
			views.CloseBoundaries(all)
			return nil, fmt.Errorf("its boundary in the hierarchy %s is gone: %v", t, err)
		}
		all = append(all, b)
	}
	return all, nil
}

// setLimits sets a new guest's limits. undo restores the old ones.
func setLimits(boundaries []*host.Boundary, limits map[string]string) (undo func(), err error) {
	var list []cgroups.Limit
	for file, value := range limits {
		list = append(list, cgroups.Limit{File: file, Value: value})
	}
	slices.SortFunc(list, func(a, b cgroups.Limit) int { return strings.Compare(a.File, b.File) })
	changes, err := cgroups.Set(boundaries, list)
	if err != nil {
		return nil, err
	}
	return func() {
		for _, c := range slices.Backward(changes) {
			if c.Path == "/" {
				_, _ = cgroups.Set(boundaries, []cgroups.Limit{{File: c.File, Value: strings.TrimSpace(c.From)}})
			}
		}
	}, nil
}

func ownerOf(s api.GuestSpec) (fs.Owner, error) {
	if s.Owner == "" {
		return views.OwnerOf(nil, s.Pid)
	}
	owner, err := spec.ParseOwner(s.Owner)
	return fs.Owner(owner), err
}

// layoutOf returns the layout that a spec asks for. The spec was checked when it was made.
func layoutOf(s api.GuestSpec) hierarchy.Layout {
	layout, _ := hierarchy.ParseLayout(layoutName(s.Layout))
	return layout
}
