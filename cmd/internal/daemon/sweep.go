package daemon

import (
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// sweepEvery bounds the delay until the sweep notices the end of a boundary or of a guest's process, and a new count
// for the events stream.
const sweepEvery = time.Second

// manyGuests is the number of added or removed guests after which the sweep frees memory.
const manyGuests = 32

// sweeper looks after the guests each second, on a goroutine of its own.
type sweeper struct {
	table    *table        // immutable
	removing *removing     // immutable
	attacher *attacher     // immutable
	told     *telemetry    // immutable
	declared *declarations // immutable
	self     *selfKeeper   // immutable

	early   chan struct{} // one slot
	began   atomic.Int64  // time of the last sweep's begin, in ns since 1970
	garbage garbage       // used by the sweeping goroutine only
}

// run removes guests whose boundary or process has ended, and reclaims cgroups that a runtime chowned to a guest. It
// follows the declared guests and self, and samples counters for subscribers.
func (x *sweeper) run(ended <-chan struct{}) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	before, settled := 0, 0
	for {
		x.mark()
		x.garbage.tune()
		x.declared.follow()
		x.self.follow()
		// Adding or removing many guests needs memory. It goes back to the host once their number has settled.
		now := len(x.table.all())
		if now == before && max(now-settled, settled-now) >= manyGuests {
			settled = now
			debug.FreeOSMemory()
		}
		before = now
		for _, g := range x.table.all() {
			x.check(g)
		}
		select {
		case <-ended:
			return
		case <-x.early:
		case <-tick.C:
		}
	}
}

// mark marks the begin of a sweep.
func (x *sweeper) mark() { x.began.Store(time.Now().UnixNano()) }

// age returns the time since the begin of the last sweep.
func (x *sweeper) age() time.Duration { return time.Since(time.Unix(0, x.began.Load())) }

// soon starts a sweep at once.
func (x *sweeper) soon() {
	select {
	case x.early <- struct{}{}:
	default:
	}
}

// check checks one guest.
func (x *sweeper) check(g *guest) {
	s := g.served()
	if s == nil {
		return
	}
	select {
	case <-s.Done:
		// Done closes before viewEnded runs.
		if x.table.isClosing() {
			// Another worker serves it.
			return
		}
		x.removing.remove(g, api.EventGone, "the view was unmounted")
		return
	default:
	}
	if !x.table.isClosing() && g.given(s.Boundaries) {
		x.attacher.reclaimAgain(g)
	}
	switch {
	case x.table.isClosing():
	case s.View.Gone():
		x.removing.remove(g, api.EventGone, "its boundary was removed")
	case g.record.Spec.Pid != 0 && ended(g.record):
		x.removing.remove(g, api.EventGone, processEnded)
	default:
		x.told.sample(g, s.Boundaries)
	}
}

// garbage bounds the memory lost to garbage: a third of the memory in use, and 2 MiB for the leavings of requests.
// Guests need little memory, and little of it changes hands. If each MiB of a small heap starts a collection, a guest
// that keeps making cgroups causes one collection after another, and its neighbours feel it (BenchmarkFlood: a p99 of
// 2.1 instead of 1.3 times the quiet one).
type garbage struct{ percent int }

const (
	garbageBytes      = 2 << 20
	minGarbagePercent = 30
	maxGarbagePercent = 100
)

// tune adapts the bound to the memory in use. A change waits for a collection under way, so tune skips small ones.
func (g *garbage) tune() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	percent := maxGarbagePercent
	if bytes := live[0].Value.Uint64(); bytes > 0 {
		percent = int(min(maxGarbagePercent, minGarbagePercent+100*garbageBytes/bytes))
	}
	if d := percent - g.percent; d >= 5 || d <= -5 {
		g.percent = percent
		debug.SetGCPercent(percent)
	}
}
