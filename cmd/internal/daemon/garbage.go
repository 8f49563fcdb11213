package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// garbage bounds the memory lost to garbage: 15 percent of the memory in use, and 2 MiB for the leavings of requests.
// Guests need little memory, and little of it changes hands. If each MiB of a small heap starts a collection, a guest
// that keeps making cgroups causes one collection after another, and its neighbours feel it (BenchmarkFlood: a p99 of
// 2.1 instead of 1.3 times the quiet one).
type garbage struct{ percent int }

const (
	garbageBytes      = 2 << 20
	minGarbagePercent = 15
	maxGarbagePercent = 100
)

// follow adapts the bound to the memory in use after each collection.
func (g *garbage) follow() {
	g.tune()
	// Unreachable from here on, so the next collection frees it.
	runtime.AddCleanup(&garbage{}, (*garbage).follow, g)
}

// tune adapts the bound to the memory in use. A change waits for a collection under way, so tune skips small ones.
func (g *garbage) tune() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	percent := maxGarbagePercent
	if bytes := live[0].Value.Uint64(); bytes > 0 {
		percent = int(min(maxGarbagePercent, minGarbagePercent+100*garbageBytes/bytes))
	}
	if d := percent - g.percent; d >= 5 || d <= -5 {
		g.percent = percent
		debug.SetGCPercent(percent)
	}
}
