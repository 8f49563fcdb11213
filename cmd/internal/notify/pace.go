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
func (p *Pace) Next(now time.Time) time.Duration {
	p.used = max(0, p.used-now.Sub(p.at).Seconds()*callsPerSecond) + 1
	p.at = now
	return time.Duration(max(0, p.used-callsAtOnce) / callsPerSecond * float64(time.Second))
}
