package fs

import (
	"sync"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// linkCounts are the link counts of the directories of a bridge that were asked for last. To count anew takes a look at
// each child, and the kernel asks after each mkdir. The zero value is ready.
type linkCounts struct {
	mu      sync.Mutex
	changes uint64                // guarded by mu; grows with each change
	all     map[uint64]*linkCount // guarded by mu; by kernfs id
}

// linkCount is the host's count, with which those of the hierarchies hold.
type linkCount struct {
	host  int
	shown map[*viewHierarchy]int
}

// maxLinkCounts bounds the directories in linkCounts.
const maxLinkCounts = 4096

// get returns the count of a directory in a hierarchy, and the time for put.
func (c *linkCounts) get(hier *viewHierarchy, dir uint64, host int) (count int, known bool, before uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.all[dir]; l != nil && l.host == host {
		count, known = l.shown[hier]
	}
	return count, known, c.changes
}

// put keeps a count that was begun at before, unless something has changed since.
func (c *linkCounts) put(hier *viewHierarchy, dir uint64, host, count int, before uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != before {
		return
	}
	if c.all == nil || len(c.all) >= maxLinkCounts {
		c.all = map[uint64]*linkCount{}
	}
	l := c.all[dir]
	if l == nil || l.host != host {
		l = &linkCount{host: host, shown: map[*viewHierarchy]int{}}
		c.all[dir] = l
	}
	l.shown[hier] = count
}

// add notes what a change has added in a directory: to the host's count, and to that of one hierarchy.
func (c *linkCounts) add(hier *viewHierarchy, dir uint64, host, shown int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	l := c.all[dir]
	if l == nil {
		return
	}
	l.host += host
	if n, known := l.shown[hier]; known {
		l.shown[hier] = n + shown
	}
}

// forget forgets the counts of a directory.
func (c *linkCounts) forget(dir uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	delete(c.all, dir)
}

// linksOf returns the link count of a directory: its subdirectories in the hierarchy count. hostLinks is the host's.
func (b *bridge) linksOf(hier *viewHierarchy, d *host.Dir, hostLinks uint32) uint32 {
	if hostLinks <= 2 {
		return hostLinks
	}
	count, known, before := b.links.get(hier, d.ID(), int(hostLinks))
	if !known {
		names, err := b.children(hier, d, true)
		if err != nil {
			return 2
		}
		count = 2 + len(names)
		b.links.put(hier, d.ID(), int(hostLinks), count, before)
	}
	return uint32(count)
}
