package state

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// The stages of a region.
const (
	stageFree   = iota
	stageMaking // a guest is being set up; if its server dies it is taken back
	stageLive
)

// regionHead begins a region; the configuration follows it.
type regionHead struct {
	configBytes uint32
	initBytes   uint32 // atomic; 0: FUSE_INIT was not served yet
	passthrough uint32
	handleTop   uint32 // atomic; no slot from here on was ever used
	_           uint32
	lastBacking int32
	generation  uint64 // of handles
	device      uint64 // atomic; of the mounted view, 0 before
	suspects    [maxSuspects]suspect
	init        [maxInit]byte
	attrs       uint64    // atomic; one more than the sum of SetAttrs, 0: not known
	mount       [2]uint64 // atomic; numbers of the view's mount, 0: not known
	labelBytes  uint32    // atomic; of the label, which follows the configuration; 0: none
	_           [36]byte
}

const (
	headSize = int(unsafe.Sizeof(regionHead{}))
	// maxInit is room for FUSE_INIT: a header of 40 bytes and struct fuse_init_in of 64. What follows init was once room for
	// more, and is zero where an older program has written the head.
	maxInit     = 128
	maxSuspects = 4
)

// suspect is a request during which servers have crashed.
type suspect struct {
	unique  uint64
	crashes uint64
}

// Region is the part of the arena that belongs to one guest.
type Region struct {
	arena *Arena
	index int
	mem   []byte
	head  *regionHead

	mu   sync.Mutex
	free []uint16 // guarded by mu; slots below top that are free, the last one is taken first
	open int      // guarded by mu

	journal journal

	watched     map[uint64]bool // guarded by mu; made at its first use
	nextWatched int             // guarded by mu
}

func (a *Arena) region(i int) *Region {
	mem := a.slice(i)
	r := &Region{arena: a, index: i, mem: mem, head: (*regionHead)(unsafe.Pointer(&mem[0]))}
	for s := range r.top() {
		if atomic.LoadUint64(&r.slot(s).FH) == 0 {
			r.free = append(r.free, uint16(s))
		} else {
			r.open++
		}
	}
	r.journal.init(r)
	return r
}

// Arena is the arena that the region is of.
func (r *Region) Arena() *Arena { return r.arena }

// Index is the region's number in the arena, the same for every server.
func (r *Region) Index() int { return r.index }

// Release gives the region back; it must not be used any more.
func (r *Region) Release() { r.arena.release(r) }

// Finish says that the guest is set up.
func (r *Region) Finish() { atomic.StoreUint32(r.arena.stage(r.index), stageLive) }

// Finished says whether the guest was set up.
func (r *Region) Finished() bool { return atomic.LoadUint32(r.arena.stage(r.index)) == stageLive }

func (r *Region) setConfig(config []byte) {
	copy(r.mem[headSize:recordsBase], config)
	r.head.configBytes = uint32(len(config))
}

// Config is what Take was given.
func (r *Region) Config() []byte {
	n := min(int(r.head.configBytes), MaxConfig)
	return append([]byte(nil), r.mem[headSize:headSize+n]...)
}

// SetLabel keeps the words by which a message names the view, as in "the view of guest web at /srv/web". They need no knowledge
// of the configuration, so a process that does not know its format can name the view. A label that does not fit behind the
// configuration is not kept.
func (r *Region) SetLabel(label string) {
	at := min(int(r.head.configBytes), MaxConfig)
	if at+len(label) > MaxConfig {
		return
	}
	atomic.StoreUint32(&r.head.labelBytes, 0)
	copy(r.mem[headSize+at:recordsBase], label)
	atomic.StoreUint32(&r.head.labelBytes, uint32(len(label)))
}

// Label returns what SetLabel kept; "" where an earlier version allocated the region.
func (r *Region) Label() string {
	at := min(int(r.head.configBytes), MaxConfig)
	n := min(int(atomic.LoadUint32(&r.head.labelBytes)), MaxConfig-at)
	return string(r.mem[headSize+at : headSize+at+n])
}

// SetInit keeps the FUSE_INIT request, before it is answered, and whether opens may be passed through, once that is known. A
// request that is longer than any known one is not kept.
func (r *Region) SetInit(request []byte) {
	if len(request) > maxInit {
		return
	}
	copy(r.head.init[:], request)
	atomic.StoreUint32(&r.head.initBytes, uint32(len(request)))
}

// Init is the FUSE_INIT request that was served, nil when none was.
func (r *Region) Init() []byte {
	n := min(int(atomic.LoadUint32(&r.head.initBytes)), maxInit)
	if n == 0 {
		return nil
	}
	return append([]byte(nil), r.head.init[:n]...)
}

// SetDevice keeps which file system the view is (st_dev), once it is mounted.
func (r *Region) SetDevice(device uint64) { atomic.StoreUint64(&r.head.device, device) }

// Device is the file system that the view is, 0 before it is mounted.
func (r *Region) Device() uint64 { return atomic.LoadUint64(&r.head.device) }

// SetMount keeps the numbers by which the mount of the view is found again (package target): as mountinfo has it, and the one that is no
// other's, 0 for one that is not known.
func (r *Region) SetMount(id, unique uint64) {
	atomic.StoreUint64(&r.head.mount[0], id)
	atomic.StoreUint64(&r.head.mount[1], unique)
}

