package state

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where the kernel sends no request again, requests that change the host are copied before they are handled, so that
// the next server can finish those in the middle of which this one died. The copies are at the end of the room for
// the configuration, in regions whose configuration leaves that free. Programs without them leave the room alone, so
// it does not change layoutVersion.

const (
	copySize     = 1 << 10
	copiesBase   = recordsBase - maxEntries*copySize
	copyHeadSize = int(unsafe.Sizeof(copyHead{}))
	// copyAge is the age of copies that are forgotten: those of a server before a program without copies.
	copyAge = 10 * time.Minute
)

// copyHead begins a copy.
type copyHead struct {
	unique uint64 // atomic; of the request, 0: free
	at     int64  // when the copy was made, in ns since the boot (CLOCK_BOOTTIME)
	bytes  uint64
}

// Unfinished is a request that a server had begun when it died.
type Unfinished struct {
	Request []byte
	At      time.Duration // when the server began to handle it, since the boot (CLOCK_BOOTTIME)
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
		atomic.AddUint32(&r.head.copies, 1)
		h.at, h.bytes = int64(sinceBoot()), uint64(len(request))
		copy(r.mem[copiesBase+i*copySize+copyHeadSize:][:copySize-copyHeadSize], request)
		atomic.StoreUint64(&h.unique, uniqueOf(request))
		return
	}
}

func sinceBoot() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	return time.Duration(now.Nano())
}

// uniqueOf returns a request's number (struct fuse_in_header of include/uapi/linux/fuse.h).
func uniqueOf(request []byte) uint64 { return binary.NativeEndian.Uint64(request[8:]) }

// drop removes the copy of a request, if there is one.
func (r *Region) drop(unique uint64) {
	// Without a copy the pages are not touched, since reading them would allocate them.
	if atomic.LoadUint32(&r.head.copies) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range maxEntries {
		if h := r.copyHead(i); h.unique == unique {
			atomic.StoreUint64(&h.unique, 0)
			atomic.AddUint32(&r.head.copies, ^uint32(0))
			return
		}
	}
}

// Unfinished returns the requests whose change a server had begun when it died, in the order of their numbers, and
// retires all others. It may have made the change, and not have replied.
func (r *Region) Unfinished() (all []Unfinished) {
	if atomic.LoadUint32(&r.head.copies) != 0 && r.hasCopies() {
		now, count := sinceBoot(), uint32(0)
		for i := range maxEntries {
			h := r.copyHead(i)
			age := now - time.Duration(h.at)
			switch {
			case h.unique == 0:
			case r.Find(h.unique) == nil, h.bytes > uint64(copySize-copyHeadSize), age < 0, age > copyAge:
				atomic.StoreUint64(&h.unique, 0)
			default:
				count++
				at := copiesBase + i*copySize + copyHeadSize
				all = append(all, Unfinished{slices.Clone(r.mem[at : at+int(h.bytes)]), time.Duration(h.at)})
			}
		}
		// The dead server may have counted one that it did not store, or the other way round.
		atomic.StoreUint32(&r.head.copies, count)
	}
	slices.SortFunc(all, func(a, b Unfinished) int { return cmp.Compare(uniqueOf(a.Request), uniqueOf(b.Request)) })
	r.RetireBut(func(unique uint64) bool {
		return slices.ContainsFunc(all, func(u Unfinished) bool { return uniqueOf(u.Request) == unique })
	})
	return all
}
