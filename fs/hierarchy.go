package fs

import (
	"sync"
	"sync/atomic"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// viewHierarchy is one hierarchy as the guest sees it.
type viewHierarchy struct {
	index    int
	boundary *host.Boundary
	version  hierarchy.Version
	name     string // directory at the top of a v1 or hybrid view
	flat     bool   // a child escapes its parent's limits (v1 blkio), so the guest may make none
	quota    quota
	watcher  *host.Watcher // one per hierarchy, because kernfs ids are unique only within one

	timed sync.Map // kernfs ids of directories with times in kernfs (View.statParent)

	leafID   atomic.Uint64 // kernfs id of the leaf; 0: there is none
	evacuate chan struct{} // one slot, for moving the boundary's processes to or from the leaf

	expected expectations

	bridge      *bridge  // immutable; nil where the host has this hierarchy
	controllers []string // immutable; of a bridge's hierarchy
	lent        *lent    // immutable; nil where all controllers shown are the host's own of this hierarchy
}

// newViewHierarchy makes a hierarchy of the view. h is the boundary's own, or one of those that stand for it by a
// bridge.
func newViewHierarchy(index int, b *host.Boundary, h hierarchy.Hierarchy, via *bridge, q policy.Quota) *viewHierarchy {
	hier := &viewHierarchy{
		index: index, boundary: b, version: h.Version, name: h.Dir,
		flat:  h.Version == hierarchy.V1 && h.Holds("blkio") && via == nil,
		quota: quota{bound: q, count: -1}, evacuate: make(chan struct{}, 1), bridge: via, controllers: h.Controllers,
	}
	if via == nil {
		hier.findLeaf()
	}
	return hier
}

// self is the directory, or the hierarchy's part of it, for attributes.
func (hier *viewHierarchy) self(d *host.Dir) host.Node {
	if hier.bridge != nil {
		return d.Part(hier.name, "")
	}
	return d.Self()
}

// node is the directory (file "") or a file in it, for attributes.
func (hier *viewHierarchy) node(d *host.Dir, file string) (host.Node, error) {
	switch {
	case !hier.translates(file):
		return d.Node(file)
	case hier.lent != nil:
		return d.Shown(file), nil
	}
	return d.Part(hier.name, file), nil
}

func (hier *viewHierarchy) quotaOf() *quota {
	if hier.bridge != nil {
		return &hier.bridge.quota
	}
	return &hier.quota
}

func (hier *viewHierarchy) countCgroups() (int, error) {
	if hier.bridge != nil {
		return hier.boundary.CountVisible()
	}
	return hier.boundary.CountCgroups()
}

// v2 reports the unified hierarchy.
func (hier *viewHierarchy) v2() bool { return hier.version == hierarchy.V2 }

// isRoot reports that the guest sees the directory as "/": the boundary or its leaf.
func (hier *viewHierarchy) isRoot(dir uint64) bool {
	return dir == hier.boundary.ID() || (dir != 0 && dir == hier.leafID.Load())
}
