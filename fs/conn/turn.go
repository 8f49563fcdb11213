package conn

import (
	"runtime"
	"sync/atomic"
	"time"
)

// A connection that always has a request more would keep a processor to itself, and those who wait for one with it. As long as
// another connection has been woken lately it gives way: the serving goroutine makes a pause after each turn, a longer one when
// it has not seen its queue empty for a while; and slow requests that run side by side begin further apart. What
// floods cost a neighbour with and without that is in docs/bench.md. One client, however busy, is never made to wait, for the queue is
// empty while it has its answer.
const (
	turn         = 30 * time.Microsecond
	breather     = 100 * time.Microsecond
	longBreather = 300 * time.Microsecond
	floodAfter   = 5 * time.Millisecond
	othersWithin = 20                     // milliseconds
	pollEvery    = 500 * time.Microsecond // for whoever is about to be woken

	slowShare  = 12 // a slow request takes at most about one part in so many of the time
	maxSlowGap = 4 * time.Millisecond
)

// turns is when the serving goroutine last gave way, and since when its queue has not been empty.
type turns struct{ began, busySince, polled time.Time }

// yield lets others have the processor when this connection always has a request more, and keeps to the rate.
func (s *server) yield() {
	now := time.Now()
	if !s.idle.IsZero() {
		s.c.wokenNow()
	}
	switch {
	case s.queueEmpty:
		s.turns = turns{now, now, now}
	case now.Sub(s.turns.began) >= turn:
		switch {
		case !s.c.othersAwake() && now.Sub(s.turns.polled) < pollEvery:
			runtime.Gosched()
		case !s.c.othersAwake():
			rest(time.Nanosecond)
			s.turns.polled = now
		case now.Sub(s.turns.busySince) > floodAfter:
			rest(longBreather)
		default:
			rest(breather)
		}
		s.turns.began = time.Now()
	}
	if late := s.pace.due(now); late > 0 {
		time.Sleep(late)
	}
}

// turn is when a slow request may begin while others are awake. The first that run side by side need not wait.
func (p *slowPool) turn(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active < 2 || now.Sub(p.busySince) < floodAfter {
		return now
	}
	at := p.due
	if at.Before(now) {
		at = now
	}
	p.due = at.Add(min(slowShare*p.took, maxSlowGap))
	return at
}

// woken is the connection that was woken last, and when: its number, and the lower half of millis. wokenBefore is the last other one.
var woken, wokenBefore atomic.Uint64

// wokenNow notes that this connection has been woken.
func (c *Conn) wokenNow() {
	if last := woken.Swap(c.number<<32 | millis()); last>>32 != c.number {
		wokenBefore.Store(last)
	}
}

// othersAwake says that another connection has been woken lately.
func (c *Conn) othersAwake() bool {
	last := woken.Load()
	if last>>32 == c.number {
		last = wokenBefore.Load()
	}
	return last != 0 && last>>32 != c.number && uint32(millis())-uint32(last) < othersWithin
}

// millis is the time in milliseconds, of which the lower 32 bits are used.
func millis() uint64 { return uint64(uint32(time.Since(began).Milliseconds())) }

var began = time.Now()

// pace holds a connection to a rate: whoever asks for more waits, an idle second's worth may come at once.
type pace struct {
	rate int       // requests in a second; 0: no bound
	next time.Time // when the next one is due
}

// due is how long the next request has to wait.
func (p *pace) due(now time.Time) time.Duration {
	if p.rate <= 0 {
		return 0
	}
	if earliest := now.Add(-time.Second); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(time.Second / time.Duration(p.rate))
	return p.next.Sub(now)
}
