package integration

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// What a daemon may use at most while a guest floods it, however much the guest does: serve's flags bound it. Their defaults
// let 128 host calls block at once, each on a thread, and a guest have 4,096 files open, each of which holder and worker may
// have a descriptor of.
const (
	maxThreads = 128 + 40
	maxFDs     = 2*4096 + 2000
	maxRSSKiB  = 256 << 10
)

// floodKind is what a guest does too much of.
type floodKind struct {
	name, does         string
	processes, threads int
	least              int      // times that each thread does it
	allowed            []string // errnos
	uid                int
	join               func(pid int) error // where else its processes belong; nil for nowhere
}

func floodKinds(t testing.TB) []floodKind {
	return []floodKind{
		{name: "threads that open, read and close", does: "open", processes: scaled(t, 20, 2), threads: 500, least: 1, allowed: []string{"ok", "ENFILE", "EAGAIN"}},
		{name: "mkdir and rmdir", does: "mkdir", processes: scaled(t, 20, 2), threads: 50, least: 10, allowed: []string{"ok", "EAGAIN"}},
		{name: "writes of 4 and 64 KiB", does: "write", processes: scaled(t, 20, 2), threads: 50, least: 10, allowed: []string{"EINVAL", "E2BIG"}},
	}
}

// flood is the processes of one.
type flood struct {
	kind    floodKind
	helpers []*helper
}

// floodPlace makes a cgroup in which a flood gets the processors when nobody else wants them, as a guest of little weight:
// thousands of runnable threads would starve everybody with no daemon at all. (A quota would not do: what Linux needs to
// throttle 10,000 threads and to let them go again, period by period, everybody feels.)
func floodPlace(t testing.TB, h *host.Host) (tree *host.Hierarchy, path string) {
	return weighedPlace(t, h, "2", "1")
}

// weighedPlace makes a cgroup of a weight, as v1 and as v2 say it.
func weighedPlace(t testing.TB, h *host.Host, shares, weight string) (tree *host.Hierarchy, path string) {
	t.Helper()
	tree = need(t, h, "cpu")
	path = boundary(t, t.Name()+"-flooders", tree)
	file, value := "cpu.shares", shares
	if tree.Version == hierarchy.V2 {
		file, value = "cpu.weight", weight
	}
	if err := tree.WriteFile(path, file, value); err != nil {
		t.Fatal(err)
	}
	return tree, path
}

// startFlood floods the cgroups f0, f1… of a site, one process each. They begin when all have their threads: what one has yet to
// make, the flood of another would starve.
func startFlood(t testing.TB, kind floodKind, s site, cpu *host.Hierarchy, place string) *flood {
	t.Helper()
	f := &flood{kind: kind}
	for i := range kind.processes {
		name := "f" + strconv.Itoa(i)
		err := s.pids.Create(s.path+"/"+name, 0o755)
		if err == nil && s.pids.Version == hierarchy.V2 {
			err = s.pids.Enable(s.path+"/"+name, "pids")
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=flood %s %d %d %s", roleVariable, kind.does, kind.threads, kind.least, s.at(name)),
			"GOGC=off", "GODEBUG=asyncpreemptoff=1")
		cmd.Stderr = os.Stderr
		if kind.uid != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(kind.uid), Gid: uint32(kind.uid)}}
		}
		f.helpers = append(f.helpers, startProcess(t, cmd))
	}
	for _, h := range f.helpers {
		if got := f.line(t, h); got != "ready\n" {
			t.Fatalf("a process of the flood says %q", got)
		}
		err := cpu.Attach(place, h.pid())
		if err == nil && kind.join != nil {
			err = kind.join(h.pid())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range f.helpers {
		fmt.Fprintln(h.in)
	}
	return f
}

// begun waits until every process says that it floods, or what it holds.
func (f *flood) begun(t testing.TB) (lines []string) {
	t.Helper()
	for _, h := range f.helpers {
		lines = append(lines, f.line(t, h))
	}
	return lines
}

// end ends the flood and says how often each errno came.
func (f *flood) end(t testing.TB) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, h := range f.helpers {
		h.in.Close()
	}
	for _, h := range f.helpers {
		addCounts(got, f.line(t, h))
		h.cmd.Wait()
	}
	for name := range got {
		if !slices.Contains(f.kind.allowed, name) {
			t.Errorf("%s: %d times %s", f.kind.name, got[name], name)
		}
	}
	return got
}

func addCounts(to map[string]int, line string) {
	words := strings.Fields(line)
	for i := 0; i+1 < len(words); i += 2 {
		var n int
		fmt.Sscan(words[i+1], &n)
		to[words[i]] += n
	}
}

// line reads a line of a process of the flood, which is slow: thousands of threads share half a processor.
func (f *flood) line(t testing.TB, h *helper) string {
	t.Helper()
	read := make(chan string, 1)
	go func() {
		s, _ := h.out.ReadString('\n')
		read <- s
	}()
	select {
	case s := <-read:
		return s
	case <-time.After(6 * patience):
		t.Fatalf("%s: the process %d says nothing: it hangs", f.kind.name, h.pid())
		return ""
	}
}

