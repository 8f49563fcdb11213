package host

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// quiet is how long a test waits for what must not happen. The kernel sends an event of cgroup.events at most 10 ms late.
const quiet = 50 * time.Millisecond

// startWatcher watches a directory, and answers with what will be reported.
func startWatcher(t *testing.T, limit int, dirs ...*Dir) (*Watcher, <-chan Event) {
	t.Helper()
	events := make(chan Event, 1000)
	w, err := newWatcher(func(e Event) { events <- e }, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
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
		w, events := startWatcher(t, maxWatches, p.root)
		if err := w.Watch(p.root); err != nil {
			t.Fatal(err)
		}
		id := p.root.ID()
		dir := p.tree.Mountpoint + p.top + "/guest"
		if err := os.Mkdir(dir+"/new", 0o755); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: id, Name: "new", Created: true})
		wantQuiet(t, events) // not twice, though it was asked for twice
		last := "new"
		if p.tree.Version == hierarchy.V1 {
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
		_, events := startWatcher(t, maxWatches, p.root, p.a)
		if p.tree.Version == hierarchy.V1 {
			if err := p.tree.WriteFile(p.top+"/guest/a", "notify_on_release", "0"); err != nil {
				t.Fatal(err)
			}
			want(t, events, Event{Dir: p.a.ID(), Name: "notify_on_release", Modified: true})
			return
		}
		if err := p.tree.WriteFile(p.top+"/guest", "cgroup.subtree_control", "\n"); err != nil {
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
		w, err := NewWatcher(func(Event) {})
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
		if _, ok := held["cgroup.freeze"]; !ok || len(held) != 2 {
			t.Errorf("held: %v", held)
		}
		if info := watchesOf(t, w); strings.Count(info, "inotify wd:") != 3 {
			t.Errorf("want the watches of the directory and of two files:\n%s", info)
		}
		w.mu.Lock()
		w.end(w.byID[p.a.ID()])
		w.mu.Unlock()
		if info := watchesOf(t, w); strings.Contains(info, "wd:") {
			t.Errorf("watches are left:\n%s", info)
		}
	})
}

// watchesOf is what the kernel says of a watcher's watches.
func watchesOf(t *testing.T, w *Watcher) string {
	t.Helper()
	var info []byte
	var err error
	if cerr := w.raw.Control(func(fd uintptr) {
		info, err = os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(fd)))
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return string(info)
}

func TestWatchesAreBounded(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		const limit = 4
		w, events := startWatcher(t, limit, p.root)
		var dirs []*Dir
		for i := range 3 * limit {
			name := "d" + strconv.Itoa(i)
			if err := p.tree.Create(p.top+"/guest/"+name, 0o755); err != nil {
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
		if n := len(w.byID); n != limit || len(w.byWatch) != limit || w.recent.Len() != limit {
			t.Errorf("%d directories are watched, want %d", n, limit)
		}
		for {
			if e := <-events; e.Name == "d"+strconv.Itoa(3*limit-1) {
				break
			}
		}
		touch := func(i int) {
			if err := p.tree.Create(p.top+"/guest/d"+strconv.Itoa(i)+"/x", 0o755); err != nil {
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
		if err := unix.Rmdir(p.tree.Mountpoint + p.top + "/guest/d0/x"); err != nil {
			t.Fatal(err)
		}
		want(t, events, Event{Dir: dirs[0].ID(), Name: "x", Deleted: true})
	})
}

func TestWatcherClose(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		w, events := startWatcher(t, maxWatches, p.root)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := p.tree.Create(p.top+"/guest/late", 0o755); err != nil {
			t.Fatal(err)
		}
		wantQuiet(t, events)
		if err := w.Watch(p.a); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Watch after Close: %v, want os.ErrClosed", err)
		}
	})
}

// A sink that waits lets the kernel's queue run over: that is reported, and nothing hangs.
func TestWatchOverflow(t *testing.T) {
	raw, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	most := parseInts(raw)
	inHierarchies(t, func(t *testing.T, p *playground) {
		if p.tree.Version == hierarchy.V1 || most[0] > 1<<17 {
			return
		}
		start, lost := make(chan struct{}), make(chan struct{}, 1)
		w, err := NewWatcher(func(e Event) {
			<-start
			if e.Overflow {
				lost <- struct{}{}
			}
		})
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
			if err := unix.Chmod(p.tree.Mountpoint+p.top+"/guest"+files[i%2], 0o644); err != nil {
				t.Fatal(err)
			}
		}
		close(start)
		select {
		case <-lost:
		case <-time.After(10 * time.Second):
			t.Error("lost events were not reported")
		}
	})
}

func BenchmarkWatchAgain(b *testing.B) {
	w, err := NewWatcher(func(Event) {})
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
