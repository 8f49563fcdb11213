package integration

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// What a daemon may use at most while a guest floods it, however much the guest does: serve's flags bound it. Their defaults
// let 128 host calls block at once, each on a thread, and a guest have 4,096 files open, each of which holder and worker may
// have a descriptor of.
const (
	maxThreads = 128 + 40
	maxFDs     = 2*4096 + 2000
	maxRSSKiB  = 256 << 10
)

// watchUsage looks at the daemon again and again until stop is called, which says the most that it used.
func watchUsage(d *kit.Daemon) (stop func() kit.Usage) {
	var most kit.Usage
	var wg sync.WaitGroup
	end := make(chan struct{})
	wg.Go(func() {
		for {
			u := d.Usage()
			most = kit.Usage{RSSKiB: max(most.RSSKiB, u.RSSKiB), PSSKiB: max(most.PSSKiB, u.PSSKiB), Threads: max(most.Threads, u.Threads), FDs: max(most.FDs, u.FDs)}
			select {
			case <-end:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	return func() kit.Usage { close(end); wg.Wait(); return most }
}

// wantBounded fails the test where the daemon used more than its configuration allows.
func wantBounded(t testing.TB, u kit.Usage, during string) {
	t.Helper()
	if u.Threads > maxThreads || u.RSSKiB > maxRSSKiB || u.FDs > maxFDs {
		t.Errorf("%s: the daemon had %d threads, %d KiB and %d descriptors; at most %d, %d and %d are allowed",
			during, u.Threads, u.RSSKiB, u.FDs, maxThreads, maxRSSKiB, maxFDs)
	}
	t.Logf("%s: at most %d threads, %d KiB, %d descriptors", during, u.Threads, u.RSSKiB, u.FDs)
}

// TestFlood: one guest does too much of everything; the other goes on, and the daemon stays bounded.
func TestFlood(t *testing.T) {
	h := kit.OpenHost(t)
	cpu, place := kit.FloodPlace(t, h)
	bad, good := kit.NewSite(t, h, "flood-bad"), kit.NewSite(t, h, "flood-good")
	d := kit.StartDaemon(t)
	bad, good = d.Add(t, "bad", bad), d.Add(t, "good", good)
	for _, kind := range kit.FloodKinds(t) {
		most := watchUsage(d)
		f := kit.StartFlood(t, kind, bad, cpu, place)
		f.Begun(t)
		took := kit.TimeNeighbour(t, good, 2*time.Second)
		got := f.End(t)
		wantBounded(t, most(), kind.Name)
		t.Logf("%s: %v; the neighbour: p50 %v, p99 %v of %d", kind.Name, got, kit.Quantile(took, .5), kit.Quantile(took, .99), len(took))
		wantOne(t, bad, good)
	}
	d.Stop(t)
}

// WantOne opens a file in each site.
func wantOne(t testing.TB, sites ...kit.Site) {
	t.Helper()
	for _, s := range sites {
		if got := kit.ReadFile(s.At("pids.current")); got != "0\n" {
			t.Errorf("%s/pids.current is %q", s.Path, got)
		}
	}
}

// TestHeldDescriptors: a guest that keeps opening gets ENFILE at last, and no other guest does; when it closes, it can open
// again.
func TestHeldDescriptors(t *testing.T) {
	h := kit.OpenHost(t)
	cpu, place := kit.FloodPlace(t, h)
	bad, good := kit.NewSite(t, h, "held-bad"), kit.NewSite(t, h, "held-good")
	d := kit.StartDaemon(t)
	bad, good = d.Add(t, "bad", bad), d.Add(t, "good", good)
	before := d.Usage()
	most := watchUsage(d)
	f := kit.StartFlood(t, kit.FloodKind{Name: "held descriptors", Does: "hold", Processes: 4, Threads: 4}, bad, cpu, place)
	got := map[string]int{}
	for _, line := range f.Begun(t) {
		kit.AddCounts(got, line)
	}
	if got["ENFILE"] != 16 || len(got) != 2 {
		t.Errorf("opening without end: %v, want 16 threads that got ENFILE at last", got)
	}
	if err := kit.WithFile(filepath.Join(bad.Dir, "f0/pids.max"), unix.O_RDWR, kit.WriteFD("5")); err != unix.ENFILE {
		t.Errorf("one more: %v", err)
	}
	wantOne(t, good)
	for _, helper := range f.Helpers {
		helper.In.Close()
		helper.Cmd.Wait()
	}
	wantBounded(t, most(), "held descriptors")
	t.Logf("%d held", got["ok"])
	kit.Eventually(t, "the daemon to close what nobody holds", func() bool { return d.Usage().FDs <= before.FDs+16 })
	if err := kit.WithFile(filepath.Join(bad.Dir, "f0/pids.max"), unix.O_RDWR, kit.WriteFD("5")); err != nil {
		t.Errorf("after the others were closed: %v", err)
	}
	d.Stop(t)
}
