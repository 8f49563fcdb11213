package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// quota bounds the cgroups that a guest makes in one hierarchy. v1 has no such limit; v2's belongs to the host.
type quota struct {
	bound policy.Quota // immutable

	mu    sync.Mutex
	count int // guarded by mu; -1: not counted yet
}

// reserve counts one more cgroup; false at the bound. If the count is unknown or at the bound, full returns the true
// number, because the host may have removed some. It is called without the lock.
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

// add counts one more, unless the count is unknown or at the bound.
func (q *quota) add() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count < 0 || q.count >= q.bound.Cgroups {
		return false
	}
	q.count++
	return true
}

// free counts one less.
func (q *quota) free() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count > 0 {
		q.count--
	}
}

// reserveCgroup reserves one cgroup below d. EAGAIN at the bound, as from the kernel at cgroup.max.depth and
// cgroup.max.descendants. A cgroup that exists already (there) is counted and never refused. bound names the reached
// bound by its key in the policy.
func (hier *viewHierarchy) reserveCgroup(d *host.Dir, there bool) (bound string, st fuse.Status) {
	q := hier.quotaOf()
	if q.bound.Depth > 0 {
		depth, err := d.Depth()
		if err != nil {
			return "", status(err)
		}
		if depth >= q.bound.Depth {
			return "depth", errQuota
		}
	}
	ok, err := q.reserve(hier.countCgroups)
	if err != nil {
		return "", status(err)
	}
	if !ok && !there {
		return "cgroups", errQuota
	}
	return "", fuse.OK
}
