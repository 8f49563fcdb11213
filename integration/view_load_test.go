package integration

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// A load works on one boundary with eight threads, each with operations of one kind, and checks everything that it is
// answered: against what it knows, for nobody else writes there, and against the host's own files. It runs natively too,
// with the boundary's real directory in place of a view, and must find nothing wrong there.

// loadEntries is how many cgroups the directory has that is listed all the time.
const loadEntries = 200

// patience is how long a thread may take to end, and a daemon: what takes longer hangs. An event that takes longer than
// eventPatience to arrive is lost: an emulated machine whose workers are killed all the time needed 9.8 s for one.
const (
	patience      = 60 * time.Second
	eventPatience = 30 * time.Second
)

// errAborted is the one failure that a host without FUSE_NOTIFY_RESEND is allowed: the request was in the worker's hands
// when it died, and whether it was done must be looked up.
var errAborted = errors.New("aborted")

// site is a boundary in the pids hierarchy and in the v2 one, which may be the same, and how it is reached.
type site struct {
	path           string          // of the boundary, from the root of each hierarchy
	pids, unified  *host.Hierarchy // v1 has no file whose changes are told, so the second is there for the events
	dir, eventsDir string          // the boundary as it is reached: natively or through a view
}

// newSite makes a boundary that is reached natively.
func newSite(t testing.TB, h *host.Host, name string) site {
	t.Helper()
	s := site{pids: need(t, h, "pids"), unified: need(t, h, hierarchy.Unified)}
	trees := []*host.Hierarchy{s.pids}
	if s.unified != s.pids {
		trees = append(trees, s.unified)
	}
	s.path = boundary(t, name, trees...)
	s.dir, s.eventsDir = hostDir(s.pids, s.path), hostDir(s.unified, s.path)
	return s
}

// siteControllers is what a view of a site must show.
const siteControllers = "pids," + hierarchy.Unified

// through is the same site, seen through a view of it.
func (s site) through(view string) site {
	s.dir, s.eventsDir = view, view
	if s.unified != s.pids {
		s.dir, s.eventsDir = filepath.Join(view, s.pids.Dir), filepath.Join(view, s.unified.Dir)
	}
	return s
}

// native is the host's own path of something below the boundary.
func (s site) native(path ...string) string {
	return filepath.Join(append([]string{hostDir(s.pids, s.path)}, path...)...)
}

// at is the path of something as it is reached.
func (s site) at(path ...string) string { return filepath.Join(append([]string{s.dir}, path...)...) }

// load is eight threads on one site.
type load struct {
	site
	tolerant bool // ECONNABORTED is counted, not a failure
	resident int  // a process in the cgroup "stay"
	mover    int  // a process that is moved between two cgroups
	stirrer  int  // a process whose coming and going is an event
	began    time.Time
	ending   atomic.Bool
	workers  []*worker
	result   *tally // after stop
}

// worker is one thread of a load.
type worker struct {
	*load
	name  string
	tid   atomic.Int64
	done  chan struct{}
	tally // the worker's own until done is closed
}

// tally is what was done and what came of it.
type tally struct {
	ops, aborted map[string]int
	stall        map[string]time.Duration // the longest that one operation took
	failed       int
	failures     []string // the first of them
}

func newTally() tally {
	return tally{ops: map[string]int{}, aborted: map[string]int{}, stall: map[string]time.Duration{}}
}

// maxFailures is how many failures one worker goes on after.
const maxFailures = 20

