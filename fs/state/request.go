package state

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"unsafe"
)

// Where the kernel sends no request again, requests that change the host are copied before they are handled, so that
// the next server can finish those in the middle of which this one died. The copies are at the end of the room for
// the configuration, in regions whose configuration leaves that free. Programs without them leave the room alone, so
// it does not change layoutVersion.

const (
	copySize     = 1 << 10
	copiesBase   = recordsBase - maxEntries*copySize
	copyHeadSize = int(unsafe.Sizeof(copyHead{}))
)

// copyHead begins a copy.
type copyHead struct {
	unique uint64 // atomic; of the request, 0: free
	bytes  uint64
}

func (r *Region) copyHead(i int) *copyHead {
	return (*copyHead)(unsafe.Pointer(&r.mem[copiesBase+i*copySize]))
}

// hasCopies reports that the region has room for copies.
func (r *Region) hasCopies() bool {
	return headSize+int(r.head.configBytes)+int(atomic.LoadUint32(&r.head.labelBytes)) <= copiesBase
}

// Keep copies a request until Retire, if there is room for it.
func (r *Region) Keep(request []byte) {
	if len(request) < 16 || len(request) > copySize-copyHeadSize || !r.hasCopies() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range maxEntries {
		h := r.copyHead(i)
		if h.unique != 0 {
			continue
		}
		h.bytes = uint64(len(request))
		copy(r.mem[copiesBase+i*copySize+copyHeadSize:][:copySize-copyHeadSize], request)
		atomic.StoreUint64(&h.unique, uniqueOf(request))
		r.copies.Add(1)
		return
	}
}

// uniqueOf returns a request's number (struct fuse_in_header of include/uapi/linux/fuse.h).
func uniqueOf(request []byte) uint64 { return binary.NativeEndian.Uint64(request[8:]) }

// drop removes the copy of a request, if there is one.
func (r *Region) drop(unique uint64) {
	if r.copies.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range maxEntries {
		if h := r.copyHead(i); h.unique == unique {
			atomic.StoreUint64(&h.unique, 0)
			r.copies.Add(-1)
			return
		}
	}
}

// Unfinished returns copies of the requests whose change a server had begun when it died, in the order of their
// numbers, and retires all others.
func (r *Region) Unfinished() (requests [][]byte) {
	if r.hasCopies() && r.Init() != nil {
		for i := range maxEntries {
			h := r.copyHead(i)
			if h.unique == 0 {
				continue
			}
			r.copies.Add(1)
			if e := r.Find(h.unique); e != nil && e.State == Begun && h.bytes <= uint64(copySize-copyHeadSize) {
				at := copiesBase + i*copySize + copyHeadSize
				requests = append(requests, slices.Clone(r.mem[at:at+int(h.bytes)]))
			} else {
				r.drop(h.unique)
			}
		}
	}
	slices.SortFunc(requests, func(a, b []byte) int { return int(int64(uniqueOf(a) - uniqueOf(b))) })
	r.RetireBut(func(unique uint64) bool {
		return slices.ContainsFunc(requests, func(request []byte) bool { return uniqueOf(request) == unique })
	})
	return requests
}
