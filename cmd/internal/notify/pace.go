package notify

import "time"

// The guest's cgroups do not pay for the cost of its calls here: 16 threads of a guest with a tenth of a processor,
// calling nothing but statfs, used half a processor of this process. So the calls of a listener have a rate, and wait
// above it.
const (
	callsPerSecond = 2000
	callsAtOnce    = 10_000 // burst after a rest
)

// Pace counts the calls of one listener. The zero value is rested.
type Pace struct {
	used float64   // of callsAtOnce
	at   time.Time // time of that value
}

// Next counts a call, and returns the wait before the next one.
func (p *Pace) Next(now time.Time) time.Duration { return p.next(now, 1) }

// openCost is the share of a call that an open costs if it is passed on for its path: some 10 µs of a processor, where
// a call that is answered takes 200 to 400.
const openCost = 1. / 20

// next counts calls, or a share of one.
func (p *Pace) next(now time.Time, calls float64) time.Duration {
	p.used = max(0, p.used-now.Sub(p.at).Seconds()*callsPerSecond) + calls
	p.at = now
	return time.Duration(max(0, p.used-callsAtOnce) / callsPerSecond * float64(time.Second))
}
