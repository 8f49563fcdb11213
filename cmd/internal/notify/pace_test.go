package notify

import (
	"testing"
	"time"
)

// TestPace: so many calls come at once, then as many in a second as the rate says, and after a rest so many at once again.
func TestPace(t *testing.T) {
	var p Pace
	now := time.Now()
	for i := range callsAtOnce {
		if wait := p.Next(now); wait != 0 {
			t.Fatalf("call %d of those that may come at once waits %v", i, wait)
		}
	}
	began := now
	const calls = 3 * callsPerSecond
	for range calls {
		now = now.Add(p.Next(now))
	}
	if took := now.Sub(began); took < 2900*time.Millisecond || took > 3100*time.Millisecond {
		t.Errorf("%d calls more took %v, want 3 s", calls, took)
	}
	now = now.Add(callsAtOnce / callsPerSecond * time.Second)
	for i := range callsAtOnce - 1 {
		if wait := p.Next(now); wait != 0 {
			t.Fatalf("after a rest call %d waits %v", i, wait)
		}
	}
}
