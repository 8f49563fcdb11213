package fs

import (
	"slices"
	"sync"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// The host's file of a passed-through open is opened twice: by the view, and by the guest's kernel after the reply
// (fuse_passthrough_open). If the control file goes in between, the kernel's open fails, and the guest gets EIO
// whatever the cause (fuse_file_io_open), an errno that no reader of cgroups expects. So a removal by the guest
// waits until such opens have settled, and its opens meanwhile do not pass through. A removal by the host cannot
// wait, and the EIO remains.

// settleTime is the assumed time from the reply to the kernel's own open. No event marks that open, so an open
// counts as settled after this time, or when it is closed.
const settleTime = 100 * time.Millisecond

// ending is a set of control files about to go: those of a cgroup, or those of controllers in a whole hierarchy.
type ending struct {
	hier        *viewHierarchy
	dir         uint64   // 0 for every cgroup of the hierarchy
	controllers []string // nil for all files
}

func (e *ending) covers(hier *viewHierarchy, dir uint64, file string) bool {
	return e.hier == hier && (e.dir == 0 || e.dir == dir) &&
		(e.controllers == nil || slices.Contains(e.controllers, hierarchy.ControllerOf(file)))
}

// settling keeps the opens that have not settled.
type settling struct {
	mu      sync.Mutex
	opens   map[*handle]time.Time // guarded by mu; to the time of the reply; nil when empty
	tidy    int                   // guarded by mu: the number of opens at which settled ones are dropped
	endings []*ending             // guarded by mu
	through chan struct{}         // guarded by mu; not nil while an ending waits, closed with the next closed open
}

// fewOpens is the least number of opens before settled ones are dropped.
const fewOpens = 64

// admit adds an open that is about to pass through. False if its file is about to go.
func (s *settling) admit(h *handle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.covered(h.hier, h.dir, h.file) {
		return false
	}
	now := time.Now()
	if s.opens == nil {
		s.opens, s.tidy = map[*handle]time.Time{}, fewOpens
	}
	if len(s.opens) >= s.tidy {
		for h, at := range s.opens {
			if now.Sub(at) >= settleTime {
				delete(s.opens, h)
			}
		}
		s.tidy = max(fewOpens, 2*len(s.opens))
	}
	s.opens[h] = now
	return true
}

// ends reports that a file is about to go.
func (s *settling) ends(hier *viewHierarchy, dir uint64, file string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.covered(hier, dir, file)
}

// covered is ends, called with mu held.
func (s *settling) covered(hier *viewHierarchy, dir uint64, file string) bool {
	return slices.ContainsFunc(s.endings, func(e *ending) bool { return e.covers(hier, dir, file) })
}

// settle removes an open that was closed or does not pass through.
func (s *settling) settle(h *handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.opens, h)
	if len(s.opens) == 0 {
		s.opens = nil
	}
	if s.through != nil {
		close(s.through)
		s.through = nil
	}
}

// begin keeps opens of the ending files from passing through until end is called, and waits for those that have not
// settled.
func (s *settling) begin(cancel <-chan struct{}, e *ending) (end func()) {
	s.mu.Lock()
	s.endings = append(s.endings, e)
	s.mu.Unlock()
	for {
		left, through := s.underWay(e)
		if left <= 0 {
			return func() { s.end(e) }
		}
		select {
		case <-through:
		case <-time.After(left):
		case <-cancel:
			return func() { s.end(e) }
		}
	}
}

// underWay returns the time until all opens of the ending files have settled, and a channel that closes when one of
// them is closed.
func (s *settling) underWay(e *ending) (left time.Duration, through chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, at := range s.opens {
		if e.covers(h.hier, h.dir, h.file) {
			left = max(left, settleTime-time.Since(at))
		}
	}
	if left > 0 && s.through == nil {
		s.through = make(chan struct{})
	}
	return left, s.through
}

func (s *settling) end(e *ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endings = slices.DeleteFunc(s.endings, func(x *ending) bool { return x == e })
	if len(s.endings) == 0 {
		s.endings = nil
	}
}