// neighbour opens, reads and closes a file for a while, on a thread of its own, and says how long each time took.
func neighbour(t testing.TB, s site, wait time.Duration) []time.Duration {
	t.Helper()
	var took []time.Duration
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		path := s.at("pids.current")
		for end := time.Now().Add(wait); ; {
			began := time.Now()
			if began.After(end) {
				done <- nil
				return
			}
			if _, err := slurp(path); err != nil {
				done <- err
				return
			}
			took = append(took, time.Since(began))
			time.Sleep(200 * time.Microsecond) // it is no flood
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the neighbour got %v", err)
		}
	case <-time.After(wait + patience):
		t.Fatal("the neighbour hangs")
	}
	slices.Sort(took)
	return took
}

// quantile is one of sorted times.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// usage is what processes use together.
type usage struct{ rssKiB, pssKiB, threads, fds int }

// usageOf adds up what processes use. One that has ended adds nothing.
func usageOf(pids ...int) (u usage) {
	for _, pid := range pids {
		for line := range strings.Lines(readFile(fmt.Sprintf("/proc/%d/status", pid))) {
			var n int
			if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &n); err == nil {
				u.rssKiB += n
			} else if _, err := fmt.Sscanf(line, "Threads: %d", &n); err == nil {
				u.threads += n
			}
		}
		for line := range strings.Lines(readFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))) {
			var n int
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &n); err == nil {
				u.pssKiB += n
			}
		}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		u.fds += len(fds)
	}
	return u
}

// used is what the daemon uses now.
func (d *daemon) used() usage {
	pids := []int{d.cmd.Process.Pid}
	for _, p := range children(d.cmd.Process.Pid) {
		pids = append(pids, int(p))
	}
	return usageOf(pids...)
}

// watchUsage looks at the daemon again and again until stop is called, which says the most that it used.
func watchUsage(d *daemon) (stop func() usage) {
	var most usage
	var wg sync.WaitGroup
	end := make(chan struct{})
	wg.Go(func() {
		for {
			u := d.used()
			most = usage{max(most.rssKiB, u.rssKiB), max(most.pssKiB, u.pssKiB), max(most.threads, u.threads), max(most.fds, u.fds)}
			select {
			case <-end:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	return func() usage { close(end); wg.Wait(); return most }
}

// wantBounded fails the test where the daemon used more than its configuration allows.
func wantBounded(t testing.TB, u usage, during string) {
	t.Helper()
	if u.threads > maxThreads || u.rssKiB > maxRSSKiB || u.fds > maxFDs {
		t.Errorf("%s: the daemon had %d threads, %d KiB and %d descriptors; at most %d, %d and %d are allowed",
			during, u.threads, u.rssKiB, u.fds, maxThreads, maxRSSKiB, maxFDs)
	}
	t.Logf("%s: at most %d threads, %d KiB, %d descriptors", during, u.threads, u.rssKiB, u.fds)
}

// TestFlood: one guest does too much of everything; the other goes on, and the daemon stays bounded.
func TestFlood(t *testing.T) {
	h := openHost(t)
	cpu, place := floodPlace(t, h)
	bad, good := newSite(t, h, "flood-bad"), newSite(t, h, "flood-good")
	d := startDaemon(t)
	bad, good = d.add(t, "bad", bad), d.add(t, "good", good)
	for _, kind := range floodKinds(t) {
		most := watchUsage(d)
		f := startFlood(t, kind, bad, cpu, place)
		f.begun(t)
		took := neighbour(t, good, 2*time.Second)
		got := f.end(t)
		wantBounded(t, most(), kind.name)
		t.Logf("%s: %v; the neighbour: p50 %v, p99 %v of %d", kind.name, got, quantile(took, .5), quantile(took, .99), len(took))
		wantOne(t, bad, good)
	}
	d.stop(t)
}

// wantOne opens a file in each site.
func wantOne(t testing.TB, sites ...site) {
	t.Helper()
	for _, s := range sites {
		if got := readFile(s.at("pids.current")); got != "0\n" {
			t.Errorf("%s/pids.current is %q", s.path, got)
		}
	}
}

// TestHeldDescriptors: a guest that keeps opening gets ENFILE at last, and no other guest does; when it closes, it can open
// again.
func TestHeldDescriptors(t *testing.T) {
	h := openHost(t)
	cpu, place := floodPlace(t, h)
	bad, good := newSite(t, h, "held-bad"), newSite(t, h, "held-good")
	d := startDaemon(t)
	bad, good = d.add(t, "bad", bad), d.add(t, "good", good)
	before := d.used()
	most := watchUsage(d)
	f := startFlood(t, floodKind{name: "held descriptors", does: "hold", processes: 4, threads: 4}, bad, cpu, place)
	got := map[string]int{}
	for _, line := range f.begun(t) {
		addCounts(got, line)
	}
	if got["ENFILE"] != 16 || len(got) != 2 {
		t.Errorf("opening without end: %v, want 16 threads that got ENFILE at last", got)
	}
	if err := withFile(filepath.Join(bad.dir, "f0/pids.max"), unix.O_RDWR, writeFD("5")); err != unix.ENFILE {
		t.Errorf("one more: %v", err)
	}
	wantOne(t, good)
	for _, helper := range f.helpers {
		helper.in.Close()
		helper.cmd.Wait()
	}
	wantBounded(t, most(), "held descriptors")
	t.Logf("%d held", got["ok"])
	eventually(t, "the daemon to close what nobody holds", func() bool { return d.used().fds <= before.fds+16 })
	if err := withFile(filepath.Join(bad.dir, "f0/pids.max"), unix.O_RDWR, writeFD("5")); err != nil {
		t.Errorf("after the others were closed: %v", err)
	}
	d.stop(t)
}
