package fs

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// changes are the changes under way of what the directories of a bridge hold: values, owners, attributes. A directory
// that leaves one hierarchy stays on the host, so nothing there stops a change that comes late, and it would be one of
// the directory that is made next in its place. Therefore a removal waits for the changes of its directory and admits
// no other, as the kernel does for a cgroup's own files (kernfs_drain, fs/kernfs/dir.c). The zero value is ready.
type changes struct {
	mu  sync.Mutex
	all map[changed]*underway // guarded by mu
}

// changed is a directory in one hierarchy.
type changed struct {
	hier *viewHierarchy
	dir  uint64 // kernfs id
}

type underway struct {
	writes sync.Mutex // held by a write that changes several files (alone)

	// Guarded by changes.mu.
	count  int
	closed bool          // a removal is about to take effect
	ended  chan struct{} // closed when count is 0; nil without a waiter
}

// begin admits a change. False while a removal takes effect.
func (c *changes) begin(at changed) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.all[at]
	if u == nil {
		u = &underway{}
		if c.all == nil {
			c.all = map[changed]*underway{}
		}
		c.all[at] = u
	}
	if u.closed {
		return false
	}
	u.count++
	return true
}

// alone makes a change under way wait for the others of its directory that called it.
func (c *changes) alone(at changed) (done func()) {
	c.mu.Lock()
	u := c.all[at]
	c.mu.Unlock()
	u.writes.Lock()
	return u.writes.Unlock
}

func (c *changes) end(at changed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.all[at]
	if u.count--; u.count > 0 {
		return
	}
	if u.ended != nil {
		close(u.ended)
	}
	delete(c.all, at)
}

// close admits no changes until open is called. If some are under way it does nothing but return their end.
func (c *changes) close(at changed) (open func(), ended <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.all[at]; u != nil {
		if u.ended == nil {
			u.ended = make(chan struct{})
		}
		return nil, u.ended
	}
	if c.all == nil {
		c.all = map[changed]*underway{}
	}
	c.all[at] = &underway{closed: true}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.all, at)
	}, nil
}

// wait is close for a caller that waits for the changes under way, without the right to keep anybody from ending them.
func (c *changes) wait(at changed) (open func()) {
	for {
		open, ended := c.close(at)
		if open != nil {
			return open
		}
		<-ended
	}
}

// changesUnderway are those of translated files.
func (hier *viewHierarchy) changesUnderway() *changes {
	if hier.bridge != nil {
		return &hier.bridge.changes
	}
	return &hier.lent.changes
}

// change opens the directory of a node for a change of what it holds, which ends with done. ENOENT if it is gone.
func (n node) change() (d *host.Dir, done func(), err error) {
	if !n.hier.translates(n.file) {
		if d, err = n.acquire(); err != nil {
			return nil, nil, err
		}
		return d, d.Release, nil
	}
	c, at := n.hier.changesUnderway(), changed{n.hier, n.dir}
	if !c.begin(at) {
		return nil, nil, unix.ENOENT
	}
	if d, err = n.acquire(); err != nil {
		c.end(at)
		return nil, nil, err
	}
	return d, func() {
		d.Release()
		c.end(at)
	}, nil
}
