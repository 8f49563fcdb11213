//go:build soak

package integration

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestSoak has guests work, come, go and flood for a long time, and the worker be killed and upgraded now and then. What the
// daemon uses must not grow. VCGROUPFS_SOAK is how long (20m), VCGROUPFS_SOAK_TSV a file for what was sampled (soak.tsv).
//
// The time has eight rounds: at the beginning of each the worker is replaced some times, then one worker serves to its end,
// so that what a worker leaks shows too; in the middle of each a guest floods.
func TestSoak(t *testing.T) {
	length := 20 * time.Minute
	if text := os.Getenv("VCGROUPFS_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil || length < 2*time.Minute {
			t.Fatalf("VCGROUPFS_SOAK is %q; it must be a duration of at least 2m: in less, each new worker is still opening what it keeps open", text)
		}
	}
	h := kit.OpenHost(t)
	cpu, place := kit.WeighedPlace(t, h, "8192", "800") // the loads never sleep: what has little weight would get nothing
	var sites []kit.Site
	for i := range kit.Scaled(t, 6, 2) {
		sites = append(sites, kit.NewSite(t, h, fmt.Sprintf("soak-%d", i)))
	}
	bad, passing := kit.NewSite(t, h, "soak-bad"), kit.NewSite(t, h, "soak-passing")
	d := kit.StartDaemon(t)
	loads := d.StartLoads(t, sites)
	bad = d.Add(t, "bad", bad)
	var ended atomic.Bool
	var wg sync.WaitGroup
	finish := func() { ended.Store(true); wg.Wait() }
	target := kit.PublicDir(t)
	t.Cleanup(func() { d.Stop(t) }) // before the directory goes
	t.Cleanup(finish)               // also when the test ends early
	passed, record := 0, newRecord(t)
	wg.Go(func() { passed = comeAndGo(t, d, passing, target, &ended) })
	wg.Go(func() { record.sample(d, length, &ended) })

	const rounds = 8
	kinds := kit.FloodKinds(t)
	for i := range kinds {
		kinds[i].Processes, kinds[i].Threads = 4, 100
	}
	for i := range rounds {
		end := time.Now().Add(length / rounds)
		replaceSome(t, d)
		time.Sleep(time.Until(end.Add(-length / rounds / 2)))
		kind := kinds[i%len(kinds)]
		f := kit.StartFlood(t, kind, bad, cpu, place)
		f.Begun(t)
		time.Sleep(length / rounds / 8)
		f.End(t)
		time.Sleep(time.Until(end))
		if t.Failed() {
			break
		}
	}
	finish()
	t.Logf("%d guests came and went, %d restarts", passed, d.Ready(t).Restarts)
	kit.JudgeLoads(t, loads...)
	if t.Failed() {
		return
	}
	for _, l := range loads {
		kit.WantSame(t, l.Site)
	}
	record.wantFlat(t)
	d.Stop(t)
}

// replaceSome kills the worker some times and upgrades it once.
func replaceSome(t *testing.T, d *kit.Daemon) {
	for last, killed := 0, 0; killed < 5; time.Sleep(200 * time.Millisecond) {
		if pid := d.Signal(t, unix.SIGKILL, last); pid != 0 {
			last = pid
			killed++
		}
	}
	d.Ready(t)
	d.Run(t, "serve", "--upgrade")
}

// comeAndGo adds a guest, uses it and removes it, again and again.
func comeAndGo(t *testing.T, d *kit.Daemon, s kit.Site, dir string, ended *atomic.Bool) (n int) {
	s = s.Through(dir)
	spec := kit.GuestSpec{Boundary: s.Path, Target: dir, Controllers: []string{"pids", "unified"}}
	for ; !ended.Load() && !t.Failed(); time.Sleep(20 * time.Millisecond) {
		insist(t, func() error { return d.Call("PUT", "/v1/guests/passing", spec, nil) })
		if _, err := kit.Slurp(s.At("pids.current")); err != nil {
			t.Errorf("a guest that has come: %v", err)
		}
		if got := kit.Mkdir(s.At("a"), 0o755); got[:4] != "mode" {
			t.Errorf("mkdir of a guest that has come: %s", got)
		}
		if got := kit.Rmdir(s.At("a")); got != "ok" {
			t.Errorf("rmdir of a guest that has come: %s", got)
		}
		insist(t, func() error { return d.Call("DELETE", "/v1/guests/passing", nil, nil) })
		n++
	}
	return n
}

// insist makes a request of the API again when the worker died over it: PUT and DELETE may be said twice, and a guest that
// the second DELETE does not find is one that the first has removed.
func insist(t *testing.T, request func() error) {
	err := request()
	for deadline := time.Now().Add(kit.Patience); err != nil && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
		if err = request(); err != nil && strings.Contains(err.Error(), "not-found") {
			return
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// record is what was sampled: of the holder and of the worker.
type record struct {
	holder, worker []kit.Usage
	file           *os.File
	out            *bufio.Writer
}

func newRecord(t *testing.T) *record {
	name := os.Getenv("VCGROUPFS_SOAK_TSV")
	if name == "" {
		name = "soak.tsv"
	}
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	r := &record{file: file, out: bufio.NewWriter(file)}
	fmt.Fprintln(r.out, "seconds\tholder KiB\tholder threads\tholder descriptors\tworker KiB\tworker threads\tworker descriptors")
	return r
}

// sample samples every ten seconds, oftener in a short soak.
func (r *record) sample(d *kit.Daemon, length time.Duration, ended *atomic.Bool) {
	defer r.out.Flush()
	began := time.Now()
	for tick := time.NewTicker(min(10*time.Second, length/100)); !ended.Load(); <-tick.C {
		info, err := d.Info()
		if err != nil {
			continue // between two workers
		}
		holder, worker := kit.UsageOf(info.Holder), kit.UsageOf(info.Pid)
		if worker.RSSKiB == 0 {
			continue // it has ended meanwhile
		}
		r.holder, r.worker = append(r.holder, holder), append(r.worker, worker)
		fmt.Fprintf(r.out, "%.0f\t%d\t%d\t%d\t%d\t%d\t%d\n", time.Since(began).Seconds(),
			holder.RSSKiB, holder.Threads, holder.FDs, worker.RSSKiB, worker.Threads, worker.FDs)
	}
}

// wantFlat compares the last quarter with the second one: the first is for warming up.
func (r *record) wantFlat(t *testing.T) {
	for _, process := range []struct {
		name    string
		samples []kit.Usage
	}{{"holder", r.holder}, {"worker", r.worker}} {
		n := len(process.samples)
		if n < 20 {
			t.Fatalf("only %d samples", n)
		}
		for _, figure := range []struct {
			name string
			of   func(u kit.Usage) int
			room int
		}{
			{"KiB", func(u kit.Usage) int { return u.RSSKiB }, 4096},
			{"threads", func(u kit.Usage) int { return u.Threads }, 8},
			{"descriptors", func(u kit.Usage) int { return u.FDs }, 64},
		} {
			second, last := medianOf(process.samples[n/4:n/2], figure.of), medianOf(process.samples[3*n/4:], figure.of)
			t.Logf("%s: %d %s in the second quarter, %d in the last", process.name, second, figure.name, last)
			if last > second+second/10+figure.room {
				t.Errorf("%s: %s grow", process.name, figure.name)
			}
		}
	}
}

func medianOf(samples []kit.Usage, of func(u kit.Usage) int) int {
	var values []int
	for _, u := range samples {
		values = append(values, of(u))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