// newLoad makes, natively, what a load needs below a boundary that is there.
func newLoad(t testing.TB, s site) *load {
	t.Helper()
	l := &load{site: s, resident: sleeper(t), mover: sleeper(t), stirrer: sleeper(t)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.pids.Version == hierarchy.V2 {
		must(s.pids.Enable(s.path+"/below", "pids"))
	}
	for _, name := range []string{"stay", "kept", "written", "from", "to", "attributes", "many"} {
		must(s.pids.Create(s.path+"/"+name, 0o755))
	}
	for i := range loadEntries {
		must(unix.Mkdir(l.native("many", entryName(i)), 0o755))
	}
	must(s.pids.WriteFile(s.path+"/stay", "pids.max", "1000"))
	must(s.pids.Attach(s.path+"/stay", l.resident))
	must(s.pids.Attach(s.path+"/from", l.mover))
	for _, name := range []string{"events", "idle"} {
		must(s.unified.Create(s.path+"/"+name, 0o755))
	}
	must(s.unified.Attach(s.path+"/idle", l.stirrer))
	return l
}

func entryName(i int) string { return fmt.Sprintf("c%03d", i) }

// start starts the threads. They end with the test at the latest.
func (l *load) start(t testing.TB) {
	l.began = time.Now()
	for _, kind := range []struct {
		name string
		run  func(w *worker)
	}{
		{"reads", (*worker).reads}, {"kept", (*worker).keeps}, {"writes", (*worker).writes}, {"mkdirs", (*worker).mkdirs},
		{"moves", (*worker).moves}, {"events", (*worker).events}, {"xattrs", (*worker).xattrs}, {"lists", (*worker).lists},
	} {
		w := &worker{load: l, name: kind.name, done: make(chan struct{}), tally: newTally()}
		l.workers = append(l.workers, w)
		go func() {
			defer close(w.done)
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			w.tid.Store(int64(unix.Gettid()))
			kind.run(w)
		}()
	}
	t.Cleanup(func() { l.stop() })
}

// stop ends the load and says what it did. A thread that does not end is hung.
func (l *load) stop() *tally {
	if l.result != nil {
		return l.result
	}
	l.ending.Store(true)
	sum := newTally()
	timeout := time.After(patience)
	for _, w := range l.workers {
		select {
		case <-w.done:
			sum.add(&w.tally)
		case <-timeout:
			timeout = time.After(time.Millisecond)
			sum.failed++
			sum.failures = append(sum.failures, fmt.Sprintf("%s: the thread of %s hangs: %s", l.path, w.name, taskState(int(w.tid.Load()))))
		}
	}
	l.result = &sum
	return l.result
}

// taskState is where the kernel says that a thread of this process is.
func taskState(tid int) string {
	var b strings.Builder
	for _, file := range []string{"wchan", "syscall", "stack"} {
		fmt.Fprintf(&b, "%s: %s; ", file, strings.TrimSpace(readFile(fmt.Sprintf("/proc/self/task/%d/%s", tid, file))))
	}
	return b.String()
}

// goesOn says whether a worker should go on.
func (w *worker) goesOn() bool { return !w.ending.Load() && w.failed < maxFailures }

// op does one operation: its time counts, and its error is a failure, errAborted where that is allowed.
func (w *worker) op(kind string, do func() error) error {
	began := time.Now()
	err := do()
	took := time.Since(began)
	w.ops[kind]++
	w.stall[kind] = max(w.stall[kind], took)
	if err == nil {
		return nil
	}
	if w.tolerant && errors.Is(err, unix.ECONNABORTED) {
		w.aborted[kind]++
		return errAborted
	}
	w.fail(kind, "%s, after %v", errnoName(err), took.Round(time.Microsecond))
	return err
}

// fail records what went wrong.
func (w *worker) fail(kind, format string, args ...any) {
	w.failed++
	text := fmt.Sprintf(format, args...)
	w.failures = append(w.failures, fmt.Sprintf("%s: after %v: %s: %s", w.path, time.Since(w.began).Round(time.Millisecond), kind, text))
}

func (a *tally) add(b *tally) {
	for kind, n := range b.ops {
		a.ops[kind] += n
	}
	for kind, n := range b.aborted {
		a.aborted[kind] += n
	}
	for kind, d := range b.stall {
		a.stall[kind] = max(a.stall[kind], d)
	}
	a.failed += b.failed
	a.failures = append(a.failures, b.failures...)
}

func (a *tally) String() string {
	var b strings.Builder
	total, worst := 0, time.Duration(0)
	for _, kind := range slices.Sorted(maps.Keys(a.ops)) {
		fmt.Fprintf(&b, "\n%8d %-14s longest %v", a.ops[kind], kind, a.stall[kind].Round(10*time.Microsecond))
		if n := a.aborted[kind]; n > 0 {
			fmt.Fprintf(&b, ", %d aborted", n)
		}
		total, worst = total+a.ops[kind], max(worst, a.stall[kind])
	}
	return fmt.Sprintf("%d operations, %d failed, longest stall %v%s", total, a.failed, worst.Round(10*time.Microsecond), b.String())
}

// judge stops loads, fails the test for each failure and for each kind of operation that was never done, and logs the rest.
func judge(t testing.TB, loads ...*load) *tally {
	t.Helper()
	sum := newTally()
	for _, l := range loads {
		l.ending.Store(true)
	}
	for _, l := range loads {
		sum.add(l.stop())
	}
	for i, f := range sum.failures {
		if i == 40 {
			t.Errorf("and %d more", len(sum.failures)-i)
			break
		}
		t.Error(f)
	}
	for _, kind := range []string{"read", "kept read", "kept write", "write", "mkdir", "rmdir", "move", "event", "setxattr", "list"} {
		if sum.ops[kind] == 0 {
			t.Errorf("not one %s was done", kind)
		}
	}
	t.Log(sum.String())
	return &sum
}

// TestLoad proves the load itself: natively it finds nothing wrong, nor on a view whose server lives on.
func TestLoad(t *testing.T) {
	h := openHost(t)
	run := func(t *testing.T, s site) {
		l := newLoad(t, s)
		l.start(t)
		time.Sleep(time.Second)
		judge(t, l)
		wantSameTree(t, s)
	}
	t.Run("native", func(t *testing.T) { run(t, newSite(t, h, t.Name())) })
	t.Run("view", func(t *testing.T) {
		s := newSite(t, h, t.Name())
		v := mountView(t, "--boundary", s.path, "--controllers", siteControllers)
		run(t, s.through(v.dir))
	})
}
