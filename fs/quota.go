package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// quota bounds the cgroups that a guest makes in one hierarchy: v1 has no limit of its own, v2's is the host's to set.
type quota struct {
	bound policy.Quota // immutable

	mu    sync.Mutex
	count int // guarded by mu; -1: not counted yet
}

// take reserves one cgroup. full is asked, without the lock, for the true number when none is known or the bound is
// reached, since the host may have removed some.
func (q *quota) reserve(full func() (int, error)) (bool, error) {
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
func (q *quota) free() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count > 0 {
		q.count--
	}
}

// takeQuota reserves one cgroup below d, or says EAGAIN, as the kernel does at cgroup.max.depth and
// cgroup.max.descendants.
// One that is there already is counted, but not refused. bound is which of the two it was, by its key in the policy.
func (hier *viewHierarchy) reserveCgroup(d *host.Dir, there bool) (bound string, st fuse.Status) {
	if hier.quota.bound.Depth > 0 {
		depth, err := d.Depth()
		if err != nil {
			return "", status(err)
		}
		if depth >= hier.quota.bound.Depth {
			return "depth", errQuota
		}
	}
	ok, err := hier.quota.reserve(hier.boundary.CountCgroups)
	if err != nil {
		return "", status(err)
	}
	if !ok && !there {
		return "cgroups", errQuota
	}
	return "", fuse.OK
}
