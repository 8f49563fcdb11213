package kit

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// A load works on one boundary with eight threads, each with operations of one kind, and checks everything that it is
// answered: against what it knows, for nobody else writes there, and against the host's own files. It runs natively,
// too, with the boundary's real directory in place of a view, and must find nothing wrong there.

// loadEntries and leastLoadEntries are how many cgroups the directory has that is listed all the time. Where processors
// are emulated, making and removing one takes a tenth of a second.
const (
	loadEntries      = 200
	leastLoadEntries = 50
)

// errAborted is the one failure that a host without FUSE_NOTIFY_RESEND is allowed: the request was in the worker's
// hands when it died, and whether it was done must be looked up.
var errAborted = errors.New("aborted")

// Load is eight threads on one site.
type Load struct {
	Site
	tolerant bool // ECONNABORTED is counted, not a failure
	entries  int  // cgroups in the directory that is listed
	resident int  // a process in the cgroup "stay"
	mover    int  // a process that is moved between two cgroups
	stirrer  int  // a process whose coming and going is an event
	began    time.Time
	ending   atomic.Bool
	workers  []*worker
	result   *Tally // after stop
}

// worker is one thread of a load.
type worker struct {
	*Load
	name  string
	tid   atomic.Int64
	done  chan struct{}
	Tally // the worker's own until done is closed
}

// Tally is what was done and what came of it.
type Tally struct {
	ops, Aborted map[string]int
	stall        map[string]time.Duration // the longest that one operation took
	failed       int
	failures     []string // the first of them
}

func newTally() Tally {
	return Tally{ops: map[string]int{}, Aborted: map[string]int{}, stall: map[string]time.Duration{}}
}

// maxFailures is how many failures one worker goes on after.
const maxFailures = 20

// NewLoad makes, natively, what a load needs below a boundary that is there.
func NewLoad(t testing.TB, s Site) *Load {
	t.Helper()
	l := &Load{
		Site: s, entries: Scaled(t, loadEntries, leastLoadEntries),
		resident: StartSleeper(t), mover: StartSleeper(t), stirrer: StartSleeper(t),
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.Pids.Version == hierarchy.V2 {
		must(s.Pids.Enable(s.Path+"/below", "pids"))
	}
	for _, name := range []string{"stay", "kept", "written", "from", "to", "attributes", "many"} {
		must(s.Pids.Create(s.Path+"/"+name, 0o755))
	}
	for i := range l.entries {
		must(unix.Mkdir(l.Native("many", entryName(i)), 0o755))
	}
	must(s.Pids.WriteFile(s.Path+"/stay", "pids.max", "1000"))
	must(s.Pids.Attach(s.Path+"/stay", l.resident))
	must(s.Pids.Attach(s.Path+"/from", l.mover))
	for _, name := range []string{"events", "idle"} {
		must(s.Unified.Create(s.Path+"/"+name, 0o755))
	}
	must(s.Unified.Attach(s.Path+"/idle", l.stirrer))
	return l
}

func entryName(i int) string { return fmt.Sprintf("c%03d", i) }

// Start starts the threads. They end with the test at the latest.
func (l *Load) Start(t testing.TB) {
	l.began = time.Now()
	for _, kind := range []struct {
		name string
		run  func(w *worker)
	}{
		{"reads", (*worker).reads}, {"kept", (*worker).keeps}, {"writes", (*worker).writes}, {"mkdirs", (*worker).mkdirs},
		{"moves", (*worker).moves}, {"events", (*worker).events}, {"xattrs", (*worker).xattrs}, {"lists", (*worker).lists},
	} {
		w := &worker{Load: l, name: kind.name, done: make(chan struct{}), Tally: newTally()}
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
func (l *Load) stop() *Tally {
	if l.result != nil {
		return l.result
	}
	l.ending.Store(true)
	sum := newTally()
	timeout := time.After(Patience)
	for _, w := range l.workers {
		select {
		case <-w.done:
			sum.add(&w.Tally)
		case <-timeout:
			timeout = time.After(time.Millisecond)
			sum.failed++
			sum.failures = append(sum.failures, fmt.Sprintf("%s: the thread of %s hangs: %s", l.Path, w.name,
				TaskState(int(w.tid.Load()))))
		}
	}
	l.result = &sum
	return l.result
}

// TaskState is where the kernel says that a thread of this process is.
func TaskState(tid int) string {
	var b strings.Builder
	for _, file := range []string{"wchan", "syscall", "stack"} {
		fmt.Fprintf(&b, "%s: %s; ", file, strings.TrimSpace(ReadFile(fmt.Sprintf("/proc/self/task/%d/%s", tid, file))))
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
		w.Aborted[kind]++
		return errAborted
	}
	w.fail(kind, "%s, after %v", ErrnoName(err), took.Round(time.Microsecond))
	return err
}

// fail records what went wrong.
func (w *worker) fail(kind, format string, args ...any) {
	w.failed++
	text := fmt.Sprintf(format, args...)
	w.failures = append(w.failures, fmt.Sprintf("%s: after %v: %s: %s", w.Path,
		time.Since(w.began).Round(time.Millisecond), kind, text))
}

func (a *Tally) add(b *Tally) {
	for kind, n := range b.ops {
		a.ops[kind] += n
	}
	for kind, n := range b.Aborted {
		a.Aborted[kind] += n
	}
	for kind, d := range b.stall {
		a.stall[kind] = max(a.stall[kind], d)
	}
	a.failed += b.failed
	a.failures = append(a.failures, b.failures...)
}

// String says how much was done and what was the longest.
func (a *Tally) String() string {
	var b strings.Builder
	total, worst := 0, time.Duration(0)
	for _, kind := range slices.Sorted(maps.Keys(a.ops)) {
		fmt.Fprintf(&b, "\n%8d %-14s longest %v", a.ops[kind], kind, a.stall[kind].Round(10*time.Microsecond))
		if n := a.Aborted[kind]; n > 0 {
			fmt.Fprintf(&b, ", %d aborted", n)
		}
		total, worst = total+a.ops[kind], max(worst, a.stall[kind])
	}
	return fmt.Sprintf("%d operations, %d failed, longest stall %v%s", total, a.failed, worst.Round(10*time.Microsecond),
		b.String())
}

// JudgeLoads stops loads, fails the test for each failure and for each kind of operation that was never done, and logs
// the rest.
func JudgeLoads(t testing.TB, loads ...*Load) *Tally {
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
	for _, kind := range []string{"read", "kept read", "kept write", "write", "mkdir", "rmdir", "move", "event",
		"setxattr", "list"} {
		if sum.ops[kind] == 0 {
			t.Errorf("not one %s was done", kind)
		}
	}
	t.Log(sum.String())
	return &sum
}
