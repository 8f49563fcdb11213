package conn

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The host charges the processor time of slow requests to the server: a guest with a quota of a tenth of a processor
// could make the server spend most of one on its mkdir and rmdir. So the slow requests of a connection have a share
// of one processor. A connection that seldom makes them has saved up for a burst, and never waits.
const (
	// shareBurst bounds the saved share.
	shareBurst = 2 * time.Second
	// shareMaxDebt bounds the delay that one request causes to the following ones, whatever it cost
	// (memory.reclaim).
	shareMaxDebt = time.Second
	// shareSlice is the interval at which a waiting request checks for the end of the server.
	shareSlice = 20 * time.Millisecond
)

// share is a connection's share of a processor.
type share struct {
	percent int // immutable; 0: no bound

	mu   sync.Mutex
	even time.Time // guarded by mu; the time at which the spent share is made up for
}

// spend charges a request's processor time.
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

// due returns the earliest start of the next request.
func (s *share) due() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.even
}

// counted runs f and returns its processor time, the host's work included.
func counted(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime()
	f()
	return threadTime() - before
}

// threadTime returns the processor time of this thread.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// wait delays a request until it is due.
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

// begins ends the wait of a held request. It reports an interrupt that came meanwhile, which the caller passes on
// once the request runs.
func (p *slowPool) begins(r *slowRequest) (interrupted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.held = false
	return r.interrupted
}

// runs reports that a request has not ended.
func (p *slowPool) runs(r *slowRequest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running[r.unique] == r
}
