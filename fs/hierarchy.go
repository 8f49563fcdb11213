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
	flat     bool   // a child escapes its parent's limits (v1 blkio), so a guest may make none
	quota    quota
	watcher  *host.Watcher // kernfs ids are numbers of one hierarchy: each has a watcher of its own

	timed sync.Map // of kernfs ids: directories whose times kernfs keeps (View.look)

	leafID   atomic.Uint64 // kernfs id of the leaf; 0: there is none
	evacuate chan struct{} // one slot: who holds it moves the boundary's processes into the leaf

	expected expectations
}

func newViewHierarchy(index int, b *host.Boundary, q policy.Quota) *viewHierarchy {
	h := b.Hierarchy().Hierarchy
	hier := &viewHierarchy{
		index: index, boundary: b, version: h.Version, name: h.Dir, flat: h.Version == hierarchy.V1 && h.Holds("blkio"),
		quota: quota{bound: q, count: -1}, evacuate: make(chan struct{}, 1),
	}
	hier.findLeaf()
	return hier
}

// v2 says whether it is the unified hierarchy.
func (hier *viewHierarchy) v2() bool { return hier.version == hierarchy.V2 }

// isRoot says whether a directory is what the guest sees as "/": the boundary or its leaf.
func (hier *viewHierarchy) isRoot(dir uint64) bool {
	return dir == hier.boundary.ID() || (dir != 0 && dir == hier.leafID.Load())
}
