package conn

import (
	"sync/atomic"
	"time"
)

// A connection with a never-empty queue would occupy a processor, and others would wait for it. While another
// connection has been woken lately, such a connection yields: the serving goroutine pauses after each turn, longer
// if its queue has not been empty for a while; and concurrent slow requests start further apart. docs/bench.md has
// the cost of floods for a neighbour with and without this. A single client, however busy, never waits, because the
// queue is empty while it handles the reply.
const (
	turn         = 30 * time.Microsecond
	breather     = 100 * time.Microsecond
	longBreather = 300 * time.Microsecond
	floodAfter   = 5 * time.Millisecond
	othersWithin = 20                     // milliseconds
	pollEvery    = 500 * time.Microsecond // for whoever is about to be woken

	slowShare  = 12 // concurrent slow requests get at most about one part in so many of the time
	maxSlowGap = 4 * time.Millisecond
)

// turns is the start of the serving goroutine's turn, the time since when its queue has not been empty, and the time
// when it last let Go's scheduler poll.
type turns struct{ began, busySince, polled time.Time }

// yield gives other connections the processor if this one always has another request, and keeps the rate.
func (s *server) yield() {
	now := time.Now()
	switch {
	case !s.idle.IsZero():
		s.c.wokenNow()
		s.turns = turns{now, now, now}
	case now.Sub(s.turns.began) >= turn:
		switch {
		case !s.c.othersAwake():
			if now.Sub(s.turns.polled) >= pollEvery {
				rest(time.Nanosecond)
				s.turns.polled = now
			}
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

// turn returns the start of a slow request while other connections are awake. The first concurrent ones need not
// wait.
func (p *slowPool) turn(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active < 2 || p.beside.time(now) < floodAfter {
		return now
	}
	at := p.due
	if at.Before(now) {
		at = now
	}
	p.due = at.Add(min(slowShare*p.took, maxSlowGap))
	return at
}

// beside counts how long requests have run beside each other. It forgets slowly: a flood in a guest with a part of a
// processor comes in bursts of a few milliseconds, which must not count from the beginning each time.
type beside struct {
	since, ended time.Time     // the begin of the present time beside each other, or the end of the last
	before       time.Duration // counted up to then
}

const (
	besideMost   = 2 * floodAfter
	besideForget = 20 // a millisecond of counted time is forgotten in so many
)

func (b *beside) begin(now time.Time) {
	b.before = max(0, b.before-now.Sub(b.ended)/besideForget)
	b.since = now
}

func (b *beside) end(now time.Time) { b.before, b.ended = min(b.time(now), besideMost), now }

// time returns the counted time while requests run beside each other.
func (b *beside) time(now time.Time) time.Duration { return b.before + now.Sub(b.since) }

// woken is the connection woken last and the time: its number, and the lower half of millis. wokenBefore is the last
// other one.
var woken, wokenBefore atomic.Uint64

// wokenNow notes that this connection was woken.
func (c *Conn) wokenNow() {
	if last := woken.Swap(c.number<<32 | millis()); last>>32 != c.number {
		wokenBefore.Store(last)
	}
}

// othersAwake reports that another connection was woken lately.
func (c *Conn) othersAwake() bool {
	last := woken.Load()
	if last>>32 == c.number {
		last = wokenBefore.Load()
	}
	return last != 0 && last>>32 != c.number && uint32(millis())-uint32(last) < othersWithin
}

// millis is the time in milliseconds, modulo 2^32.
func millis() uint64 { return uint64(uint32(time.Since(began).Milliseconds())) }

var began = time.Now()

// pace holds a connection to a rate: excess requests wait, and an idle second's worth may come at once.
type pace struct {
	rate int       // requests in a second; 0: no bound
	next time.Time // due time of the next one
}

// due returns how long the next request has to wait.
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
