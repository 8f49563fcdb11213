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

// TestClockWait: a pause in a long wait counts as one tick, and what was before it as what is now.
func TestClockWait(t *testing.T) {
	began := time.Unix(1e9, 0)
	c := clock{tick: time.Second}
	c.now(began)
	c.wait = 6 * time.Second
	now := c.now(began.Add(20 * time.Second))
	if want := began.Add(time.Second); !now.Equal(want) {
		t.Errorf("after the pause it is %v, want %v", now, want)
	}
	if got := c.own(began.Add(time.Second)); !got.Equal(now) {
		t.Errorf("what was before the pause was at %v, want %v", got, now)
	}
	if got, want := c.own(began.Add(21*time.Second)), now.Add(time.Second); !got.Equal(want) {
		t.Errorf("a second later it is %v, want %v", got, want)
	}
}
