package state

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// The stages of a region.
const (
	stageFree   = iota
	stageMaking // a guest is being set up; the next server releases it
	stageLive
)

// regionHead begins a region; the configuration follows it.
type regionHead struct {
	configBytes uint32
	initBytes   uint32 // atomic; 0: FUSE_INIT was not served yet
	passthrough uint32
	handleTop   uint32 // atomic; no slot from here on was used
	_           uint32
	lastBacking int32
	generation  uint64 // of handles
	device      uint64 // atomic; of the mounted view, 0 before the mount
	suspects    [maxSuspects]suspect
	init        [maxInit]byte
	attrs       uint64    // atomic; the sum of SetAttrs plus one, 0: unknown
	mount       [2]uint64 // atomic; ids of the view's mount, 0: unknown
	labelBytes  uint32    // atomic; length of the label after the configuration; 0: none
	copies      uint32    // atomic; of requests (request.go), at least
	_           [32]byte
}

const (
	headSize = int(unsafe.Sizeof(regionHead{}))
	// maxInit is the room for FUSE_INIT: a header of 40 bytes and struct fuse_init_in of 64. The fields after init
	// were once part of that room; they are zero in a head written by an older program.
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
	free []uint16 // guarded by mu; free slots below top, a stack
	open int      // guarded by mu

	journal journal

	watched     map[uint64]bool // guarded by mu; nil before its first use
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

// peek copies a part of a region that may never have been written. Reading it in the mapping would allocate its page
// (shmem_fault), reading it from the file does not.
func peek[T any](r *Region, at int, to *T) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(to)), unsafe.Sizeof(*to))
	if n, _ := r.arena.file.ReadAt(b, int64(regionsBase+r.index*r.arena.size+at)); n < len(b) {
		copy(b, r.mem[at:])
	}
}

// Arena returns the arena of the region.
func (r *Region) Arena() *Arena { return r.arena }

// Index returns the region's number in the arena, the same for every server.
func (r *Region) Index() int { return r.index }

// Release frees the region; it must not be used afterwards.
func (r *Region) Release() { r.arena.release(r) }

// MarkSetUp marks the guest as set up.
func (r *Region) MarkSetUp() { atomic.StoreUint32(r.arena.stage(r.index), stageLive) }

// IsSetUp reports that the guest was set up.
func (r *Region) IsSetUp() bool { return atomic.LoadUint32(r.arena.stage(r.index)) == stageLive }

func (r *Region) setConfig(config []byte) {
	copy(r.mem[headSize:recordsBase], config)
	r.head.configBytes = uint32(len(config))
}

// Config returns the configuration given to Allocate.
func (r *Region) Config() []byte {
	n := min(int(r.head.configBytes), MaxConfig)
	return append([]byte(nil), r.mem[headSize:headSize+n]...)
}

// SetLabel stores the name of the view in messages, as in "the view of guest web at /srv/web". A process that does
// not know the format of the configuration can name the view by it. A label that does not fit after the
// configuration is dropped.
func (r *Region) SetLabel(label string) {
	at := min(int(r.head.configBytes), MaxConfig)
	if at+len(label) > MaxConfig {
		return
	}
	atomic.StoreUint32(&r.head.labelBytes, 0)
	copy(r.mem[headSize+at:recordsBase], label)
	atomic.StoreUint32(&r.head.labelBytes, uint32(len(label)))
}

// Label returns the label; "" if an earlier version allocated the region.
func (r *Region) Label() string {
	at := min(int(r.head.configBytes), MaxConfig)
	n := min(int(atomic.LoadUint32(&r.head.labelBytes)), MaxConfig-at)
	return string(r.mem[headSize+at : headSize+at+n])
}

// SetInit stores the FUSE_INIT request before its reply. It ignores a request that is longer than any known one.
func (r *Region) SetInit(request []byte) {
	if len(request) > maxInit {
		return
	}
	copy(r.head.init[:], request)
	atomic.StoreUint32(&r.head.initBytes, uint32(len(request)))
}

// Init returns the FUSE_INIT request, nil if none was served.
func (r *Region) Init() []byte {
	n := min(int(atomic.LoadUint32(&r.head.initBytes)), maxInit)
	if n == 0 {
		return nil
	}
	return append([]byte(nil), r.head.init[:n]...)
}

// SetDevice stores the file system of the view (st_dev), once it is mounted.
func (r *Region) SetDevice(device uint64) { atomic.StoreUint64(&r.head.device, device) }

