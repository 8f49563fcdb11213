package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/self"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Bounds of what touches cost. Those of one container are looked after one at a time, and those of a container that takes its time
// keep no other's waiting: it has its own queue, and there are places for several such.
const (
	maxSelfWork  = 32 // containers
	maxTouchers  = 256
	maxBoxes     = 1024
	refuseFor    = time.Second // after what failed
	maxProcesses = 50_000      // that are asked who is root

	// A container whose threads look again and again gets a part of the time: after each look at its mounts the others wait for so many
	// times as long as that took.
	touchShare = 12
	maxRest    = 20 * time.Millisecond
	minRest    = time.Millisecond // after what is refused without a look
)

// toucher is a thread of a container that has touched self.
type toucher struct {
	tid        int
	start      uint64
	mounts     uint64 // its mount namespace
	boundaries []boundaryID
	path       string // of the first boundary
	pattern    string // that it matches
	came       time.Time
}

// boxes are the containers that have touched self.
type boxes struct {
	mu  sync.Mutex
	all map[string]*box // guarded by mu; by the names of their guests
}

// box is a container that has touched self.
type box struct {
	turn    chan struct{} // one slot: who holds it looks after the container
	waiting int           // guarded by boxes.mu
	stuck   atomic.Bool   // a thread is still in the container's mount namespace, perhaps long after it was given up

	// Of who holds turn.
	refused time.Time // when something failed last
	said    string    // what was said of that
	seen    uint64    // the mount namespace that was looked at last
	seenAt  time.Time // and when that began
	looked  time.Time // when the last look ended
	took    time.Duration
}

// touched says what a thread is to have of self. It may take as long as the container's own file systems.
func (s *selfDir) touched(tid int) self.Outcome {
	select {
	case <-s.ready:
	case <-s.quit:
		return self.Empty
	}
	t, err := s.find(tid)
	if err != nil {
		s.d.log.WithError(err).Debugf("cannot tell what container task %d is of", tid)
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
		return self.Already // another thread saw to it meanwhile
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
	return s.look(t, b)
}

// wait waits for a slot; false when self is taken away.
func (s *selfDir) wait(slot chan struct{}) bool {
	select {
	case slot <- struct{}{}:
		return true
	case <-s.quit:
		return false
	}
}

// look is touched when it is the container's turn.
func (s *selfDir) look(t *toucher, b *box) self.Outcome {
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

// ending says whether self is taken away. Where this worker makes room for another one it does not return: that one is sent what is
// not answered, and it alone can make guests.
func (s *selfDir) ending() bool {
	if s.d.isClosing() {
		<-s.quit
		return true
	}
	return false
}

// refuse says why a container gets nothing: once, as long as it is the same.
func (s *selfDir) refuse(t *toucher, b *box, err error) {
	if _, gone := host.StartOf(t.tid); gone != nil {
		return // it was killed meanwhile
	}
	if !errors.Is(err, attach.ErrNotTheirs) { // that is so for one thread, and may not be for the next
		b.refused = time.Now()
	}
	if why := err.Error(); b.said != why {
		b.said = why
		s.d.log.WithError(err).WithField("cgroup", t.path).Warnf("task %d finds nothing at self", t.tid)
	}
}

// rest keeps a container whose threads always have something to look at from keeping us busy. One that looks now and then does not
// notice.
func (b *box) rest() {
	if due := b.looked.Add(min(touchShare*b.took, maxRest)); time.Until(due) > 0 {
		time.Sleep(time.Until(due))
	}
}

// enter finds or makes the box of a container; nil when too many of its threads wait.
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

// find says what container a thread is of, nil for none: in each hierarchy that may be shown the outermost cgroup that a pattern
// matches, and no hierarchy where there is none.
func (s *selfDir) find(tid int) (*toucher, error) {
	t := &toucher{tid: tid, came: time.Now()}
	paths, err := s.d.host.PathsOf(tid)
	if err != nil {
		return nil, err
	}
	for i, tree := range s.d.host.Hierarchies() {
		at, pattern, ok := s.rule.Of(paths[i])
		if !ok || !views.Shown(s.d.host, tree, s.policy) {
			continue
		}
		b, err := tree.Boundary(at)
		if err != nil {
			return nil, err
		}
		if t.path == "" {
			t.path, t.pattern = at, pattern
		}
		t.boundaries = append(t.boundaries, boundaryID{tree.String(), b.ID(), at})
		b.Close()
	}
	if len(t.boundaries) == 0 {
		return nil, nil
	}
	// The thread waits for our answer, so it is the same all the time; but its number may be another's after a restart.
	if t.start, err = host.StartOf(tid); err == nil {
		t.mounts, err = host.MountNamespace(tid)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// show has the toucher's mount namespace show its guest's view instead of self, and says whether it did not yet.
func (s *selfDir) show(t *toucher, b *box) (covered bool, err error) {
	// Before a guest is made for it. Where the daemon is in a container itself the host's are those of process 1, if that lets itself be
	// looked at.
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
		Foreign: func(device uint64) bool { return device != g.at.View.Device && s.d.isView(device) },
	}.With(view)
}

// isView says whether a file system is a guest's view.
func (d *Daemon) isView(device uint64) bool {
	return slices.ContainsFunc(d.all(), func(g *guest) bool { return g.served() != nil && g.region.Device() == device })
}

// guestOf finds the guest of a toucher, or makes it.
func (s *selfDir) guestOf(t *toucher) (*guest, error) {
	r := record{Name: t.name(), Spec: s.spec, Rule: t.pattern, Boundaries: t.boundaries}
	s.d.mu.Lock()
	g := s.d.guests[r.Name]
	s.d.mu.Unlock()
	if g != nil && g.served() != nil && g.record.Rule != "" && slices.EqualFunc(g.record.Boundaries, t.boundaries, boundaryID.is) {
		return g, nil
	}
	owner, err := s.ownerOf(t)
	if err != nil {
		return nil, err
	}
	r.Spec.Boundary, r.Spec.Owner = t.path, fmt.Sprintf("%d:%d", owner.UID, owner.GID)
	g, _, err = s.d.addRecord(r, s.policy)
	return g, err
}

// ownerOf is who is root in the container of a toucher.
func (s *selfDir) ownerOf(t *toucher) (owner fs.Owner, err error) {
	boundaries, err := s.d.reopen(t.boundaries)
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

var (
	longID   = regexp.MustCompile(`[0-9a-f]{64}`)
	unit     = regexp.MustCompile(`\.(scope|service|slice)$`)
	unnamely = regexp.MustCompile(`[^A-Za-z0-9_]+`)
)

// maxStem leaves room in a guest's name for what tells it from others.
const maxStem = 48

// name is the name of a toucher's guest: what differs in the path of its cgroup, and a hash of what its boundaries are, so that it is
// never another's.
func (t *toucher) name() string {
	stem := path.Base(t.path)
	parts := strings.Split(t.path, "/")
	for i, glob := range strings.Split(t.pattern, "/") {
		if strings.ContainsAny(glob, "*?[{") {
			stem = parts[i] // the last one counts
		}
	}
	stem = longID.ReplaceAllStringFunc(unit.ReplaceAllString(stem, ""), func(id string) string { return id[:12] })
	stem = strings.Trim(unnamely.ReplaceAllString(stem, "-"), "-")
	if stem == "" {
		stem = "container"
	}
	hash := sha256.New()
	for _, b := range t.boundaries {
		fmt.Fprintln(hash, b.Tree, b.ID)
	}
	return stem[:min(len(stem), maxStem)] + "-" + hex.EncodeToString(hash.Sum(nil)[:6])
}
