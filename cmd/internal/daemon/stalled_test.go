package daemon

import (
	"testing"
	"time"
)

// TestStall: a guest is stalled from the scrape that finds it waiting, for as long as nothing of it is answered.
func TestStall(t *testing.T) {
	var s stall
	begin := time.Now()
	for i, step := range []struct {
		after    time.Duration
		waiting  bool
		answered uint64
		want     time.Duration
	}{
		{0, false, 7, 0},
		{time.Second, true, 7, 0},
		{16 * time.Second, true, 7, 15 * time.Second},
		{31 * time.Second, true, 7, 30 * time.Second},
		{46 * time.Second, true, 8, 0}, // busy
		{61 * time.Second, true, 8, 15 * time.Second},
		{76 * time.Second, false, 8, 0},
		{91 * time.Second, true, 8, 0},
	} {
		if got := s.look(step.waiting, step.answered, begin.Add(step.after)); got != step.want {
			t.Errorf("step %d: stalled for %v, want %v", i, got, step.want)
		}
	}
}
