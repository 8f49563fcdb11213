package holder

import "time"

// clock is the holder's own time. The holder looks when it meant to, or earlier; if it looks much later, the machine
// did not run it, as when a virtual machine is paused. Nobody else ran either, so that time counts as one tick for the
// watchdog and for the deadlines of others.
type clock struct {
	tick    time.Duration // the shortest wait of which a delay is told
	wait    time.Duration // from looked to the next look
	looked  time.Time
	resumed time.Time     // when the holder looked after the last pause
	behind  time.Duration // the time that did not count
}

// now returns the holder's time for a real one, at each look.
func (c *clock) now(real time.Time) time.Time {
	gap := real.Sub(c.looked)
	if !c.looked.IsZero() && c.tick > 0 && gap > max(c.wait, c.tick)+3*c.tick {
		c.behind += gap - c.tick
		c.resumed = real
	}
	c.looked = real
	return real.Add(-c.behind)
}

// own returns the holder's time for an earlier real one. What was before the last pause was right before its end: how
// much of the time since was the pause is unknown.
func (c *clock) own(real time.Time) time.Time {
	if real.Before(c.resumed) {
		real = c.resumed
	}
	return real.Add(-c.behind)
}

// real is the inverse of now, as long as nothing more is missed.
func (c *clock) real(own time.Time) time.Time { return own.Add(c.behind) }
