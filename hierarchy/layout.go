package hierarchy

import (
	"fmt"
	"slices"
	"strings"
)

// Layout is the arrangement of hierarchies in a view.
type Layout int

// The layouts.
const (
	LayoutAuto   Layout = iota // by the hierarchies shown: v2 for v2 alone, v1 for v1 alone, hybrid for both
	LayoutV1                   // a directory per hierarchy
	LayoutV2                   // one tree
	LayoutHybrid               // as v1, and the v2 hierarchy in the directory "unified"
)

// layoutNames are the layouts in users' spelling, by Layout.
var layoutNames = []string{"auto", "v1", "v2", "hybrid"}

// String returns the layout in users' spelling.
func (l Layout) String() string {
	if l < 0 || int(l) >= len(layoutNames) {
		return "unknown"
	}
	return layoutNames[l]
}

// ParseLayout parses a layout's name. The error lists the valid ones.
func ParseLayout(s string) (Layout, error) {
	for i, name := range layoutNames {
		if s == name {
			return Layout(i), nil
		}
	}
	return 0, fmt.Errorf("unknown layout %q; allowed: auto, v1, v2, hybrid", s)
}

// Resolve chooses the layout for the hierarchies shown if it is LayoutAuto.
func (l Layout) Resolve(shown []Hierarchy) Layout {
	if l != LayoutAuto {
		return l
	}
	var has [3]bool
	for _, h := range shown {
		has[h.Version] = true
	}
	switch {
	case has[V1] && has[V2]:
		return LayoutHybrid
	case has[V1]:
		return LayoutV1
	}
	return LayoutV2
}

// Arrange is Resolve, with a place for each of the hierarchies shown. The error names one without a place in this
// layout.
//
// The v2 hierarchy has its place in layout v1 as the v1 hierarchies that stand for its controllers (Shown).
func (l Layout) Arrange(shown []Hierarchy) (Layout, error) {
	l = l.Resolve(shown)
	for _, h := range shown {
		unified := slices.ContainsFunc(shown, func(g Hierarchy) bool { return g.Version == V2 })
		if l == LayoutV2 && h.Version != V2 && (!unified || len(h.Lends()) == 0) {
			return l, fmt.Errorf("cannot show %s in layout v2: it is a v1 hierarchy with no controller that the v2 tree "+
				"could have; use layout v1 or hybrid, or do not permit it", h)
		}
		if l == LayoutV1 && h.Version == V2 && len(h.asV1(shown)) == 0 {
			return l, fmt.Errorf("cannot show the v2 hierarchy in layout v1: it has no controller that a v1 hierarchy " +
				"could stand for; use layout hybrid, or do not permit it")
		}
	}
	return l, nil
}

// Lends returns the controllers that a v1 hierarchy can lend to the v2 tree of a view, under the names that they have
// there. That is not blkio: its limits hold for no cgroup below, so a guest may make none in it.
func (h Hierarchy) Lends() (all []string) {
	for _, c := range unifiedControllers {
		if h.Version == V1 && c != "io" && slices.Contains(h.Controllers, LegacyNames(c)[0]) &&
			slices.ContainsFunc(tableV2, func(f ControlFile) bool { return f.Controller == c }) {
			all = append(all, c)
		}
	}
	return all
}

// Translates reports that a view of a hierarchy shows files of the other version of cgroup. The layout is never
// LayoutAuto.
func (l Layout) Translates(h Hierarchy) bool { return l == LayoutV1 && h.Version == V2 }

// Shown returns the hierarchies that a view has for one of the host: itself, or those that stand for it. of are all
// hierarchies of the host that are shown, permitted the names of what a guest may see. The layout is never LayoutAuto.
func (l Layout) Shown(h Hierarchy, of []Hierarchy, permitted []string) []Hierarchy {
	switch {
	case l.Translates(h):
		return h.asPermitted(of, permitted)
	case l == LayoutV2 && h.Version == V1:
		// It lends its controllers to the v2 hierarchy.
		return nil
	}
	return []Hierarchy{h}
}

// asPermitted returns the v1 hierarchies that stand for a v2 hierarchy: one for each of its controllers that is
// permitted and that none of the host's own v1 hierarchies has, as most hosts have mounted them; the freezer, which
// every v2 cgroup has; and those of the permitted names. They have no IDs (Number).
func (h Hierarchy) asPermitted(shown []Hierarchy, permitted []string) (all []Hierarchy) {
	for _, one := range h.asV1(shown) {
		if slices.ContainsFunc(one.Controllers, func(c string) bool { return slices.Contains(permitted, c) }) {
			all = append(all, one)
		}
	}
	more := func(one Hierarchy, dir string) {
		if slices.ContainsFunc(shown, func(g Hierarchy) bool { return g.Version == V1 && g.Holds(one.String()) }) {
			return
		}
		one.Version, one.Dir, one.Mountpoint = V1, dir, h.Mountpoint
		all = append(all, one)
	}
	for _, name := range permitted {
		if name == "freezer" {
			more(Hierarchy{Controllers: []string{name}}, name)
		}
		if label, ok := strings.CutPrefix(name, "name="); ok {
			more(Hierarchy{Name: label}, label)
		}
	}
	return all
}

// Number gives the v1 hierarchies without an ID, which stand for the host's v2 hierarchy, IDs that none of the host's
// has.
func Number(all, host []Hierarchy) {
	id := 0
	for _, h := range host {
		id = max(id, h.ID)
	}
	for i := range all {
		if all[i].Version == V1 && all[i].ID == 0 {
			id++
			all[i].ID = id
		}
	}
}

// asV1 returns a v1 hierarchy for each controller of a v2 hierarchy that a v1 hierarchy can stand for.
func (h Hierarchy) asV1(shown []Hierarchy) (all []Hierarchy) {
	for _, c := range h.Controllers {
		names := LegacyNames(c)
		taken := slices.ContainsFunc(shown, func(g Hierarchy) bool {
			return g.Version == V1 && slices.ContainsFunc(names, g.Holds)
		})
		if !taken && slices.ContainsFunc(tableV1, func(f ControlFile) bool { return slices.Contains(names, f.Controller) }) ||
			!taken && slices.Contains(sharedControllers, c) {
			all = append(all, Hierarchy{
				Version: V1, Controllers: names, Dir: strings.Join(names, ","), Mountpoint: h.Mountpoint,
			})
		}
	}
	return all
}
