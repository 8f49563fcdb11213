package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// quiet is how long a test waits for what must not happen. The kernel sends an event of cgroup.events at most 10 ms late.
const quiet = 50 * time.Millisecond

// startWatcher watches directories, and answers with what will be reported.
func startWatcher(t *testing.T, h *Host, limit int, dirs ...*Dir) (*Watcher, <-chan Event) {
	t.Helper()
	events := make(chan Event, 1000)
	w, err := h.NewWatcher(func(e Event) { events <- e }, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	for _, d := range dirs {
		if err := w.Watch(d); err != nil {
			t.Fatal(err)
		}
	}
	return w, events
}

// want waits for events, in any order, and lets others pass.
func want(t *testing.T, events <-chan Event, wanted ...Event) {
	t.Helper()
	timeout := time.After(5 * time.Second)
	for len(wanted) > 0 {
		select {
		case got := <-events:
			wanted = slices.DeleteFunc(wanted, func(e Event) bool { return e == got })
		case <-timeout:
			t.Fatalf("no events %+v", wanted)
		}
	}
}

func wantQuiet[T any](t *testing.T, events <-chan T) {
	t.Helper()
	select {
	case e := <-events:
		t.Errorf("unexpected: %+v", e)
	case <-time.After(quiet):
	}
}

func TestWatchDirectories(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		w, events := startWatcher(t, p.hier.host, 0, p.root)
		if err := w.Watch(p.root); err != nil {
			t.Fatal(err)
		}
		id := p.root.ID()
		dir := p.hier.Mountpoint + p.top + "/guest"
		if err := os.Mkdir(dir+"/new", 0o755); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: id, Name: "new", Created: true})
		wantQuiet(t, events) // not twice, though it was asked for twice
		last := "new"
		if p.hier.Version == hierarchy.V1 {
			last = "renamed"
			if err := os.Rename(dir+"/new", dir+"/renamed"); err != nil {
				t.Fatal(err)
			}
			want(t, events, Event{Dir: id, Name: "new", Deleted: true})
			want(t, events, Event{Dir: id, Name: "renamed", Created: true})
		}
		if err := unix.Rmdir(dir + "/" + last); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: id, Name: last, Deleted: true})
		if err := os.Chmod(dir+"/cgroup.procs", 0o600); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: id, Name: "cgroup.procs", Attrib: true})
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: id, Attrib: true})
	})
}

func TestWatchFiles(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		_, events := startWatcher(t, p.hier.host, 0, p.root, p.a)
		if p.hier.Version == hierarchy.V1 {
			if err := p.hier.WriteFile(p.top+"/guest/a", "notify_on_release", "0"); err != nil {
				t.Fatal(err)
			}
			want(t, events, Event{Dir: p.a.ID(), Name: "notify_on_release", Modified: true})
			return
		}
		if err := p.hier.WriteFile(p.top+"/guest", "cgroup.subtree_control", "\n"); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: p.root.ID(), Name: "cgroup.subtree_control", Modified: true})
		pid, reap := startSleep(t)
		p.put(t, "/guest/a", pid)
		// Its parent is populated now as well; the kernel does not say which of the two it tells first.
		changed := []Event{
			{Dir: p.a.ID(), Name: "cgroup.events", Modified: true},
			{Dir: p.root.ID(), Name: "cgroup.events", Modified: true},
		}
		want(t, events, slices.Clone(changed)...)
		reap()
		want(t, events, slices.Clone(changed)...)
	})
}

// The kernel drops inodes that nobody holds, and then tells of no change of theirs.
func TestWatchedFileIsHeld(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		w, err := p.hier.host.NewWatcher(func(Event) {}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if err := w.WatchFile(p.a, "cgroup.freeze"); err != nil {
			t.Fatal(err)
		}
		if err := w.WatchFile(p.a, missingFile); !errors.Is(err, unix.ENOENT) {
			t.Errorf("a file that is not there: %v, want ENOENT", err)
		}
		for _, name := range []string{"", "..", "../cgroup.freeze"} {
			if err := w.WatchFile(p.a, name); !errors.Is(err, unix.EINVAL) {
				t.Errorf("%q: %v, want EINVAL", name, err)
			}
		}
		held := w.byID[p.a.ID()].Value.(*watch).pins
		if len(held) != 2 || held[0].file != populatedFile || held[1].file != "cgroup.freeze" {
			t.Errorf("held: %v", held)
		}
		if info := watchesOf(t, w); strings.Count(info, "inotify wd:") != 3 {
			t.Errorf("want the watches of the directory and of two files:\n%s", info)
		}
		// Another guest's view holds the file as well, and one that is told of what happens to a directory may hold it.
		other, events := startWatcher(t, p.hier.host, 0, p.root)
		for d, name := range map[*Dir]string{p.a: "cgroup.freeze", p.root: "a"} {
			if err := other.WatchFile(d, name); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		if info := watchesOf(t, other); strings.Count(info, "inotify wd:") != 5 {
			t.Errorf("want the watches of two directories and of three files:\n%s", info)
		}
		if err := os.Mkdir(p.hier.Mountpoint+p.top+"/guest/a/new", 0o755); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: p.a.ID(), Name: "new", Created: true})
		other.Close()
		if info := watchesOf(t, other); strings.Contains(info, "wd:") || watchedInodes(p.hier.host) != 0 {
			t.Errorf("watches are left:\n%s", info)
		}
	})
}

