package holder

import "time"

// clock is the holder's own time. The holder looks at least once a tick; a longer time between two looks is one in
// which the machine did not run it, as when a virtual machine is paused. Nobody else ran either, so only a tick of it
// counts for the watchdog and for the deadlines of others.
type clock struct {
	tick   time.Duration
	looked time.Time
	behind time.Duration // the time that did not count
}

// now returns the holder's time for a real one, at each look.
func (c *clock) now(real time.Time) time.Time {
	if gap := real.Sub(c.looked); !c.looked.IsZero() && c.tick > 0 && gap > 4*c.tick {
		c.behind += gap - c.tick
	}
	c.looked = real
	return real.Add(-c.behind)
}

// real is the inverse of now, as long as nothing more is missed.
func (c *clock) real(own time.Time) time.Time { return own.Add(c.behind) }
