package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/self"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Bounds on the cost of touches. The touches of one container are handled one at a time. A slow container delays no
// other: each has its own queue, and several are handled at once.
const (
	maxSelfWork  = 32 // containers
	maxTouchers  = 256
	maxBoxes     = 1024
	refuseFor    = time.Second // after a failure
	maxProcesses = 50_000      // searched for the container's root

	// A container whose threads keep touching self gets a share of the time: after each look at its mounts the others wait
	// this many times the look's duration.
	touchShare = 12
	maxRest    = 20 * time.Millisecond
	minRest    = time.Millisecond // after a refusal without a look
)

// toucher is a thread of a container that has touched self.
type toucher struct {
	tid        int
	start      uint64
	mounts     uint64 // its mount namespace
	boundaries []boundaryID
	path       string // of the first boundary
	pattern    string // matched by path
	came       time.Time
}

// boxes are the containers that have touched self.
type boxes struct {
	mu  sync.Mutex
	all map[string]*box // guarded by mu; by the names of their guests
}

// box is the state of one container that has touched self.
type box struct {
	turn    chan struct{} // one slot: its holder handles the container
	waiting int           // guarded by boxes.mu
	stuck   atomic.Bool   // a thread is still in the container's mount namespace, perhaps long after we gave it up

	// Used by the holder of turn only.
	refused time.Time // time of the last failure
	said    string    // the last logged reason
	seen    uint64    // the mount namespace of the last look
	seenAt  time.Time // begin of that look
	looked  time.Time // end of the last look
	took    time.Duration
}

// touched answers a thread that has touched self. It may take as long as the container's own file systems.
func (s *selfDir) touched(tid int) self.Outcome {
	select {
	case <-s.ready:
	case <-s.quit:
		return self.Empty
	}
	t, err := s.find(tid)
	if err != nil {
		s.log.WithError(err).Debugf("cannot tell what container task %d is of", tid)
	}
	if t == nil {
		return self.Empty
	}
	b := s.boxes.enter(t.name())
	if b == nil {
		return self.Empty
	}
	defer s.boxes.leave(b)
	if !s.wait(b.turn) {
		return self.Empty
	}
	defer func() { <-b.turn }()
	switch {
	case b.seen == t.mounts && b.seenAt.After(t.came):
		// Another thread's touch covered it meanwhile.
		return self.Already
	case b.stuck.Load() || time.Since(b.refused) < refuseFor:
		time.Sleep(minRest)
		return self.Empty
	}
	b.rest()
	if !s.wait(s.work) {
		return self.Empty
	}
	defer func() { <-s.work }()
	if s.ending() {
		return self.Empty
	}
	return s.cover(t, b)
}

// wait waits for a slot. False when self is removed.
func (s *selfDir) wait(slot chan struct{}) bool {
	select {
	case slot <- struct{}{}:
		return true
	case <-s.quit:
		return false
	}
}

// cover covers self for the toucher, in the container's turn.
func (s *selfDir) cover(t *toucher, b *box) self.Outcome {
	began := time.Now()
	covered, err := s.show(t, b)
	b.looked, b.took = time.Now(), time.Since(began)
	if err != nil {
		if !s.ending() {
			s.refuse(t, b, err)
		}
		return self.Empty
	}
	b.said, b.seen, b.seenAt = "", t.mounts, began
	if !covered {
		return self.Already
	}
	return self.Covered
}

// ending reports that self is being removed. During a handover to another worker it does not return: the kernel sends
// the request to that worker, and only that worker can add guests.
func (s *selfDir) ending() bool {
	if s.guests.isClosing() {
		<-s.quit
		return true
	}
	return false
}

// refuse logs the reason for an empty answer, once until the reason changes.
func (s *selfDir) refuse(t *toucher, b *box, err error) {
	if _, gone := host.StartOf(t.tid); gone != nil {
		// The thread was killed meanwhile.
		return
	}
	// ErrNotTheirs concerns one thread, and may not concern the next.
	if !errors.Is(err, attach.ErrNotTheirs) {
		b.refused = time.Now()
	}
	if why := err.Error(); b.said != why {
		b.said = why
		s.log.WithError(err).WithField("cgroup", t.path).Warnf("task %d finds nothing at self", t.tid)
	}
}

// rest slows down a container whose threads touch self again and again. A container with few touches does not notice.
func (b *box) rest() {
	if due := b.looked.Add(min(touchShare*b.took, maxRest)); time.Until(due) > 0 {
		time.Sleep(time.Until(due))
	}
}

// enter finds or makes the box of a container. nil if too many of its threads wait.
func (x *boxes) enter(name string) *box {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.all[name]
	if b == nil {
		if len(x.all) >= maxBoxes {
			for name, old := range x.all {
				if old.waiting == 0 && !old.stuck.Load() {
					delete(x.all, name)
				}
			}
		}
		b = &box{turn: make(chan struct{}, 1)}
		x.all[name] = b
	}
	if b.waiting >= maxTouchers {
		return nil
	}
	b.waiting++
	return b
}

