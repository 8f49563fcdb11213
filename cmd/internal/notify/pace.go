package notify

import "time"

// No cgroup of the guest pays for what its calls take here: 16 threads of a guest with a tenth of a processor, which do nothing else
// than statfs, kept this process at half of one. So the calls of a listener have a rate, above which they wait.
const (
	callsPerSecond = 2000
	callsAtOnce    = 10_000 // that come after a rest
)

// Pace counts the calls of one listener. The zero value has had its rest.
type Pace struct {
	used float64   // of callsAtOnce
	at   time.Time // when that was so
}

// Next counts a call, and says how long the one after it is to wait.
func (p *Pace) Next(now time.Time) time.Duration {
	p.used = max(0, p.used-now.Sub(p.at).Seconds()*callsPerSecond) + 1
	p.at = now
	return time.Duration(max(0, p.used-callsAtOnce) / callsPerSecond * float64(time.Second))
}
