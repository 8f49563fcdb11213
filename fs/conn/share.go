package conn

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a slow request takes of a processor the host charges to the server: a guest whose quota is a tenth of a processor
// could have the server take most of one for it, by mkdir and rmdir. So a connection's slow requests have a share of one
// processor. Who seldom asks has saved up for a burst, and waits for nothing.
const (
	// shareBurst is for how long the share is saved up.
	shareBurst = 2 * time.Second
	// shareMaxDebt is for how long one request at most keeps those after it, however much it took (memory.reclaim).
	shareMaxDebt = time.Second
	// shareSlice is how often a request that waits looks whether the server is to end.
	shareSlice = 20 * time.Millisecond
)

// share is a connection's part of a processor.
type share struct {
	percent int // immutable; 0: no bound

	mu   sync.Mutex
	even time.Time // guarded by mu; when what was taken is paid for
}

// spend counts what a request took.
func (s *share) spend(took time.Duration, now time.Time) {
	if s.percent <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if saved := now.Add(-shareBurst); s.even.Before(saved) {
		s.even = saved
	}
	s.even = s.even.Add(took * 100 / time.Duration(s.percent))
	if most := now.Add(shareMaxDebt); s.even.After(most) {
		s.even = most
	}
}

// due is when the next request may begin.
func (s *share) due() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.even
}

// counted runs f and says what it took of a processor, the host's work for it included.
func counted(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime()
	f()
	return threadTime() - before
}

// threadTime is the time that this thread has had a processor.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// wait lets a request begin at its time.
func (c *Conn) wait(r *slowRequest) {
	due := c.slow.share.due()
	if !c.cfg.Unpaced && c.othersAwake() {
		if turn := c.slow.turn(time.Now()); turn.After(due) {
			due = turn
		}
	}
	if !due.After(time.Now()) {
		return
	}
	c.slow.hold(r)
	for left := time.Until(due); left > 0 && !c.suspending.Load() && !c.closing.Load(); left = time.Until(due) {
		time.Sleep(min(left, shareSlice))
	}
	if c.slow.begins(r) {
		go c.interruptSoon(r)
	}
}

// interruptSoon interrupts a request that is about to begin.
func (c *Conn) interruptSoon(r *slowRequest) {
	for c.slow.runs(r) && !c.proto.interrupt(r.unique) {
		time.Sleep(time.Millisecond)
	}
}

// hold marks a request that has not begun.
func (p *slowPool) hold(r *slowRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.held = true
}

// begins takes the mark away, and says whether the request was interrupted meanwhile.
func (p *slowPool) begins(r *slowRequest) (interrupted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.held = false
	return r.interrupted
}

// runs says whether a request has not ended.
func (p *slowPool) runs(r *slowRequest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running[r.unique] == r
}
