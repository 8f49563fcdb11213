package daemon

import (
	"os"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// sweeping runs the sweeper of a daemon made of the parts until the test ends.
func (x *parts) sweeping(t *testing.T) *Daemon {
	t.Helper()
	d := x.newDaemon(t)
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		d.sweeper.run(ended)
		close(done)
	}()
	t.Cleanup(func() {
		close(ended)
		<-done
	})
	return d
}

// dir is the directory of a served guest's only boundary on the host.
func (x *parts) hostDir(t *testing.T, g *guest) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("machine: only root may change cgroups here")
	}
	b := g.boundaries()[0]
	return b.Hierarchy().Mountpoint + b.Path()
}

// soonEnough is long for an event, and short of the next round through all guests.
const soonEnough = roundEvery / 3

// TestSweepGone: the removal of a boundary ends its guest at once, also where only a look each second can find it.
func TestSweepGone(t *testing.T) {
	for _, heard := range []bool{true, false} {
		x := newParts(t)
		d := x.sweeping(t)
		next := x.events(t)
		g, _ := x.served(t, "web")
		dir := x.hostDir(t, g)
		if !heard {
			d.lookout.deafen(g)
		}
		began := time.Now()
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != "gone web its boundary was removed" || time.Since(began) > soonEnough {
			t.Errorf("%s after %v", got, time.Since(began))
		}
		eventually(t, "the sweeper to forget it", func() bool { return len(d.lookout.unheardOf()) == 0 })
	}
}