// A controller that is switched off and on again makes its files anew: then the new file's inode is held, and the other no more.
func TestRenewedFileIsHeld(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		if len(p.hier.Controllers) == 0 {
			t.Skip("machine: the v2 hierarchy has no controller")
		}
		controller := p.hier.Controllers[0]
		if err := p.hier.Enable(p.top+"/guest/a", controller); err != nil {
			t.Fatal(err)
		}
		files, _ := filepath.Glob(p.hier.Mountpoint + p.top + "/guest/a/" + controller + ".*")
		if len(files) == 0 {
			t.Skipf("machine: %s has no file", controller)
		}
		name := filepath.Base(files[0])
		w, _ := startWatcher(t, p.hier.host, 0)
		for range 3 {
			if err := w.WatchFile(p.a, name); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(files[0], &st); err != nil {
				t.Fatal(err)
			}
			info := watchesOf(t, w)
			if !strings.Contains(info, fmt.Sprintf(" ino:%x ", st.Ino)) || strings.Count(info, "inotify wd:") != 3 {
				t.Errorf("want the watches of the directory, of %s and of the inode %x of %s:\n%s", populatedFile, st.Ino, name, info)
			}
			for _, sign := range []string{"-", "+"} {
				if err := p.hier.WriteFile(p.top+"/guest", "cgroup.subtree_control", sign+controller); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// watchesOf is what the kernel says of the watches of all Watchers of a host.
func watchesOf(t *testing.T, w *Watcher) string {
	t.Helper()
	var info []byte
	var err error
	if cerr := w.hub.raw.Control(func(fd uintptr) {
		info, err = os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(fd)))
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return string(info)
}

func watchedInodes(h *Host) int {
	h.watches.mu.Lock()
	defer h.watches.mu.Unlock()
	return len(h.watches.inodes)
}

func TestWatchesAreBounded(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		const limit = 4
		w, events := startWatcher(t, p.hier.host, limit, p.root)
		var dirs []*Dir
		for i := range 3 * limit {
			name := "d" + strconv.Itoa(i)
			if err := p.hier.Create(p.top+"/guest/"+name, 0o755); err != nil {
				t.Fatal(err)
			}
			d, err := p.root.OpenDir(name)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			dirs = append(dirs, d)
			if err := w.Watch(d); err != nil {
				t.Fatal(err)
			}
			if err := w.Watch(p.root); err != nil { // in use, so it stays
				t.Fatal(err)
			}
		}
		if n := len(w.byID); n != limit || w.recent.Len() != limit {
			t.Errorf("%d directories are watched, want %d", n, limit)
		}
		for {
			if e := <-events; e.Name == "d"+strconv.Itoa(3*limit-1) {
				break
			}
		}
		touch := func(i int) {
			if err := p.hier.Create(p.top+"/guest/d"+strconv.Itoa(i)+"/x", 0o755); err != nil {
				t.Fatal(err)
			}
		}
		touch(0) // long forgotten
		touch(3*limit - 1)
		for e := range events {
			if e.Name == "x" {
				if e.Dir != dirs[3*limit-1].ID() {
					t.Error("a directory that is no longer watched was reported")
				}
				break
			}
		}
		if err := w.Watch(dirs[0]); err != nil {
			t.Fatal(err)
		}
		if err := unix.Rmdir(p.hier.Mountpoint + p.top + "/guest/d0/x"); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: dirs[0].ID(), Name: "x", Deleted: true})
	})
}

