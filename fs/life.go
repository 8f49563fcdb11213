package fs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// A controller that is switched off takes its control files away, and switched on again it makes new ones. What a guest
// holds of an old file must go on saying ENODEV while the new one works. To the kernel both cannot be one inode: while an
// open of it passes through, every other open must name the same backing file (fuse_inode_uncached_io_start), which is
// dead. Nor may an inode get another generation: its open files then fail with EIO, even when they are closed
// (fuse_stale_inode, fuse_flush). So a node id has a life in it, which comes of the file's own kernfs id.

// lifeTable remembers the life of files that were asked for last. It is bounded, and only a help: without it a new file has
// the life of the one before it in one of 64 cases, which matters to a descriptor that has the old file by O_PATH alone.
type lifeTable struct {
	mu   sync.Mutex
	last [lives]struct{ base, ino, life uint64 } // guarded by mu; by scatter(base)
}

// lifeOf is the life of a control file with a kernfs id. A file that is about to go (settle.go) has one of which no open
// passes through.
func (v *View) lifeOf(hier *viewHierarchy, dir uint64, name string, ino uint64) uint64 {
	life := v.plainLife(hier, dir, name, ino)
	if !v.settling.ends(hier, dir, name) {
		return life
	}
	base := v.fileNode(hier, dir, name, 0)
	for i := range uint64(lives) {
		if other := (life + i) % lives; !v.backings.used(base | other<<lifeShift) {
			return other
		}
	}
	return life
}

// plainLife is the life of a file that stays: never one whose old file the kernel still reads.
func (v *View) plainLife(hier *viewHierarchy, dir uint64, name string, ino uint64) uint64 {
	if !renewed(hier, name) {
		return 0
	}
	base := v.fileNode(hier, dir, name, 0)
	v.lives.mu.Lock()
	defer v.lives.mu.Unlock()
	last := &v.lives.last[scatter(base)]
	known := last.base == base
	if known && last.ino == ino {
		return last.life
	}
	life := scatter(ino)
	for range lives {
		if !(known && last.life == life) && !v.backings.conflict(base|life<<lifeShift, ino) {
			break
		}
		life = (life + 1) % lives
	}
	last.base, last.ino, last.life = base, ino, life
	return life
}

// scatter makes a number below lives of another.
func scatter(n uint64) uint64 { return n * 0x9e3779b97f4a7c15 >> (64 - lifeBits) }

// renewed reports that a control file can be made anew while its cgroup lives. A v1 controller does not leave its hierarchy.
func renewed(hier *viewHierarchy, name string) bool {
	return hier.v2() && hierarchy.ControllerOf(name) != ""
}

// current reports that the file with a kernfs id is the one that a node stands for.
func (v *View) current(n node, ino uint64) bool {
	return n.life == v.lifeOf(n.hier, n.dir, n.file, ino)
}

// staleOpens tell the first open of a node whose file is gone from the second. To ESTALE the kernel looks the path up
// again, once (do_filp_open), and finds what is there now. An open that has no path, by /proc/self/fd or a file that is
// bound somewhere, comes back as it was, and is ENODEV, as kernfs says (kernfs_fop_open). So is one that finds a new file
// which is gone by then, too.
type staleOpens struct {
	mu   sync.Mutex
	ring [16]staleOpen // guarded by mu
	next int           // guarded by mu
	some bool          // guarded by mu: an open may come back
}

// staleOpen is the open of a file of this name by a thread.
type staleOpen struct {
	name uint64 // a node id without directory and life
	tid  uint32
	at   time.Time
}

// staleTime is how long an open that comes back is waited for. One that is forgotten gets ESTALE again, and says it.
const staleTime = 2 * time.Second

// answer is the errno of an open of a node whose file is gone.
func (s *staleOpens) answer(node uint64, tid uint32) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forget(node, tid) {
		return fuse.Status(unix.ENODEV)
	}
	s.ring[s.next] = staleOpen{node >> fileShift, tid, time.Now()}
	s.next = (s.next + 1) % len(s.ring)
	s.some = true
	return fuse.Status(unix.ESTALE)
}

// found notes that a thread's open succeeded: its next one is a first one.
func (s *staleOpens) found(node uint64, tid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.some {
		s.forget(node, tid)
	}
}

// take forgets that an open is to come back, and reports that it was. Called with mu held.
func (s *staleOpens) forget(node uint64, tid uint32) (was bool) {
	s.some = false
	for i := range s.ring {
		o := &s.ring[i]
		switch {
		case o.name == node>>fileShift && o.tid == tid && time.Since(o.at) < staleTime:
			*o, was = staleOpen{}, true
		case o.name != 0:
			s.some = s.some || time.Since(o.at) < staleTime
		}
	}
	return was
}
