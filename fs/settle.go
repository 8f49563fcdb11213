package fs

import (
	"slices"
	"sync"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// An open that passes through is made twice: by the view, and by the guest's kernel once it has the reply
// (fuse_passthrough_open). If the control file goes in between, the kernel's open fails, and whatever its errno the guest
// gets EIO (fuse_file_io_open), which no reader of cgroups knows. So what the guest itself removes waits until such opens
// are through, and what it opens meanwhile does not pass through. What the host removes waits for nothing: there it stays.

// settleTime is how long an open that passes through may take from the reply to the kernel's own open. Nobody tells of
// that: an open counts as settled after this time, or once it is closed.
const settleTime = 100 * time.Millisecond

// ending is the control files that are about to go: those of a cgroup, or those of controllers in a whole hierarchy.
type ending struct {
	hier        *viewHierarchy
	dir         uint64   // 0 for every cgroup of the hierarchy
	controllers []string // nil for all files
}

func (e *ending) covers(hier *viewHierarchy, dir uint64, file string) bool {
	return e.hier == hier && (e.dir == 0 || e.dir == dir) &&
		(e.controllers == nil || slices.Contains(e.controllers, hierarchy.ControllerOf(file)))
}

// settling knows the opens that are not through.
type settling struct {
	mu      sync.Mutex
	opens   map[*handle]time.Time // guarded by mu; by when the reply was made; nil when there are none
	tidy    int                   // guarded by mu: at how many opens those that are settled are forgotten
	endings []*ending             // guarded by mu
	through chan struct{}         // guarded by mu; not nil while an ending waits, closed when an open is closed
}

// fewOpens is how many opens are kept before those that are settled are looked for.
const fewOpens = 64

// admit notes that an open is about to pass through. False while its file is about to go.
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

// covered is ends. Called with mu held.
func (s *settling) covered(hier *viewHierarchy, dir uint64, file string) bool {
	return slices.ContainsFunc(s.endings, func(e *ending) bool { return e.covers(hier, dir, file) })
}

// settle forgets an open: it is closed, or does not pass through.
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

// begin has opens of the files that are to go not pass through, until end is called, and waits for those that are under way.
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

// underWay says for how long an open of the files that are to go can still be, and what tells that one is through.
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
