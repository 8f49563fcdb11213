package daemon

import (
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
)

// sweepEvery bounds the delay until the sweep notices the end of a boundary or of a guest's process, and a new count
// for the events stream.
const sweepEvery = time.Second

// manyGuests is the number of added or removed guests after which the sweep frees memory.
const manyGuests = 32

// sweep removes guests whose boundary or process has ended, and reclaims cgroups that a runtime chowned to a guest. It
// follows the declared guests, and samples counters for subscribers.
func (d *Daemon) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	before, settled := 0, 0
	for {
		d.swept.Store(time.Now().UnixNano())
		d.garbage.tune()
		d.declared.follow()
		d.followSelf()
		// Adding or removing many guests needs memory. It goes back to the host once their number has settled.
		now := len(d.all())
		if now == before && max(now-settled, settled-now) >= manyGuests {
			settled = now
			debug.FreeOSMemory()
		}
		before = now
		for _, g := range d.all() {
			d.look(g)
		}
		select {
		case <-d.ended:
			return
		case <-d.sweepNow:
		case <-tick.C:
		}
	}
}

// lookNow starts a sweep at once.
func (d *Daemon) lookNow() {
	select {
	case d.sweepNow <- struct{}{}:
	default:
	}
}

// look checks one guest.
func (d *Daemon) look(g *guest) {
	s := g.served()
	if s == nil {
		return
	}
	select {
	case <-s.Done:
		// Done closes before viewEnded runs.
		if d.isClosing() {
			// Another worker serves it.
			return
		}
		d.take(g, api.EventGone, "the view was unmounted")
		return
	default:
	}
	if !d.isClosing() && g.given(s.Boundaries) {
		d.takeAgain(g)
	}
	switch {
	case d.isClosing():
	case s.View.Gone():
		d.take(g, api.EventGone, "its boundary was removed")
	case g.record.Spec.Pid != 0 && ended(g.record):
		d.take(g, api.EventGone, processEnded)
	case d.hub.Listening():
		// Counters are read for subscribers only.
		for _, e := range g.sampler.Sample(s.Boundaries) {
			d.hub.Publish(api.Event{
				Time: time.Now(), Kind: sampled[e.Kind], Guest: g.record.Name, Path: e.Path, Reason: e.Limit, Count: e.Count,
			})
		}
	}
}

// sampled maps the kinds of a sample to the wire's.
var sampled = map[cgroups.EventKind]string{cgroups.OOMKill: api.EventOOMKill, cgroups.LimitReached: api.EventLimit}

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
