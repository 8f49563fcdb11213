package state

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// A request that changes the host has an entry from before the change until its reply is written. If the server dies
// in between, the kernel sends the request again (FUSE_NOTIFY_RESEND), and the entry says how far it came: not
// begun, begun, or done with a known status. Where the kernel sends nothing again the next server handles a copy of the
// request again (request.go). Begun means that the host may or may not have been changed; A, B and C
// hold the state before the change, to compare with.

// maxEntries exceeds the number of concurrent requests of one guest.
const maxEntries = 36

// The states of an Entry.
const (
	Begun = 1
	Done  = 2
)

// Entry is a change in progress.
type Entry struct {
	Unique uint64 // of the request without its resend bit; 0: free
	State  uint32 // atomic
	Op     uint16 // the FUSE opcode
	Status uint16 // errno of the reply, 0 for success, once Done
	A      uint64
	B      uint64
	C      uint64
}

// journal is the entries of a region.
type journal struct {
	region *Region

	active atomic.Int32 // entries in use

	mu   sync.Mutex
	used [maxEntries]bool // guarded by mu
}

func (j *journal) init(r *Region) {
	j.region = r
	if r.top() == 0 && r.Init() == nil {
		// Nothing was ever served: do not touch the page.
		return
	}
	var entries [maxEntries]Entry
	peek(r, recordsBase, &entries)
	for i := range j.used {
		if entries[i].Unique != 0 {
			j.used[i] = true
			j.active.Add(1)
		}
	}
}

func (j *journal) entry(i int) *Entry {
	return (*Entry)(unsafe.Pointer(&j.region.mem[recordsBase+i*int(unsafe.Sizeof(Entry{}))]))
}

// Begin stores the start of a change. Nil if there is no room, which no kernel causes.
func (r *Region) Begin(e Entry) *Entry {
	j := &r.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, used := range j.used {
		if used {
			continue
		}
		j.used[i] = true
		j.active.Add(1)
		at := j.entry(i)
		unique := e.Unique
		e.Unique, e.State = 0, Begun
		*at = e
		atomic.StoreUint64(&at.Unique, unique)
		return at
	}
	return nil
}

// Finish stores the outcome of the change, the errno of its reply.
func (e *Entry) Finish(errno uint16) {
	if e != nil {
		e.Status = errno
		atomic.StoreUint32(&e.State, Done)
	}
}

// Find returns the entry of a request, or nil.
func (r *Region) Find(unique uint64) *Entry {
	j := &r.journal
	if j.active.Load() == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, used := range j.used {
		if used && j.entry(i).Unique == unique {
			return j.entry(i)
		}
	}
	return nil
}

// Retire removes the entry of a request whose reply is written. Not an error without an entry.
func (r *Region) Retire(unique uint64) {
	r.drop(unique)
	j := &r.journal
	if j.active.Load() == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, used := range j.used {
		if e := j.entry(i); used && e.Unique == unique {
			atomic.StoreUint64(&e.Unique, 0)
			j.used[i] = false
			j.active.Add(-1)
			return
		}
	}
}

// RetireBut removes the entries of all requests except those that keep reports, once the kernel has sent everything
// again.
func (r *Region) RetireBut(keep func(unique uint64) bool) {
	j := &r.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, used := range j.used {
		if e := j.entry(i); used && !keep(e.Unique) {
			atomic.StoreUint64(&e.Unique, 0)
			j.used[i] = false
			j.active.Add(-1)
		}
	}
}