func (x *boxes) leave(b *box) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b.waiting--
}

// find finds the boundaries of a thread's container, nil for none: in each hierarchy that the policy shows, the
// outermost cgroup that a pattern matches. It skips hierarchies without a match.
func (s *selfDir) find(tid int) (*toucher, error) {
	t := &toucher{tid: tid, came: time.Now()}
	paths, err := s.host.PathsOf(tid)
	if err != nil {
		return nil, err
	}
	shown, err := views.Select(s.host, s.policy, layoutOf(s.spec))
	if err != nil {
		return nil, err
	}
	for i, hier := range s.host.Hierarchies() {
		at, pattern, ok := s.rule.Of(paths[i])
		if !ok || !slices.Contains(shown, hier) {
			continue
		}
		b, err := hier.Boundary(at)
		if err != nil {
			return nil, err
		}
		if t.path == "" {
			t.path, t.pattern = at, pattern
		}
		t.boundaries = append(t.boundaries, boundaryID{hier.String(), b.ID(), at})
		b.Close()
	}
	if len(t.boundaries) == 0 {
		return nil, nil
	}
	// The thread waits for our answer, so its number is not reused; but it may be after a restart of the daemon.
	if t.start, err = host.StartOf(tid); err == nil {
		t.mounts, err = host.MountNamespace(tid)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// show covers self by the guest's view in the toucher's mount namespace. covered is false if the view was there
// already.
func (s *selfDir) show(t *toucher, b *box) (covered bool, err error) {
	// This check comes before a guest is added. For a daemon in a container, the host's mount namespace is that of process
	// 1, if the daemon may read it.
	own, err := host.MountNamespace(0)
	if err != nil {
		return false, err
	}
	if first, err := host.MountNamespace(1); t.mounts == own || err == nil && t.mounts == first {
		return false, fmt.Errorf("it is in the host's own mount namespace: %w", attach.ErrNotTheirs)
	}
	g, err := s.guestOf(t)
	if err != nil {
		return false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return false, notFound(g.record.Name)
	}
	view, release, err := g.at.Open()
	if err != nil {
		return false, fmt.Errorf("the view of guest %s is not mounted at %s any more: %w", g.record.Name, g.at.Target, err)
	}
	defer release()
	b.stuck.Store(true)
	return attach.Cover{
		Tid: t.tid, Start: t.start, Device: s.at.View.Device, Ended: func() { b.stuck.Store(false) },
		Foreign: func(device uint64) bool { return device != g.at.View.Device && isView(s.guests.all(), device) },
	}.With(view)
}

// guestOf finds the guest of a toucher, or adds it.
func (s *selfDir) guestOf(t *toucher) (*guest, error) {
	r := record{Name: t.name(), Spec: s.spec, Rule: t.pattern, Boundaries: t.boundaries}
	g := s.guests.named(r.Name)
	if g != nil && g.served() != nil && g.record.Rule != "" &&
		slices.EqualFunc(g.record.Boundaries, t.boundaries, boundaryID.is) {
		return g, nil
	}
	owner, err := s.ownerOf(t)
	if err != nil {
		return nil, err
	}
	r.Spec.Boundary, r.Spec.Owner = t.path, fmt.Sprintf("%d:%d", owner.UID, owner.GID)
	g, _, err = s.guests.add(r, s.policy)
	return g, err
}

// ownerOf finds the user who is root in the toucher's container.
func (s *selfDir) ownerOf(t *toucher) (owner fs.Owner, err error) {
	boundaries, err := reopen(s.host, t.boundaries)
	if err != nil {
		return owner, err
	}
	defer views.CloseBoundaries(boundaries)
	processes := cgroups.Processes(boundaries[0], maxProcesses)
	if len(processes) == maxProcesses {
		return owner, fmt.Errorf("it has %d processes and more: too many to tell who is root", maxProcesses)
	}
	pid, err := host.RootIn(t.tid, processes)
	if err != nil {
		return owner, err
	}
	return views.OwnerOf(nil, pid)
}

// maxStem bounds the readable part of a guest's name, to leave room for the hash.
const maxStem = 48

// name returns the name of a toucher's guest: a readable name of the container, and a hash of its boundaries' ids,
// which makes it unique.
func (t *toucher) name() string {
	stem := runtimes.Stem(t.path, t.pattern)
	hash := sha256.New()
	for _, b := range t.boundaries {
		fmt.Fprintln(hash, b.Tree, b.ID)
	}
	return stem[:min(len(stem), maxStem)] + "-" + hex.EncodeToString(hash.Sum(nil)[:6])
}
