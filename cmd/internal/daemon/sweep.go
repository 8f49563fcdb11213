package daemon

import (
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
)

// sweepEvery is how soon the end of a boundary or of a guest's init, and what the events stream samples, is seen.
const sweepEvery = time.Second

// manyGuests is after how many guests that came or went memory is given back.
const manyGuests = 32

// sweep takes away guests whose boundary is gone or whose init has ended, and from guests the cgroups that they were given; it follows
// the declared ones, and samples counters while somebody listens.
func (d *Daemon) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	before, settled := 0, 0
	for {
		d.swept.Store(time.Now().UnixNano())
		d.garbage.tune()
		d.declared.follow()
		d.followSelf()
		// What many guests needed while they were made or taken away goes back to the host, once no more come or go.
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

// lookNow has the sweep look at all guests at once.
func (d *Daemon) lookNow() {
	select {
	case d.sweepNow <- struct{}{}:
	default:
	}
}

// look looks after one guest.
func (d *Daemon) look(g *guest) {
	s := g.served()
	if s == nil {
		return
	}
	select {
	case <-s.Done: // before anybody could be told
		if d.isClosing() {
			return // it goes on in another worker
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
	case d.hub.Listening(): // counters are read while somebody wants to know
		for _, e := range g.sampler.Sample(s.Boundaries) {
			d.hub.Publish(api.Event{
				Time: time.Now(), Kind: sampled[e.Kind], Guest: g.record.Name, Path: e.Path, Reason: e.Limit, Count: e.Count,
			})
		}
	}
}

// sampled are the wire's kinds of what a sample tells.
var sampled = map[cgroups.EventKind]string{cgroups.OOMKill: api.EventOOMKill, cgroups.LimitReached: api.EventLimit}

// garbage says how much memory may be lost to garbage. Guests need little memory, and of what they need little changes hands: a
// third of what is in use, and 2 MiB for what requests leave behind. Where a collection comes after each MiB of a small heap, a
// guest that makes cgroups all the time has one run for another, which its neighbours felt (BenchmarkFlood: a p99 of 2.1 instead
// of 1.3 times the quiet one).
type garbage struct{ percent int }

const (
	garbageBytes      = 2 << 20
	minGarbagePercent = 30
	maxGarbagePercent = 100
)

// tune follows what is in use. A change waits for a collection under way, so small ones are not made.
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