func TestWatcherClose(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		w, events := startWatcher(t, p.hier.host, 0, p.root)
		w.Close()
		if err := p.hier.Create(p.top+"/guest/late", 0o755); err != nil {
			t.Fatal(err)
		}
		wantQuiet(t, events)
		if err := w.Watch(p.a); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Watch after Close: %v, want os.ErrClosed", err)
		}
		w.Close()
	})
}

// No sink is called after Close has returned, also where events come all the time.
func TestWatcherCloseUnderEvents(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			files := []string{"/cgroup.procs", "/cgroup.type"}
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					unix.Chmod(p.hier.Mountpoint+p.top+"/guest"+files[i%2], 0o644)
				}
			}
		}()
		defer func() { close(stop); <-stopped }()
		for range 200 {
			var told, closed atomic.Bool
			w, err := p.hier.host.NewWatcher(func(Event) {
				told.Store(true)
				if closed.Load() {
					t.Error("an event after Close")
				}
			}, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Watch(p.root); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Second); !told.Load() && time.Now().Before(deadline); {
				runtime.Gosched()
			}
			w.Close()
			closed.Store(true)
		}
	})
}

// Two guests with one boundary, and one within it: each is told, by whatever it watches.
func TestWatchersShareDirectories(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		h := p.hier.host
		inner, err := p.hier.Boundary(p.top + "/guest/a")
		if err != nil {
			t.Fatal(err)
		}
		defer inner.Close()
		top, err := inner.Root()
		if err != nil {
			t.Fatal(err)
		}
		defer top.Release()
		first, events1 := startWatcher(t, h, 0, p.root, p.a)
		second, events2 := startWatcher(t, h, 0, p.a)
		_, events3 := startWatcher(t, h, 0, top)
		if info := watchesOf(t, first); strings.Count(info, "inotify wd:") > 4 {
			t.Errorf("want two directories and two files at most:\n%s", info)
		}
		dir := p.hier.Mountpoint + p.top + "/guest/a/"
		make := func(name string, told ...<-chan Event) {
			t.Helper()
			if err := os.Mkdir(dir+name, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, events := range told {
				want(t, events, Event{Dir: p.a.ID(), Name: name, Created: true})
				wantQuiet(t, events)
			}
		}
		make("1", events1, events2, events3)
		first.Close()
		make("2", events2, events3)
		wantQuiet(t, events1)
		second.mu.Lock()
		second.end(second.byID[p.a.ID()]) // as when it watches too many
		second.mu.Unlock()
		make("3", events3)
		wantQuiet(t, events2)
		if err := second.Watch(p.a); err != nil {
			t.Fatal(err)
		}
		make("4", events2, events3)
		wantQuiet(t, events1)
	})
}

// inotifies counts this process's inotify instances.
func inotifies(t *testing.T) (n int) {
	t.Helper()
	for _, target := range descriptors(t) {
		if target == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

// descriptors is what the process has open.
func descriptors(t *testing.T) (targets []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			targets = append(targets, target)
		}
	}
	return targets
}

// A user may have 128 inotify instances, and a host has more guests.
func TestManyWatchers(t *testing.T) {
	const guests = 1000
	inHierarchies(t, func(t *testing.T, p *playground) {
		h := p.hier.host
		if before := inotifies(t); before != 0 && h.watches.file == nil {
			t.Fatalf("%d inotify instances before the first watcher", before)
		}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		var told atomic.Int64
		watchers := make([]*Watcher, guests)
		before, goroutines := heap(), runtime.NumGoroutine()
		var err error
		for i := range watchers {
			if watchers[i], err = h.NewWatcher(func(Event) { told.Add(1) }, 0); err != nil {
				t.Fatal(err)
			}
		}
		idle := heap()
		for _, w := range watchers {
			if err := w.Watch(p.a); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("heap of a watcher: %d bytes idle, %d with one directory", (idle-before)/guests, (heap()-before)/guests)
		if n := inotifies(t); n != 1 {
			t.Errorf("%d inotify instances, want 1", n)
		}
		if n := runtime.NumGoroutine(); n > goroutines+1 {
			t.Errorf("%d goroutines, %d before", n, goroutines)
		}
		if err := os.Mkdir(p.hier.Mountpoint+p.top+"/guest/a/new", 0o755); err != nil {
			t.Fatal(err)
		}
		eventually(t, "each to be told", func() bool { return told.Load() == guests })
		for _, w := range watchers {
			w.Close()
		}
		if n := watchedInodes(h); n != 0 || len(h.watches.watchers) != 0 {
			t.Errorf("%d watches and %d watchers are left", n, len(h.watches.watchers))
		}
	})
}

// The bound over all: what is watched already may be watched by others too, and what is given up can be had again.
func TestMaxWatches(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		h := p.hier.host
		first, events := startWatcher(t, h, 0, p.root)
		most := watchedInodes(h)
		h.SetMaxWatches(most)
		defer h.SetMaxWatches(0)
		if err := first.Watch(p.a); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("over the bound: %v, want ENOSPC", err)
		}
		if p.hier.Version == hierarchy.V2 {
			if err := first.WatchFile(p.root, "cgroup.freeze"); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("a file over the bound: %v, want ENOSPC", err)
			}
		}
		second, _ := startWatcher(t, h, 0, p.root)
		if info := watchesOf(t, second); strings.Count(info, "inotify wd:") != most {
			t.Errorf("want %d watches:\n%s", most, info)
		}
		if err := os.Mkdir(p.hier.Mountpoint+p.top+"/guest/new", 0o755); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: p.root.ID(), Name: "new", Created: true})
		first.Close()
		second.Close()
		if third, _ := startWatcher(t, h, 0, p.a); len(third.byID) != 1 {
			t.Error("nothing was given back")
		}
	})
}

