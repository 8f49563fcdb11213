package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// A guest, or somebody who looks at its view, does its worst: with a quota of a tenth of a processor, for five minutes in all
// under `make bench` and for some seconds in the tests. What it costs the neighbour and the daemon is printed as ratios.

// worstKinds are the ways. Each has few threads: what thousands of them cost is TestFlood's.
func worstKinds() []floodKind {
	of := func(name, does string, allowed ...string) floodKind {
		return floodKind{name: name, does: does, processes: 2, threads: 4, least: 1, allowed: append(allowed, "ok", "EAGAIN")}
	}
	return []floodKind{
		of("mkdir and rmdir", "mkdir"), of("attributes", "attributes", "ENOSPC"), of("times and owners", "times", "ENOSPC"),
		of("names that are not there", "names", "ENOENT"), of("listing", "list"), of("opens that are refused", "refused", "EPERM"),
	}
}

// tenth makes a cgroup that has a tenth of a processor.
func tenth(t testing.TB, h *host.Host) (tree *host.Hierarchy, path string) {
	t.Helper()
	tree = need(t, h, "cpu")
	path = boundary(t, t.Name()+"-tenth", tree)
	files := [][2]string{{"cpu.cfs_period_us", "100000"}, {"cpu.cfs_quota_us", "10000"}}
	if tree.Version == hierarchy.V2 {
		files = [][2]string{{"cpu.max", "10000 100000"}}
	}
	for _, f := range files {
		if err := tree.WriteFile(path, f[0], f[1]); err != nil {
			t.Fatal(err)
		}
	}
	return tree, path
}

// processorTime is what processes have had of the processors.
func processorTime(pids ...int) (sum time.Duration) {
	const tick = 10 * time.Millisecond // USER_HZ
	for _, pid := range pids {
		text := readFile(fmt.Sprintf("/proc/%d/stat", pid))
		var user, system int64
		fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
		if len(fields) > 12 {
			fmt.Sscan(fields[11], &user)
			fmt.Sscan(fields[12], &system)
		}
		sum += time.Duration(user+system) * tick
	}
	return sum
}

// worst is what one way cost.
type worst struct {
	kind          string
	did           map[string]int
	quiet, during time.Duration // p99 of the neighbour
	guest, server time.Duration // of the processors
	kernel        int64         // memory charged to the daemon, more than before
}

// doWorst has a guest do its worst in one way for a while.
func doWorst(t testing.TB, d *daemon, kind floodKind, bad, good site, pay account, cpu *host.Hierarchy, at string, wait time.Duration) worst {
	t.Helper()
	w := worst{kind: kind.name}
	worker, fd := d.worker(t)
	defer unix.Close(fd)
	w.quiet = quantile(neighbour(t, good, wait/2), .99)
	before := pay.settled(t)
	f := startFlood(t, kind, bad, cpu, at)
	f.begun(t)
	var pids []int
	for _, h := range f.helpers {
		pids = append(pids, h.pid())
	}
	guest, server := processorTime(pids...), processorTime(worker)
	w.during = quantile(neighbour(t, good, wait), .99)
	w.guest, w.server = processorTime(pids...)-guest, processorTime(worker)-server
	w.did = f.end(t)
	w.kernel = pay.least(t, before)
	return w
}

// doAllWorst has a guest do its worst in every way, for a while each, and says what that cost.
func doAllWorst(t testing.TB, wait time.Duration) (all []worst) {
	t.Helper()
	h := openHost(t)
	cpu, at := tenth(t, h)
	d := startDaemon(t)
	pay := accountFor(t, h, d)
	bad, good := d.add(t, "bad", newSite(t, h, "worst-bad")), d.add(t, "good", newSite(t, h, "worst-good"))
	for i, kind := range worstKinds() {
		place := filepath.Join(bad.path, "k"+itoa(i))
		if err := os.Mkdir(bad.at("k"+itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
		if bad.pids.Version == hierarchy.V2 {
			for _, of := range []string{bad.path, place} {
				if err := bad.pids.Enable(of, "pids"); err != nil {
					t.Fatal(err)
				}
			}
		}
		within := bad
		within.path, within.dir = place, bad.at("k"+itoa(i))
		all = append(all, doWorst(t, d, kind, within, good, pay, cpu, at, wait))
	}
	var out bytes.Buffer
	tab := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "a guest with a tenth of a processor\tneighbour's p99: quiet\tduring\tratio\tprocessor: guest\tdaemon\tratio\tkernel memory\tanswers")
	for _, w := range all {
		fmt.Fprintf(tab, "%s\t%v\t%v\t%.2f\t%v\t%v\t%.2f\t%d KiB\t%v\n", w.kind, w.quiet, w.during, float64(w.during)/float64(w.quiet),
			w.guest, w.server, w.server.Seconds()/max(w.guest.Seconds(), 0.01), w.kernel>>10, w.did)
	}
	tab.Flush()
	t.Logf("for %v each:\n%s", wait, out.String())
	d.stop(t)
	return all
}

// TestWorst: what a guest does costs the daemon no more of the kernel's memory than is allowed, and no more of a processor than
// its share and what the guest itself was charged.
func TestWorst(t *testing.T) {
	for _, w := range doAllWorst(t, 2*time.Second) {
		if w.kernel > maxKernelMemory {
			t.Errorf("%s: the daemon pays for %d bytes more of the kernel's memory, at most %d are allowed", w.kind, w.kernel, maxKernelMemory)
		}
	}
}

// BenchmarkWorst is TestWorst for five minutes.
func BenchmarkWorst(b *testing.B) {
	doAllWorst(b, 5*time.Minute/time.Duration(len(worstKinds())))
}
