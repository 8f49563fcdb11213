package host

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// startFollowing follows a boundary, and answers with what is reported.
func startFollowing(t *testing.T, b *Boundary) (*Following, <-chan Event) {
	t.Helper()
	events := make(chan Event, 1000)
	f, err := b.Follow(func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, events
}

// TestFollow: a boundary's owner, name and removal are reported, and nothing of what is in it or beside it.
func TestFollow(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		above := p.hier.Mountpoint + p.top
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(os.Mkdir(above+"/web", 0o755))
		b, err := p.hier.Boundary(p.top + "/web")
		must(err)
		defer b.Close()
		f, events := startFollowing(t, b)
		other, others := startFollowing(t, p.boundary)
		must(os.Mkdir(above+"/web/a", 0o755))
		must(os.Chmod(above+"/web/cgroup.procs", 0o600))
		must(unix.Rmdir(above + "/web/a"))
		must(unix.Rmdir(above + "/sibling"))
		wantQuiet(t, events)
		want(t, others) // none so far
		wantQuiet(t, others)

		parent, name := f.at.dir, "web"
		must(os.Chown(above+"/web", 1, 1))
		want(t, events, Event{Dir: parent, Name: name, Attrib: true})
		if p.hier.Version == hierarchy.V1 {
			must(os.Rename(above+"/web", above+"/renamed"))
			want(t, events, Event{Dir: parent, Name: name, Deleted: true})
			name = "renamed"
			must(f.Renew())
		}
		must(f.Renew())
		must(unix.Rmdir(above + "/" + name))
		want(t, events, Event{Dir: parent, Name: name, Deleted: true})
		if err := f.Renew(); !errors.Is(err, unix.ENOENT) {
			t.Errorf("renewed after the removal: %v", err)
		}
		if _, err := b.Follow(func(Event) {}); !errors.Is(err, unix.ENOENT) {
			t.Errorf("followed after the removal: %v", err)
		}
		wantQuiet(t, others)
		f.Close()
		other.Close()
		other.Close()
		if x := &p.hier.parents; len(x.places)+len(x.users)+p.hier.host.watches.count() > 0 {
			t.Errorf("left: %v, %v, %d watches", x.places, x.users, p.hier.host.watches.count())
		}
		if err := other.Renew(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("renewed after Close: %v", err)
		}
	})
}

// TestFollowMany: boundaries of one parent share a watch, beyond the bound of all others, and each hears of lost events.
func TestFollowMany(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		h := p.hier.host
		h.SetMaxWatches(1)
		w, _ := startWatcher(t, h, 0)
		if err := w.addOnly(p.root); err != nil {
			t.Fatal(err)
		}
		lost := make(chan Event, 10)
		for range 3 {
			f, err := p.boundary.Follow(func(e Event) { lost <- e })
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
		}
		if n := h.watches.count(); n != 2 {
			t.Errorf("%d watches, want 2", n)
		}
		buf := make([]byte, unix.SizeofInotifyEvent)
		buf[5] = unix.IN_Q_OVERFLOW >> 8
		h.watches.report(buf, nil)
		want(t, lost, Event{Overflow: true})
		want(t, lost, Event{Overflow: true})
		want(t, lost, Event{Overflow: true})
		wantQuiet(t, lost)

		// A watch that the kernel has ended is made again.
		x := &p.hier.parents
		f := x.places[only(x.places)][0]
		x.watcher.forget(f.at.dir)
		if x.watches(f.at) || f.Renew() != nil || !x.watches(f.at) {
			t.Error("the watch was not renewed")
		}
	})
}

// count returns the number of watches.
func (h *watchHub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.inodes)
}

// addOnly watches a directory without a file in it.
func (w *Watcher) addOnly(d *Dir) error {
	_, err := w.addDir(d.ID(), d.FD())
	return err
}

func only[K comparable, V any](m map[K]V) (key K) {
	for key = range m {
	}
	return key
}
