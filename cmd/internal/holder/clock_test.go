package holder

import (
	"testing"
	"time"
)

// TestClock: a time in which the holder did not look counts as one tick, and deadlines move with it.
func TestClock(t *testing.T) {
	began := time.Unix(1e9, 0)
	c := clock{tick: time.Second}
	for _, x := range []struct{ real, own time.Duration }{
		{0, 0}, {1, 1}, {2, 2}, {6, 6}, {16, 7}, {17, 8}, {21, 12}, {26, 13},
	} {
		own := c.now(began.Add(x.real * time.Second))
		if want := began.Add(x.own * time.Second); !own.Equal(want) {
			t.Errorf("after %d s it is %v, want %v", x.real, own.Sub(began), want.Sub(began))
		}
		if back := c.real(own); !back.Equal(began.Add(x.real * time.Second)) {
			t.Errorf("after %d s the real time is %v", x.real, back.Sub(began))
		}
	}
}
