package holder

import "time"

// clock is the holder's own time. The holder looks when it meant to, or earlier; if it looks much later, the machine
// did not run it, as when a virtual machine is paused. Nobody else ran either, so that delay does not count for the
// watchdog and for the deadlines of others.
type clock struct {
	tick   time.Duration // the shortest wait of which a delay is told
	wait   time.Duration // from looked to the next look
	looked time.Time
	behind time.Duration // the time that did not count
}

// now returns the holder's time for a real one, at each look.
func (c *clock) now(real time.Time) time.Time {
	wait := max(c.wait, c.tick)
	if gap := real.Sub(c.looked); !c.looked.IsZero() && c.tick > 0 && gap > wait+3*c.tick {
		c.behind += gap - wait
	}
	c.looked = real
	return real.Add(-c.behind)
}

// own returns the holder's time for a real one of which now was asked already.
func (c *clock) own(real time.Time) time.Time { return real.Add(-c.behind) }

// real is the inverse of now, as long as nothing more is missed.
func (c *clock) real(own time.Time) time.Time { return own.Add(c.behind) }
