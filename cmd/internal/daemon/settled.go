package daemon

import (
	"runtime/metrics"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/memory"
)

const (
	// manyGuests is the number of added or removed guests after which memory is released.
	manyGuests = 32
	// settleTime is how long the number of guests must not have changed then.
	settleTime = 1500 * time.Millisecond
	// manyBytes is the memory that was allocated since, in bytes, after which a round releases memory.
	manyBytes = 1 << 20
)

// settled releases the memory that was needed for a while: after the worker's start, after many guests were added or
// removed, and each minute after requests.
type settled struct {
	once      bool      // memory was released
	guests    int       // when it was
	allocated uint64    // until then, in bytes
	before    int       // guests at the last look
	at        time.Time // when their number changed
}

// follow returns when it is to look again, zero if not before the next change.
func (s *settled) follow(guests int, now time.Time) time.Time {
	if guests != s.before {
		s.before, s.at = guests, now
	}
	if s.once && max(guests-s.guests, s.guests-guests) < manyGuests {
		return time.Time{}
	}
	if due := s.at.Add(settleTime); now.Before(due) {
		return due
	}
	s.once, s.guests = true, guests
	s.release()
	return time.Time{}
}

// releaseUsed releases memory if much was allocated since the last release: as much may be garbage by now.
func (s *settled) releaseUsed() {
	if s.once && allocated()-s.allocated > manyBytes {
		s.release()
	}
}

func (s *settled) release() {
	memory.Release()
	s.allocated = allocated()
}

// allocated returns the memory that was ever allocated on the heap, in bytes.
func allocated() uint64 {
	x := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(x)
	return x[0].Value.Uint64()
}
