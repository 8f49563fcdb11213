package fs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Disabling a controller removes its control files; enabling it makes new ones. A guest's descriptor of an old file
// must keep answering ENODEV while the new file works. The kernel cannot have both as one inode: while an open of it
// passes through, every other open must name the same backing file (fuse_inode_uncached_io_start), and that one is
// dead. Nor may the inode get another generation: its open files then fail with EIO, even at close
// (fuse_stale_inode, fuse_flush). So a node id contains a life, derived from the file's own kernfs id.

// lifeTable remembers the lives of the files used last. It is bounded and only an optimization: without it, one new
// file in 64 gets the life of its predecessor, which matters only to an O_PATH descriptor of the old file.
type lifeTable struct {
	mu   sync.Mutex
	last []lastLife // guarded by mu; lives of them, by scatter(base); nil before the first use
}

// lastLife is the life of a control file.
type lastLife struct{ base, ino, life uint64 }

// lifeOf returns the life of a control file with a kernfs id. For a file that is about to go (settle.go) it chooses
// a life without a passed-through open.
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

// plainLife is lifeOf for a file that stays. It avoids lives whose old file the kernel still reads.
func (v *View) plainLife(hier *viewHierarchy, dir uint64, name string, ino uint64) uint64 {
	if !renewed(hier, name) {
		return 0
	}
	base := v.fileNode(hier, dir, name, 0)
	v.lives.mu.Lock()
	defer v.lives.mu.Unlock()
	if v.lives.last == nil {
		v.lives.last = make([]lastLife, lives)
	}
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

// scatter hashes a number to one below lives.
func scatter(n uint64) uint64 { return n * 0x9e3779b97f4a7c15 >> (64 - lifeBits) }

// renewed reports that a control file can be removed and made again while its cgroup lives. A v1 controller never
// leaves its hierarchy.
func renewed(hier *viewHierarchy, name string) bool {
	return hier.v2() && hierarchy.ControllerOf(name) != ""
}

// current reports that the node stands for the file with this kernfs id.
func (v *View) current(n node, ino uint64) bool {
	return n.life == v.lifeOf(n.hier, n.dir, n.file, ino)
}

// staleOpens tells the first open of a removed file's node from the second. On ESTALE the kernel looks the path up
// again, once (do_filp_open), and finds the new file. An open without a path, by /proc/self/fd or a bind mount of
// the file, comes back unchanged and gets ENODEV, as from kernfs (kernfs_fop_open). So does an open that finds a new
// file which has been removed too.
type staleOpens struct {
	mu   sync.Mutex
	ring []staleOpen // guarded by mu; maxStale of them, nil before the first use
	next int         // guarded by mu
	some bool        // guarded by mu: an open may come back
}

// maxStale is how many opens are remembered.
const maxStale = 16

// staleOpen is a thread's open of a file of this name.
type staleOpen struct {
	name uint64 // a node id without directory and life
	tid  uint32
	at   time.Time
}

// staleTime is how long an open may take to come back. A forgotten one gets ESTALE again.
const staleTime = 2 * time.Second

// answer returns the errno of an open of a removed file.
func (s *staleOpens) answer(node uint64, tid uint32) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forget(node, tid) {
		return fuse.Status(unix.ENODEV)
	}
	if s.ring == nil {
		s.ring = make([]staleOpen, maxStale)
	}
	s.ring[s.next] = staleOpen{node >> fileShift, tid, time.Now()}
	s.next = (s.next + 1) % len(s.ring)
	s.some = true
	return fuse.Status(unix.ESTALE)
}

// found notes that a thread's open succeeded, so the next stale one is a first one.
func (s *staleOpens) found(node uint64, tid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.some {
		s.forget(node, tid)
	}
}

// forget removes a thread's stale open of a file, and reports that it was there. Called with mu held.
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