// What the kernel ends with an inode is forgotten, whoever watched it.
func TestWatchesEndedByTheKernel(t *testing.T) {
	h := &Host{}
	defer h.Close()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/d/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir+"/d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var watchers []*Watcher
	for id := range uint64(2) {
		w, _ := startWatcher(t, h, 0)
		if err := w.watch(id, fd, "f"); err != nil {
			t.Fatal(err)
		}
		watchers = append(watchers, w)
	}
	unix.Close(fd)
	if err := os.RemoveAll(dir + "/d"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all watches to end", func() bool {
		left := watchedInodes(h)
		for _, w := range watchers {
			w.mu.Lock()
			left += len(w.byID) + w.recent.Len()
			w.mu.Unlock()
		}
		return left == 0
	})
}

// Close of a host leaves nothing, and what was made from it answers.
func TestHostCloseEndsWatching(t *testing.T) {
	goroutines, before := runtime.NumGoroutine(), descriptors(t)
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	w, events := startWatcher(t, h, 0)
	poller, err := h.Poller()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := h.Poller(); again != poller || err != nil {
		t.Errorf("another poller: %v", err)
	}
	h.Close()
	eventually(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	if after := descriptors(t); len(after) > len(before) {
		t.Errorf("descriptors are left: %v, were %v", after, before)
	}
	if _, err := h.NewWatcher(func(Event) {}, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("NewWatcher after Close: %v, want os.ErrClosed", err)
	}
	if _, err := h.Poller(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Poller after Close: %v, want os.ErrClosed", err)
	}
	if err := w.watch(1, 0, "x"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Watch after Close: %v, want os.ErrClosed", err)
	}
	w.Close()
	h.Close()
	wantQuiet(t, events)
}

// A sink that waits lets the kernel's queue run over: that is reported, and nothing hangs.
func TestWatchOverflow(t *testing.T) {
	raw, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	most := parseInts(raw)
	inHierarchies(t, func(t *testing.T, p *playground) {
		if p.hier.Version == hierarchy.V1 || most[0] > 1<<17 {
			return
		}
		start, lost := make(chan struct{}), make(chan struct{}, 1)
		w, err := p.hier.host.NewWatcher(func(e Event) {
			<-start
			if e.Overflow {
				lost <- struct{}{}
			}
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		defer func() {
			select {
			case <-start:
			default:
				close(start)
			}
		}()
		if err := w.Watch(p.root); err != nil {
			t.Fatal(err)
		}
		files := []string{"/cgroup.procs", "/cgroup.type"} // in turn: two equal events in a row become one
		for i := range most[0] + 2000 {
			if err := unix.Chmod(p.hier.Mountpoint+p.top+"/guest"+files[i%2], 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, others := startWatcher(t, p.hier.host, 0)
		close(start)
		want(t, others, Event{Overflow: true})
		select {
		case <-lost:
		case <-time.After(10 * time.Second):
			t.Error("lost events were not reported")
		}
	})
}

func BenchmarkWatchAgain(b *testing.B) {
	h := &Host{}
	defer h.Close()
	w, err := h.NewWatcher(func(Event) {}, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	dir, err := unix.Open(b.TempDir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(dir)
	for b.Loop() {
		w.watch(1, dir, "")
	}
}
