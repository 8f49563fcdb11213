package daemon

import (
	"errors"
	"sync"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// lookout hears of what the sweeper is to look at. Its methods never wait for the sweeper.
type lookout struct {
	log  *logrus.Entry // immutable
	wake chan struct{} // one slot

	urgent chan struct{} // one slot; for who may not wait for a pause of the sweeper

	mu      sync.Mutex
	gone    map[*guest]struct{} // guarded by mu; guests with a boundary that may be gone
	given   map[*guest]struct{} // guarded by mu; guests with a boundary of which owner or attributes changed
	lost    bool                // guarded by mu: events of any guest were lost
	unheard map[*guest]struct{} // guarded by mu; guests whose end no event tells
	files   bool                // guarded by mu: the directory of declared guests changed, or a guest of it ended
	refused bool                // guarded by mu: the kernel refused a watch; logged once until it grants all
}

func newLookout(log *logrus.Entry) *lookout {
	return &lookout{log: log, wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1),
		gone: map[*guest]struct{}{}, given: map[*guest]struct{}{}, unheard: map[*guest]struct{}{}}
}

// soon has the sweeper look at once at what it was told of.
func (l *lookout) soon() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// now is soon without a pause of the sweeper.
func (l *lookout) now() {
	select {
	case l.urgent <- struct{}{}:
	default:
	}
}

// filesChanged has the sweeper look at the files of declared guests.
func (l *lookout) filesChanged() {
	l.mu.Lock()
	l.files = true
	l.mu.Unlock()
	l.soon()
}

// follow has the events of a served guest's boundaries mark the guest. The caller has it checked afterwards. Called
// again, it follows what it could not before, and renamed boundaries. Called with the guest's mu held.
func (l *lookout) follow(g *guest, s *views.Served) {
	heard := g.record.Spec.Pid == 0 || g.process != nil
	if g.watches == nil {
		g.watches = make([]*host.Following, len(s.Boundaries))
	}
	for i, b := range s.Boundaries {
		var err error
		if f := g.watches[i]; f != nil {
			err = f.Renew()
		} else {
			g.watches[i], err = b.Follow(func(e host.Event) { l.event(g, e) })
		}
		if err != nil {
			heard = false
			l.refuse(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.unheard, g); !heard {
		l.unheard[g] = struct{}{}
	}
	l.refused = l.refused && len(l.unheard) > 0
}

// refuse logs why events do not tell of a guest's end, unless the boundary is gone or in a view.
func (l *lookout) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, errors.ErrUnsupported) {
		return
	}
	l.refused = true
	l.log.WithError(err).Warn("the kernel does not tell of the removal of some guests' boundaries, which are looked at " +
		"each second instead; raise fs.inotify.max_user_watches")
}

// mark has the sweeper look at a guest.
func (l *lookout) mark(g *guest) {
	l.mu.Lock()
	l.gone[g] = struct{}{}
	l.mu.Unlock()
	l.soon()
}

// event marks a guest of whose boundary the kernel tells something.
func (l *lookout) event(g *guest, e host.Event) {
	l.mu.Lock()
	switch {
	case e.Overflow:
		l.lost = true
	case e.Deleted:
		l.gone[g] = struct{}{}
	case g.mayBeGiven():
		l.given[g] = struct{}{}
	default:
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.soon()
}

// forget ends the events of a guest that is removed. Called with the guest's mu held.
func (l *lookout) forget(g *guest) {
	for _, f := range g.watches {
		if f != nil {
			f.Close()
		}
	}
	g.watches = nil
	l.mu.Lock()
	delete(l.gone, g)
	delete(l.given, g)
	delete(l.unheard, g)
	l.files = l.files || g.record.Declared
	l.mu.Unlock()
	l.soon()
}

// maxGiven bounds the guests looked at in one pass because an attribute of their boundary changed. A guest can cause
// that as often as it likes; it causes no removal of its boundary.
const maxGiven = 64

// take returns the marked guests, and unmarks them. More is true if there are others.
func (l *lookout) take() (marked []*guest, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for g := range l.gone {
		marked = append(marked, g)
		delete(l.given, g)
	}
	clear(l.gone)
	n := 0
	for g := range l.given {
		if n++; n > maxGiven {
			break
		}
		marked = append(marked, g)
		delete(l.given, g)
	}
	return marked, len(l.given) > 0
}

// takeFiles reports that the declared guests' files are to be looked at.
func (l *lookout) takeFiles() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	files := l.files
	l.files = false
	return files
}

// takeLost reports that events were lost.
func (l *lookout) takeLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := l.lost
	l.lost = false
	return lost
}

// unheardOf lists the guests whose end no event tells.
func (l *lookout) unheardOf() (all []*guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for g := range l.unheard {
		all = append(all, g)
	}
	return all
}
