package daemon

import (
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// sweepEvery is how soon the end of a boundary or of a guest's init, and what the events stream samples, is seen.
const sweepEvery = time.Second

// sweep takes away guests whose boundary is gone or whose init has ended, follows the declared ones, and samples counters
// while somebody listens.
func (d *Daemon) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		d.declared.follow()
		for _, g := range d.all() {
			d.look(g)
		}
		select {
		case <-d.ended:
			return
		case <-tick.C:
		}
	}
}

// look looks after one guest.
func (d *Daemon) look(g *guest) {
	s := g.served()
	if s == nil {
		return
	}
	switch {
	case s.View.Gone():
		d.take(g, api.EventGone, "its boundary was removed")
	case g.record.Spec.Pid != 0 && ended(g.record):
		d.take(g, api.EventGone, "its process ended")
	case d.hub.Listening(): // counters are read while somebody wants to know
		for _, e := range g.sampler.Sample(s.Boundaries) {
			e.Time, e.Guest = time.Now(), g.record.Name
			d.hub.Publish(e)
		}
	}
}

// ended says whether the process of a guest has ended: its number is nobody's, another's, or a zombie's.
func ended(r record) bool {
	start, err := host.StartOf(r.Spec.Pid)
	return err != nil || start != r.PidStart
}