// deafen has no event tell of a guest, as without room for watches.
func (l *lookout) deafen(g *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.watches {
		f.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unheard[g] = struct{}{}
}

// TestSweepRenamed: a guest whose boundary is renamed lives on, and its removal is noticed under the new name.
func TestSweepRenamed(t *testing.T) {
	x := newParts(t)
	x.sweeping(t)
	next := x.events(t)
	g, _ := x.served(t, "web")
	dir := x.hostDir(t, g)
	err := os.Rename(dir, dir+"-renamed")
	if err != nil {
		t.Skipf("kernel: v2 cannot rename a cgroup: %v", err)
	}
	began := time.Now()
	// Long enough for the event of the new name to be what tells, rarely too short.
	time.Sleep(4 * passPause)
	if err := os.Remove(dir + "-renamed"); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "gone web its boundary was removed" || time.Since(began) > soonEnough {
		t.Errorf("%s after %v", got, time.Since(began))
	}
}

// TestSweepLost: after events were lost all guests are looked at, once a second at most.
func TestSweepLost(t *testing.T) {
	x := newParts(t)
	d := x.newDaemon(t)
	g, _ := x.served(t, "web")
	dir := x.hostDir(t, g)
	now := time.Now()
	if next := d.sweeper.lookAtLost(now); !next.IsZero() {
		t.Error(next)
	}
	d.lookout.event(g, host.Event{Overflow: true})
	if next := d.sweeper.lookAtLost(now); !next.Equal(now.Add(sweepEvery)) || x.named("web") == nil {
		t.Error(next)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	d.lookout.event(g, host.Event{Overflow: true})
	if next := d.sweeper.lookAtLost(now.Add(sweepEvery / 2)); !next.Equal(now.Add(sweepEvery)) || x.named("web") == nil {
		t.Error("looked again too soon", next)
	}
	d.sweeper.lookAtLost(now.Add(sweepEvery))
	if x.named("web") != nil {
		t.Error("the guest is left")
	}
}

// TestRound: a round looks at each guest, in parts, and the next one begins a minute after its end.
func TestRound(t *testing.T) {
	x := newParts(t)
	d := x.newDaemon(t)
	g, _ := x.served(t, "web")
	dir := x.hostDir(t, g)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	d.sweeper.left = make([]string, leastSlice+1)
	d.sweeper.left[leastSlice] = "web"
	if next := d.sweeper.goRound(now); !next.Equal(now.Add(roundSlice)) || x.named("web") == nil {
		t.Error(next)
	}
	if next := d.sweeper.goRound(now.Add(roundSlice - 1)); !next.Equal(now.Add(roundSlice)) {
		t.Error(next)
	}
	now = now.Add(roundSlice)
	if next := d.sweeper.goRound(now); !next.Equal(now.Add(roundEvery)) || x.named("web") != nil {
		t.Error(next)
	}
}

// TestRepeat: passes are made when they are due and when they are asked for, and no flood makes them frequent.
func TestRepeat(t *testing.T) {
	urgent, wake := make(chan struct{}, 1), make(chan struct{}, 1)
	ended, done := make(chan struct{}), make(chan struct{})
	passes := make(chan time.Time, 1000)
	go func() {
		repeat(ended, urgent, wake, func(now time.Time) time.Time {
			passes <- now
			return now.Add(time.Minute)
		})
		close(done)
	}()
	first := <-passes
	wake <- struct{}{}
	if second := <-passes; second.Sub(first) < passPause {
		t.Errorf("a second pass after %v", second.Sub(first))
	}
	began := time.Now()
	urgent <- struct{}{}
	if third := <-passes; third.Sub(began) >= passPause {
		t.Logf("an urgent pass after %v", third.Sub(began))
	}
	for time.Since(began) < 10*passPause {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	if n := len(passes); n < 1 || n > int(time.Since(began)/passPause)+1 {
		t.Errorf("%d passes in %v", n, time.Since(began))
	}
	close(ended)
	<-done
}

// TestLookout: which events mark a guest, how many are looked at in a pass, and what a removed guest leaves.
func TestLookout(t *testing.T) {
	l := newLookout(logrus.NewEntry(logrus.New()))
	inside := func() *guest {
		return &guest{record: record{UID: 1000, Declared: true, Spec: api.GuestSpec{Into: &api.Into{}}}}
	}
	plain, attrib := &guest{}, host.Event{Attrib: true}
	l.event(plain, attrib)
	if marked, more := l.take(); len(marked) > 0 || more || len(l.wake) > 0 {
		t.Errorf("%d marked by an attribute of a guest that is not inside", len(marked))
	}
	l.event(plain, host.Event{Deleted: true})
	var flood []*guest
	for range maxGiven + 3 {
		flood = append(flood, inside())
		l.event(flood[len(flood)-1], attrib)
		l.event(flood[len(flood)-1], attrib)
	}
	if marked, more := l.take(); len(marked) != 1+maxGiven || marked[0] != plain || !more || len(l.wake) != 1 {
		t.Errorf("%d marked, more: %t", len(marked), more)
	}
	if marked, more := l.take(); len(marked) != 3 || more {
		t.Errorf("%d marked then, more: %t", len(marked), more)
	}
	g := inside()
	l.mark(g)
	l.event(g, attrib)
	if marked, _ := l.take(); len(marked) != 1 {
		t.Errorf("marked %d times", len(marked))
	}
	l.mark(g)
	l.unheard[g] = struct{}{}
	l.forget(g)
	if marked, _ := l.take(); len(marked)+len(l.unheardOf()) > 0 || !l.takeFiles() || l.takeFiles() || l.takeLost() {
		t.Errorf("%d marked that are removed", len(marked))
	}
}

// TestRefuse: why the kernel refuses watches is told once until it grants all; what is gone is not told.
func TestRefuse(t *testing.T) {
	x := newParts(t)
	l := x.removing.lookout
	l.refuse(unix.ENOENT)
	if said := x.log.since(); said != "" {
		t.Error(said)
	}
	l.refuse(unix.ENOSPC)
	l.refuse(unix.ENOSPC)
	if said := x.log.since(); !contains(said, "raise fs.inotify.max_user_watches", 1) {
		t.Error(said)
	}
	g, _ := x.served(t, "web")
	if n := len(g.watches); n != 1 || l.refused || len(l.unheardOf()) > 0 {
		t.Errorf("%d watches, refused: %t", n, l.refused)
	}
}

// used keeps an allocation from being left out.
var used []byte

// TestSettled: memory is freed when the number of guests has not changed for a while after many were added.
func TestSettled(t *testing.T) {
	now := time.Now()
	s := settled{at: now}
	if next := s.follow(0, now); !next.Equal(now.Add(settleTime)) {
		t.Error("after the start", next)
	}
	now = now.Add(settleTime)
	if next := s.follow(0, now); !next.IsZero() || !s.once || s.allocated == 0 {
		t.Error("after the start", next)
	}
	if next := s.follow(manyGuests-1, now); !next.IsZero() {
		t.Error("for few guests", next)
	}
	if next := s.follow(manyGuests, now); !next.Equal(now.Add(settleTime)) {
		t.Error(next)
	}
	later := now.Add(settleTime / 2)
	if next := s.follow(manyGuests+1, later); !next.Equal(later.Add(settleTime)) {
		t.Error("after another one", next)
	}
	if next := s.follow(manyGuests+1, later.Add(settleTime)); !next.IsZero() || s.guests != manyGuests+1 {
		t.Error("settled", next)
	}
	was := s.allocated
	if s.releaseUsed(); s.allocated != was {
		t.Error("released for little")
	}
	used = make([]byte, 2*manyBytes)
	if s.releaseUsed(); s.allocated == was {
		t.Error("not released after requests")
	}
}
