package daemon

import (
	"os"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
)

// take removes a guest, and publishes an event of this kind, "" for none.
func (d *Daemon) take(g *guest, kind, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gone {
		d.takeLocked(g, kind, reason)
	}
}

// takeLocked removes a guest. Called once, with the guest's mu held.
func (d *Daemon) takeLocked(g *guest, kind, reason string) {
	g.gone = true
	g.unfollow()
	if s := g.serving.Swap(nil); s != nil {
		d.noteUnmounted(g, s)
		d.detach(g, s, kind == api.EventRemoved)
		g.at.Leave(g.log)
		if d.ownTarget(g.record.Spec) {
			os.Remove(g.record.Spec.Target)
		}
		// Before the view closes: no other process may keep the connection alive.
		if err := d.keep(g).Forget(); err != nil {
			g.log.WithError(err).Debug("cannot tell the holder")
		}
		s.Close()
		g.region.Release()
	}
	d.forget(g)
	if kind != "" {
		say := g.log.WithField("reason", reason).Infof
		// The guest ended by itself.
		if kind == api.EventGone {
			say = g.log.WithField("reason", reason).Warnf
		}
		say("the guest is %s", kind)
		d.hub.Publish(api.Event{Time: time.Now(), Kind: kind, Guest: g.record.Name, Reason: reason})
	}
}

// noteUnmounted notes that someone else unmounted the view: the id of its mount may have been reused by now.
func (d *Daemon) noteUnmounted(g *guest, s *views.Served) {
	if s == nil || d.isClosing() {
		return
	}
	select {
	case <-s.Done:
		g.at.Gone = g.at.Gone || s.Err == nil
	default:
	}
}