// Mount is what SetMount was given; 0 and 0 where an earlier version mounted the view.
func (r *Region) Mount() (id, unique uint64) {
	return atomic.LoadUint64(&r.head.mount[0]), atomic.LoadUint64(&r.head.mount[1])
}

// SetPassthrough keeps whether opens may be passed through.
func (r *Region) SetPassthrough(ok bool) {
	r.head.passthrough = 0
	if ok {
		r.head.passthrough = 1
	}
}

// Passthrough says whether opens may be passed through.
func (r *Region) Passthrough() bool { return r.head.passthrough == 1 }

// SetAttrs keeps what the guest's extended attributes cost, in bytes.
func (r *Region) SetAttrs(bytes uint64) { atomic.StoreUint64(&r.head.attrs, bytes+1) }

// Attrs is what SetAttrs was given last, by this server or one before; not known when there was none.
func (r *Region) Attrs() (bytes uint64, known bool) {
	n := atomic.LoadUint64(&r.head.attrs)
	return n - min(n, 1), n != 0
}

// MaxCrashes is how often servers may crash during a request before it is refused.
const MaxCrashes = 3

// Suspect counts a crash of the server during a request that the kernel has resent, and says how many there were. Of more
// requests than it has room for the one with the fewest is forgotten.
func (r *Region) Suspect(unique uint64) uint64 {
	least := &r.head.suspects[0]
	for i := range r.head.suspects {
		s := &r.head.suspects[i]
		if s.unique == unique {
			s.crashes++
			return s.crashes
		}
		if s.crashes < least.crashes {
			least = s
		}
	}
	least.crashes = 0
	least.unique = unique
	least.crashes = 1
	return 1
}

// Cleared forgets a suspect: it was answered.
func (r *Region) Cleared(unique uint64) {
	for i := range r.head.suspects {
		if s := &r.head.suspects[i]; s.unique == unique {
			s.crashes, s.unique = 0, 0
		}
	}
}

// The records page: journal, backings, watched files.
const (
	backingsBase = recordsBase + maxEntries*int(unsafe.Sizeof(Entry{}))
	watchedBase  = backingsBase + MaxIdle*int(unsafe.Sizeof(Backing{}))
	answersBase  = watchedBase + maxWatched*8
	// MaxIdle bounds the backings that no open uses and that are kept.
	MaxIdle    = 64
	maxWatched = 128
)

// It all fits into its page.
var _ [pageSize - (answersBase + int(unsafe.Sizeof(Answers{})) - recordsBase)]struct{}

// Backing is a file that is registered with the connection for passthrough and that no open uses now.
type Backing struct {
	Node uint64
	File uint64 // inode number of the host's file
	ID   int32  // 0: no backing
	_    uint32
}

// SetIdle keeps the idle backings, instead of those kept before.
func (r *Region) SetIdle(i int, b Backing) {
	at := (*Backing)(unsafe.Pointer(&r.mem[backingsBase+i*int(unsafe.Sizeof(b))]))
	atomic.StoreInt32(&at.ID, 0)
	at.Node, at.File = b.Node, b.File
	atomic.StoreInt32(&at.ID, b.ID)
}

// Idle is the backing kept at an index, with ID 0 for none.
func (r *Region) Idle(i int) Backing {
	return *(*Backing)(unsafe.Pointer(&r.mem[backingsBase+i*int(unsafe.Sizeof(Backing{}))]))
}

// SetLastBacking keeps the newest id that the kernel gave out.
func (r *Region) SetLastBacking(id int32) { atomic.StoreInt32(&r.head.lastBacking, id) }

// LastBacking is the newest id that is known.
func (r *Region) LastBacking() int32 { return atomic.LoadInt32(&r.head.lastBacking) }

// CrowdedWatched says whether a file's node is not kept and half of what is kept would be forgotten for more like it.
func (r *Region) CrowdedWatched(node uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loadWatched()
	return !r.watched[node] && len(r.watched) >= maxWatched/2
}

// AddWatched keeps a file's node that the guest may be watching. Of more than 128 the oldest is forgotten.
func (r *Region) AddWatched(node uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loadWatched()
	if r.watched[node] {
		return
	}
	at := r.watchedAt(r.nextWatched)
	delete(r.watched, *at)
	atomic.StoreUint64(at, node)
	r.watched[node] = true
	r.nextWatched = (r.nextWatched + 1) % maxWatched
}

// loadWatched finds what the server before kept. Called with mu held.
func (r *Region) loadWatched() {
	if r.watched == nil {
		r.watched = map[uint64]bool{}
		r.nextWatched = int(r.head.generation % maxWatched) // which is the oldest, the server before knew
		for i := range maxWatched {
			if n := r.watchedAt(i); *n != 0 {
				r.watched[*n] = true
			} else if len(r.watched) == i {
				r.nextWatched = i // they were filled in turn: the rest is free
			}
		}
	}
}

func (r *Region) watchedAt(i int) *uint64 {
	return (*uint64)(unsafe.Pointer(&r.mem[watchedBase+8*i]))
}

// Watched are the nodes that were added.
func (r *Region) Watched() (all []uint64) {
	for i := range maxWatched {
		if n := atomic.LoadUint64(r.watchedAt(i)); n != 0 {
			all = append(all, n)
		}
	}
	return all
}
