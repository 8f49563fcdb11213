package conn

import (
	"testing"
	"time"
)

// TestBeside: requests that run beside each other in bursts, as those of a guest with a tenth of a processor, soon count
// as a flood from their begin; short ones never do, and a rest makes all new.
func TestBeside(t *testing.T) {
	now := time.Now()
	var b beside
	// bursts returns what is counted at the begin of the last of ten.
	bursts := func(long time.Duration) (counted time.Duration) {
		for range 10 {
			b.begin(now)
			counted = b.time(now)
			now = now.Add(long)
			b.end(now)
			now = now.Add(100*time.Millisecond - long)
		}
		return counted
	}
	if got := bursts(2 * time.Millisecond); got >= floodAfter {
		t.Errorf("bursts of 2 ms in 100 ms count %v", got)
	}
	if got := bursts(10 * time.Millisecond); got < floodAfter || got > besideMost {
		t.Errorf("bursts of 10 ms in 100 ms count %v", got)
	}
	now = now.Add(time.Second)
	b.begin(now)
	if got := b.time(now); got != 0 {
		t.Errorf("after a rest %v are counted", got)
	}
}
