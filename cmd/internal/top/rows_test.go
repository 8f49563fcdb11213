package top

import (
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// none are the figures of a guest of which nothing is known.
var none = api.Figures{CPUUsec: -1, MemoryBytes: -1, MemoryLimit: -1, Pids: -1, PidsLimit: -1, Cgroups: -1}

// TestRates: rates are between two answers; counters that began anew have none.
func TestRates(t *testing.T) {
	before := []api.Usage{
		{Name: "on", Figures: api.Figures{CPUUsec: 100}, Requests: 100},
		{Name: "anew", Figures: api.Figures{CPUUsec: 100}, Requests: 100},
		{Name: "unknown", Figures: none},
	}
	now := []api.Usage{
		{Name: "on", Figures: api.Figures{CPUUsec: 500_100}, Requests: 150},
		{Name: "anew", Figures: api.Figures{CPUUsec: 50}, Requests: 7},
		{Name: "unknown", Figures: none},
		{Name: "added"},
	}
	want := map[string][2]float64{"on": {25, 25}, "anew": {-1, 0}, "unknown": {-1, 0}, "added": {-1, 0}}
	for _, r := range rowsOf(before, now, 2*time.Second) {
		if got := [2]float64{r.CPUPercent, r.RequestsPerSecond}; got != want[r.Name] {
			t.Errorf("%s: %v, want %v", r.Name, got, want[r.Name])
		}
	}
}

// TestLevels: which figures stand out.
func TestLevels(t *testing.T) {
	of := func(change func(r *Row)) Row {
		r := Row{Usage: api.Usage{Name: "g", Figures: none}, CPUPercent: -1}
		change(&r)
		return r
	}
	for _, c := range []struct {
		column string
		r      Row
		want   level
	}{
		{"CPU%", of(func(r *Row) {}), plain},
		{"CPU%", of(func(r *Row) { r.CPUPercent = 50 }), high},
		{"CPU%", of(func(r *Row) { r.CPUPercent = 400 }), full},
		{"MEMORY", of(func(r *Row) { r.MemoryBytes = 1 << 40 }), plain},
		{"MEMORY", of(func(r *Row) { r.MemoryBytes, r.MemoryLimit = 74, 100 }), plain},
		{"MEMORY", of(func(r *Row) { r.MemoryBytes, r.MemoryLimit = 75, 100 }), high},
		{"TASKS", of(func(r *Row) { r.Pids, r.PidsLimit = 9, 10 }), full},
		{"TASKS", of(func(r *Row) { r.Pids, r.PidsLimit = 0, 0 }), plain},
		{"DENIED", of(func(r *Row) {}), plain},
		{"DENIED", of(func(r *Row) { r.Denials = 1 << 40 }), high},
		{"STATE", of(func(r *Row) { r.Frozen = true }), frozen},
	} {
		for _, column := range columns {
			if column.title == c.column && column.level(c.r) != c.want {
				t.Errorf("%s of %+v: %v, want %v", c.column, c.r, column.level(c.r), c.want)
			}
		}
	}
}

// TestPrint: the whole table; a name that would move the cursor is quoted.
func TestPrint(t *testing.T) {
	var b strings.Builder
	if err := Print(&b, []Row{
		{Usage: api.Usage{Name: "web", Figures: api.Figures{MemoryBytes: 1536, MemoryLimit: 1 << 20, Pids: 3, PidsLimit: 64, Cgroups: 2}, Denials: 7}, CPUPercent: 12.34, RequestsPerSecond: 5},
		{Usage: api.Usage{Name: "a\x1b[2J\u009b1m", Figures: none}, CPUPercent: -1},
	}); err != nil {
		t.Fatal(err)
	}
	const want = `  CPU%   MEMORY  TASKS  CGROUPS  REQ/S  DENIED  STATE  NAME
  12.3  1.5K/1M   3/64        2    5.0       7      -  web
     -        -      -        -    0.0       0      -  a\x1b[2J\u009b1m
`
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
}
