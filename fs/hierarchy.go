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

// quota bounds the cgroups that a guest makes in one hierarchy: v1 has no limit of its own, v2's is the host's to set.
type quota struct {
	bound policy.Quota // immutable

	mu    sync.Mutex
	count int // guarded by mu; -1: not counted yet
}

// take reserves one cgroup. full is asked, without the lock, for the true number when none is known or the bound is
// reached, since the host may have removed some.
func (q *quota) take(full func() (int, error)) (bool, error) {
	if q.bound.Cgroups <= 0 {
		return true, nil
	}
	if q.add() {
		return true, nil
	}
	n, err := full()
	if err != nil {
		return false, err
	}
	q.mu.Lock()
	q.count = n
	q.mu.Unlock()
	return q.add(), nil
}

// add counts one more, unless the count is not known or at the bound.
func (q *quota) add() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count < 0 || q.count >= q.bound.Cgroups {
		return false
	}
	q.count++
	return true
}

// give takes one back.
func (q *quota) give() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count > 0 {
		q.count--
	}
}
