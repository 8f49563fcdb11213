package hierarchy

import "fmt"

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
func (l Layout) Arrange(shown []Hierarchy) (Layout, error) {
	l = l.Resolve(shown)
	for _, h := range shown {
		if l == LayoutV2 && h.Version != V2 {
			return l, fmt.Errorf("cannot show %s in layout v2: it is a v1 hierarchy; use layout v1 or hybrid, "+
				"or permit only controllers of the v2 hierarchy", h)
		}
		if l == LayoutV1 && h.Version == V2 {
			return l, fmt.Errorf("cannot show the v2 hierarchy in layout v1: use layout hybrid, " +
				"or do not permit its controllers")
		}
	}
	return l, nil
}