// Device returns the file system of the view, 0 before it is mounted.
func (r *Region) Device() uint64 { return atomic.LoadUint64(&r.head.device) }

// SetMount stores the ids of the view's mount, by which package target finds it again: the one in mountinfo, and the
// unique one, 0 if it is unknown.
func (r *Region) SetMount(id, unique uint64) {
	atomic.StoreUint64(&r.head.mount[0], id)
	atomic.StoreUint64(&r.head.mount[1], unique)
}

// Mount returns the ids of SetMount; 0 and 0 if an earlier version mounted the view.
func (r *Region) Mount() (id, unique uint64) {
	return atomic.LoadUint64(&r.head.mount[0]), atomic.LoadUint64(&r.head.mount[1])
}

// SetPassthrough stores whether opens may be passed through.
func (r *Region) SetPassthrough(ok bool) {
	r.head.passthrough = 0
	if ok {
		r.head.passthrough = 1
	}
}

// Passthrough reports that opens may be passed through.
func (r *Region) Passthrough() bool { return r.head.passthrough == 1 }

// SetAttrs stores the cost of the guest's extended attributes, in bytes.
func (r *Region) SetAttrs(bytes uint64) { atomic.StoreUint64(&r.head.attrs, bytes+1) }

// Attrs returns the last value of SetAttrs, by any server; known is false without one.
func (r *Region) Attrs() (bytes uint64, known bool) {
	n := atomic.LoadUint64(&r.head.attrs)
	return n - min(n, 1), n != 0
}

// MaxCrashes is the number of servers that may crash during a request before it is refused.
const MaxCrashes = 3

// Suspect counts a crash of the server during a request that the kernel has resent, and returns the number of them.
// If there are more requests than room, the one with the fewest is dropped.
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

// Cleared removes a suspect that was answered.
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
	// MaxIdle bounds the stored idle backings.
	MaxIdle    = 64
	maxWatched = 128
)

// It all fits into its page.
var _ [pageSize - (answersBase + int(unsafe.Sizeof(Answers{})) - recordsBase)]struct{}

// Backing is a file registered with the connection for passthrough that no open uses now.
type Backing struct {
	Node uint64
	File uint64 // inode number of the host's file
	ID   int32  // 0: no backing
	_    uint32
}

// SetIdle stores an idle backing at an index, in place of the one before.
func (r *Region) SetIdle(i int, b Backing) {
	at := (*Backing)(unsafe.Pointer(&r.mem[backingsBase+i*int(unsafe.Sizeof(b))]))
	atomic.StoreInt32(&at.ID, 0)
	at.Node, at.File = b.Node, b.File
	atomic.StoreInt32(&at.ID, b.ID)
}

// Idle returns the backing at an index, with ID 0 for none.
func (r *Region) Idle(i int) Backing {
	return *(*Backing)(unsafe.Pointer(&r.mem[backingsBase+i*int(unsafe.Sizeof(Backing{}))]))
}

// SetLastBacking stores the newest id that the kernel gave out.
func (r *Region) SetLastBacking(id int32) { atomic.StoreInt32(&r.head.lastBacking, id) }

// LastBacking returns the newest known id.
func (r *Region) LastBacking() int32 { return atomic.LoadInt32(&r.head.lastBacking) }

// CrowdedWatched reports that a file's node is not stored and half of the room is used.
func (r *Region) CrowdedWatched(node uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loadWatched()
	return !r.watched[node] && len(r.watched) >= maxWatched/2
}

// AddWatched stores the node of a file that the guest may be watching. The oldest of more than 128 is dropped.
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

// loadWatched reads the nodes that the previous server stored. Called with mu held.
func (r *Region) loadWatched() {
	if r.watched == nil {
		r.watched = map[uint64]bool{}
		// Only the previous server knew the oldest.
		r.nextWatched = int(r.head.generation % maxWatched)
		for i := range maxWatched {
			if n := r.watchedAt(i); *n != 0 {
				r.watched[*n] = true
			} else if len(r.watched) == i {
				// Filled in order: the rest is free.
				r.nextWatched = i
			}
		}
	}
}

func (r *Region) watchedAt(i int) *uint64 {
	return (*uint64)(unsafe.Pointer(&r.mem[watchedBase+8*i]))
}

// Watched returns the stored nodes.
func (r *Region) Watched() (all []uint64) {
	var nodes [maxWatched]uint64
	peek(r, watchedBase, &nodes)
	for _, n := range nodes {
		if n != 0 {
			all = append(all, n)
		}
	}
	return all
}
