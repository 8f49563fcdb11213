package state

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of a Handle.
const (
	Writes   = 1 << iota // opened for writing
	Reads                // opened for reading
	NonBlock             // O_NONBLOCK
	Dir                  // a directory
	Admin                // the opener had CAP_SYS_ADMIN over the host
	Trigger              // the host's descriptor carries a pressure trigger
	HostFile             // the server has a host descriptor for it
	Held                 // the holder has it too
	Stranger             // the opener was outside the guest, and is counted separately
)

// Handle is one open of the guest's, kept for the next server.
type Handle struct {
	FH      uint64 // 0: the slot is free
	Node    uint64
	Inode   uint64 // of the host's file
	Unique  uint64 // of the request that opened it
	Kh      uint64 // the kernel's number for its polls, 0 for none
	File    uint64 // inode number of the backing's file, where Backing is not 0
	UID     uint32 // of the opener
	GID     uint32
	Flags   uint32
	Backing int32 // id of the file for passthrough, 0 for none
}

func (r *Region) slot(i int) *Handle {
	return (*Handle)(unsafe.Pointer(&r.mem[handlesBase+i*handleSize]))
}

// top returns the number of slots that were ever used.
func (r *Region) top() int {
	return min(int(atomic.LoadUint32(&r.head.handleTop)), r.arena.Handles())
}

// Add stores an open and gives it its handle, a number that no open before had. False at the guest's bound: its
// slots, or its part of Arena.Bound.
func (r *Region) Add(h Handle) (fh uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.arena.admits(r.open) {
		return 0, false
	}
	i := 0
	if n := len(r.free); n > 0 {
		i, r.free = int(r.free[n-1]), r.free[:n-1]
	} else if i = r.top(); i < r.arena.Handles() {
		atomic.StoreUint32(&r.head.handleTop, uint32(i+1))
	} else {
		return 0, false
	}
	generation := atomic.AddUint64(&r.head.generation, 1)
	fh = generation<<slotBits | uint64(i)
	s := r.slot(i)
	*s = h
	atomic.StoreUint64(&s.FH, fh)
	r.open++
	r.arena.open.Add(1)
	return fh, true
}

// Remove removes an open; not an error if there is none.
func (r *Region) Remove(fh uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.find(fh)
	if s == nil {
		return
	}
	atomic.StoreUint64(&s.FH, 0)
	r.free = append(r.free, uint16(fh&(maxSlots-1)))
	r.open--
	r.arena.open.Add(-1)
}

// Trim gives back the memory of slots while none is in use.
func (r *Region) Trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	top := r.top()
	if r.open > 0 || top == 0 {
		return
	}
	// First, so that a server which dies here leaves no slot that counts.
	atomic.StoreUint32(&r.head.handleTop, 0)
	r.free = nil
	end := (handlesBase + top*handleSize + pageSize - 1) / pageSize * pageSize
	// What fails leaves free slots: their FH is 0.
	_ = unix.Madvise(r.mem[handlesBase:end], unix.MADV_REMOVE)
}

// find returns the slot of a handle, nil if it is free or another's. Called with mu held.
func (r *Region) find(fh uint64) *Handle {
	i := int(fh & (maxSlots - 1))
	if fh == 0 || i >= r.top() || r.slot(i).FH != fh {
		return nil
	}
	return r.slot(i)
}

// Update changes the record of an open, except its handle.
func (r *Region) Update(fh uint64, f func(h *Handle)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.find(fh); s != nil {
		f(s)
		atomic.StoreUint64(&s.FH, fh)
	}
}

// OpenedBy returns the open that a request made, if it still exists.
func (r *Region) OpenedBy(unique uint64) (fh uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.top() {
		if s := r.slot(i); s.FH != 0 && s.Unique == unique {
			return s.FH, true
		}
	}
	return 0, false
}

// Opens lists the opens.
func (r *Region) Opens() []Handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Handle
	for i := range r.top() {
		if s := r.slot(i); s.FH != 0 {
			all = append(all, *s)
		}
	}
	return all
}

// Open returns the number of opens.
func (r *Region) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}
