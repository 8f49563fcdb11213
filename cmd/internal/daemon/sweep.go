package daemon

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// The sweeper is told by events (lookout) when a guest's boundary is gone or chowned; the end of its process and of its
// view are told to removing. What no event tells is looked for: each second for guests whose end no event tells, and
// each minute for all.
const (
	sweepEvery = time.Second            // for guests without events, and for subscribers' samples
	roundEvery = time.Minute            // between the begins of two rounds through all guests
	roundSlice = 2 * time.Second        // between two parts of a round
	leastSlice = 256                    // guests of a part
	passPause  = 50 * time.Millisecond  // between two passes, whatever events come
	filesPause = 250 * time.Millisecond // after the first change of declared guests' files: an editor writes several times
)

// sweeper looks after the guests, on a goroutine of its own.
type sweeper struct {
	table    *table        // immutable
	removing *removing     // immutable
	attacher *attacher     // immutable
	told     *telemetry    // immutable
	declared *declarations // immutable
	self     *selfKeeper   // immutable
	lookout  *lookout      // immutable

	began atomic.Int64 // time of the begin of the pass under way, in ns since 1970; 0 between passes

	// Used by the sweeping goroutine only. The times are those of the next work; zero for none.
	second  time.Time
	sample  time.Time
	files   time.Time
	round   time.Time
	left    []string // names of the guests that the round comes to yet
	lostAt  time.Time
	settled settled
}

// run removes guests whose boundary or process has ended, and reclaims cgroups that a runtime chowned to a guest. It
// follows the declared guests and self, and samples counters for subscribers.
func (x *sweeper) run(ended <-chan struct{}) {
	x.files, x.round = time.Now(), time.Now().Add(roundEvery)
	x.settled.at = time.Now()
	repeat(ended, x.lookout.urgent, x.lookout.wake, x.pass)
}

// repeat calls pass at once, at each wake and at the times that it returns. Unless it is urgent, passPause is between
// two passes: a flood of events costs a pass now and then.
func repeat(ended, urgent, wake <-chan struct{}, pass func(now time.Time) (next time.Time)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := pass(time.Now())
		timer.Reset(passPause)
		select {
		case <-ended:
			return
		case <-urgent:
			continue
		case <-timer.C:
		}
		timer.Reset(time.Until(next))
		select {
		case <-ended:
			return
		case <-urgent:
		case <-wake:
		case <-timer.C:
		}
	}
}

// pass does the work that is due, and returns when there is more.
func (x *sweeper) pass(now time.Time) (next time.Time) {
	x.mark()
	defer x.began.Store(0)
	marked, more := x.lookout.take()
	for _, g := range marked {
		if !x.look(g) {
			x.lookout.mark(g)
		}
	}
	if more {
		next = now.Add(passPause)
	}
	for _, due := range []time.Time{x.lookAtLost(now), x.lookEachSecond(now), x.sampleAll(now), x.goRound(now),
		x.followFiles(now), x.self.follow(), x.settled.follow(x.table.count(), now)} {
		if !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next
}

// mark marks the begin of a pass.
func (x *sweeper) mark() { x.began.Store(time.Now().UnixNano()) }

// age returns the duration of the pass under way, 0 between passes.
func (x *sweeper) age() time.Duration {
	began := x.began.Load()
	if began == 0 {
		return 0
	}
	return time.Since(time.Unix(0, began))
}

// look follows the boundaries of a guest where that has become necessary, and checks the guest. It reports that nothing
// is left to do.
func (x *sweeper) look(g *guest) bool {
	s := g.served()
	if s == nil {
		return true
	}
	followed := g.mu.TryLock()
	if followed {
		if !g.gone {
			x.lookout.follow(g, s)
			g.region.Trim()
		}
		g.mu.Unlock()
	}
	x.check(g)
	return followed || g.served() == nil
}

// lookAtLost checks all guests after events were lost, once a second at most.
func (x *sweeper) lookAtLost(now time.Time) (next time.Time) {
	if now.Before(x.lostAt) {
		return x.lostAt
	}
	x.lostAt = time.Time{}
	if x.lookout.takeLost() {
		x.lostAt = now.Add(sweepEvery)
		for _, g := range x.table.all() {
			x.check(g)
		}
	}
	return x.lostAt
}

// lookEachSecond checks the guests whose end no event tells.
func (x *sweeper) lookEachSecond(now time.Time) (next time.Time) {
	if now.Before(x.second) {
		return x.second
	}
	x.second = time.Time{}
	for _, g := range x.lookout.unheardOf() {
		x.second = now.Add(sweepEvery)
		x.check(g)
	}
	return x.second
}

// sampleAll samples the guests' counters each second while there are subscribers, and at once for the first one.
func (x *sweeper) sampleAll(now time.Time) (next time.Time) {
	switch {
	case x.table.isClosing() || !x.told.hub.Listening():
		x.sample = time.Time{}
	case !now.Before(x.sample):
		x.sample = now.Add(sweepEvery)
		for _, g := range x.table.all() {
			if s := g.served(); s != nil {
				x.told.sample(g, s.Boundaries)
			}
		}
	}
	return x.sample
}

// goRound looks at some of all guests.
func (x *sweeper) goRound(now time.Time) (next time.Time) {
	if now.Before(x.round) {
		return x.round
	}
	if len(x.left) == 0 {
		for _, g := range x.table.all() {
			x.left = append(x.left, g.record.Name)
		}
		x.files = now
	}
	n := min(max(leastSlice, x.table.count()/int(roundEvery/roundSlice)), len(x.left))
	for _, name := range x.left[:n] {
		if g := x.table.named(name); g != nil {
			x.look(g)
		}
	}
	x.left = slices.Clone(x.left[n:])
	x.round = now.Add(roundSlice)
	if len(x.left) == 0 {
		x.round = now.Add(roundEvery)
		x.settled.releaseUsed()
	}
	return x.round
}

// followFiles follows the files of declared guests.
func (x *sweeper) followFiles(now time.Time) (next time.Time) {
	if x.lookout.takeFiles() && (x.files.IsZero() || x.files.After(now.Add(filesPause))) {
		x.files = now.Add(filesPause)
	}
	if !x.files.IsZero() && !now.Before(x.files) {
		x.files = x.declared.follow()
	}
	return x.files
}

// check checks one guest.
func (x *sweeper) check(g *guest) {
	s := g.served()
	if s == nil {
		return
	}
	if x.table.isClosing() {
		// Another worker serves it.
		return
	}
	select {
	case <-s.Done:
		// Done closes before viewEnded runs.
		x.removing.remove(g, api.EventGone, "the view was unmounted")
		return
	default:
	}
	if g.given(s.Boundaries) {
		x.attacher.reclaimAgain(g)
	}
	switch {
	case s.View.Gone():
		x.removing.remove(g, api.EventGone, "its boundary was removed")
	case g.record.Spec.Pid != 0 && ended(g.record):
		x.removing.remove(g, api.EventGone, processEnded)
	}
}
