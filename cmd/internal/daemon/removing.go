package daemon

import (
	"os"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// removing removes guests: by request (remove.go), at the end of their process (process.go) or of their view. All
// fields are immutable.
type removing struct {
	keepers      keepers
	paths        paths
	declarations string // the directory of declared guests

	table    *table
	told     *telemetry
	attacher *attacher
	lookout  *lookout
}

// remove removes a guest, and publishes an event of this kind, "" for none.
func (x *removing) remove(g *guest, kind, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gone {
		x.removeLocked(g, kind, reason)
	}
}

// removeLocked removes a guest. Called once, with the guest's mu held.
func (x *removing) removeLocked(g *guest, kind, reason string) {
	g.gone = true
	g.unfollow()
	x.lookout.forget(g)
	if s := x.table.unserve(g); s != nil {
		x.noteUnmounted(g, s)
		x.attacher.detach(g, s, kind == api.EventRemoved)
		g.at.Leave(g.log)
		if x.paths.own(g.record.Spec) {
			os.Remove(g.record.Spec.Target)
		}
		// Before the view closes: no other process may keep the connection alive.
		x.keepers.forget(g.region.Index(), g.log)
		s.Close()
		g.region.Release()
	}
	x.table.forget(g)
	x.lookout.soon()
	x.told.ended(g, kind, reason)
}

// noteUnmounted notes that someone else unmounted the view: the id of its mount may have been reused by now.
func (x *removing) noteUnmounted(g *guest, s *views.Served) {
	if s == nil || x.table.isClosing() {
		return
	}
	select {
	case <-s.Done:
		g.at.Gone = g.at.Gone || s.Err == nil
	default:
	}
}

// viewEnded runs after the end of serving: the view was unmounted, its connection was aborted, or we ended it.
func (x *removing) viewEnded(g *guest, s *views.Served) {
	if x.table.isClosing() || g.serving.Load() != s {
		// The guest is being removed, or its set-up failed.
		return
	}
	reason := "the view was unmounted"
	if s.Err != nil {
		reason = s.Err.Error()
	}
	// remove waits for this goroutine.
	go x.remove(g, api.EventGone, reason)
}

// abandon ends a mount that cannot be served, and releases its region. It closes the connection first, so that an
// access to the mount does not wait.
func abandon(log *logrus.Entry, k keepers, r *state.Region, at *attach.Mountpoint, held map[uint64]int) {
	k.forget(r.Index(), log)
	for key, fd := range held {
		unix.Close(fd)
		delete(held, key)
	}
	if err := at.Unmount(); err != nil {
		log.Warn(err)
	}
	r.Release()
}
