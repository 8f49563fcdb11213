package host

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

type polled struct {
	key     uint64
	revents uint32
}

// testPoller is a poller with one sink.
type testPoller struct {
	*Poller
	sink func(key uint64, revents uint32)
}

func (p testPoller) Add(fd int, key uint64) error { return p.Poller.Add(fd, key, p.sink) }

func startPoller(t *testing.T, h *Host) (testPoller, <-chan polled) {
	t.Helper()
	reports := make(chan polled, 1000)
	p, err := h.Poller()
	if err != nil {
		t.Fatal(err)
	}
	return testPoller{p, func(key uint64, revents uint32) { reports <- polled{key, revents} }}, reports
}

// fired is what kernfs answers to a poll when something has happened since the last read.
func fired(key uint64) polled { return polled{key, unix.EPOLLPRI | unix.EPOLLERR} }

func wantReport(t *testing.T, reports <-chan polled, want polled) {
	t.Helper()
	var got polled
	eventually(t, "a report", func() bool {
		select {
		case got = <-reports:
			return true
		default:
			return false
		}
	})
	if got != want {
		t.Errorf("report %+v, want %+v", got, want)
	}
}

// openEvents opens a cgroup.events and reads it, so that it is quiet. again reads it anew.
func openEvents(t *testing.T, d *Dir) (fd int, again func()) {
	t.Helper()
	fd, err := d.OpenFile("cgroup.events", unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	again = func() {
		if _, err := unix.Pread(fd, make([]byte, 100), 0); err != nil {
			t.Fatal(err)
		}
	}
	again()
	return fd, again
}

// inV2 runs a test where cgroups have events.
func inV2(t *testing.T, test func(t *testing.T, p *playground)) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		if p.hier.Version == hierarchy.V2 {
			test(t, p)
		}
	})
}

func TestPollEvents(t *testing.T) {
	const key = 0xfedcba9876543210
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t, p.hier.host)
		fd, again := openEvents(t, p.a)
		add := func() {
			t.Helper()
			if err := poller.Add(fd, key); err != nil {
				t.Fatal(err)
			}
		}
		add()
		add() // asked twice, still one report
		wantQuiet(t, reports)
		pid, reap := startSleep(t)
		p.put(t, "/guest/a", pid)
		wantReport(t, reports, fired(key))
		wantQuiet(t, reports)
		add() // not read since: still so
		wantReport(t, reports, fired(key))
		again()
		reap() // empty: an event, and nobody waits for it
		wantQuiet(t, reports)
		add()
		wantReport(t, reports, fired(key))
		again()
		add()
		wantQuiet(t, reports)
		poller.Remove(fd)
		poller.Remove(fd)
		pid, reap = startSleep(t)
		p.put(t, "/guest/a", pid)
		reap()
		wantQuiet(t, reports)
	})
}

// A file that was not read since it was opened has something to say.
func TestPollUnread(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t, p.hier.host)
		fd, err := p.a.OpenFile("cgroup.events", unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := poller.Add(fd, 1); err != nil {
			t.Fatal(err)
		}
		wantReport(t, reports, fired(1))
	})
}

func TestPollRemoved(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t, p.hier.host)
		fd, _ := openEvents(t, p.a)
		if err := p.hier.RemoveAll(p.top + "/guest/a"); err != nil {
			t.Fatal(err)
		}
		if err := poller.Add(fd, 1); err != nil {
			t.Fatal(err)
		}
		wantReport(t, reports, fired(1))
	})
}

// Keys and descriptors change hands: a handle that was closed without Remove, a new one with its number, another key.
func TestPollKeysAndDescriptors(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t, p.hier.host)
		first, err := p.a.OpenFile("cgroup.events", unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		unix.Pread(first, make([]byte, 100), 0)
		if err := poller.Add(first, 1); err != nil {
			t.Fatal(err)
		}
		unix.Close(first)
		second, again := openEvents(t, p.a)
		if second != first {
			t.Logf("the descriptor's number is new: %d, was %d", second, first)
		}
		for key := uint64(2); key <= 3; key++ {
			if err := poller.Add(second, key); err != nil {
				t.Fatal(err)
			}
		}
		pid, _ := startSleep(t)
		p.put(t, "/guest/a", pid)
		wantReport(t, reports, fired(3))
		wantQuiet(t, reports)
		again()
		third, err := unix.FcntlInt(uintptr(second), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(third)
		if err := poller.Add(third, 3); err != nil { // the same key for another descriptor
			t.Fatal(err)
		}
		poller.Remove(second)
		if _, ok := poller.waits[third]; len(poller.waits) != 1 || !ok {
			t.Errorf("kept: %v", poller.waits)
		}
		poller.Remove(third)
	})
}

// What is followed is reported at each event, once, until it is removed or added.
func TestPollFollow(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t, p.hier.host)
		fd, again := openEvents(t, p.a)
		if err := poller.Add(fd, 1); err != nil {
			t.Fatal(err)
		}
		for key := uint64(2); key <= 3; key++ {
			if err := poller.Follow(fd, key, poller.sink); err != nil {
				t.Fatal(err)
			}
		}
		pid, reap := startSleep(t)
		p.put(t, "/guest/a", pid)
		wantReport(t, reports, fired(3))
		wantQuiet(t, reports)
		again()
		reap()
		wantReport(t, reports, fired(3))
		if err := poller.Add(fd, 4); err != nil { // not read: it says so at once, and once
			t.Fatal(err)
		}
		wantReport(t, reports, fired(4))
		again()
		pid, reap = startSleep(t)
		p.put(t, "/guest/a", pid)
		wantQuiet(t, reports)
		if err := poller.Follow(fd, 5, poller.sink); err != nil {
			t.Fatal(err)
		}
		wantReport(t, reports, fired(5))
		again()
		poller.Remove(fd)
		reap()
		wantQuiet(t, reports)
	})
}

// Two guests give the same key to opens of their own.
func TestPollSinks(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		first, reports1 := startPoller(t, p.hier.host)
		second, reports2 := startPoller(t, p.hier.host)
		fd1, _ := openEvents(t, p.a)
		fd2, _ := openEvents(t, p.a)
		for _, err := range []error{first.Add(fd1, 1), second.Add(fd2, 1)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		pid, _ := startSleep(t)
		p.put(t, "/guest/a", pid)
		wantReport(t, reports1, fired(1))
		wantReport(t, reports2, fired(1))
		first.Remove(fd1)
		if err := second.Add(fd2, 2); err != nil {
			t.Fatal(err)
		}
		wantReport(t, reports2, fired(2))
		wantQuiet(t, reports1)
		second.Remove(fd2)
	})
}

// Remove waits for the sink that runs, and it is the last time.
func TestPollRemoveWaits(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		poller, err := p.hier.host.Poller()
		if err != nil {
			t.Fatal(err)
		}
		fd, err := p.a.OpenFile("cgroup.events", unix.O_RDONLY) // not read: fires whenever it is added
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		for range 50 {
			var removed atomic.Bool
			started := make(chan struct{})
			if err := poller.Add(fd, 1, func(uint64, uint32) {
				close(started)
				time.Sleep(time.Millisecond)
				if removed.Load() {
					t.Error("a report after Remove")
				}
			}); err != nil {
				t.Fatal(err)
			}
			<-started
			poller.Remove(fd)
			removed.Store(true)
		}
		if len(poller.waits) != 0 {
			t.Errorf("kept: %v", poller.waits)
		}
	})
}

func TestPollerErrors(t *testing.T) {
	h := &Host{}
	defer h.Close()
	poller, reports := startPoller(t, h)
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := poller.Add(int(f.Fd()), 1); !errors.Is(err, unix.EPERM) {
		t.Errorf("a regular file: %v, want EPERM", err)
	}
	if err := poller.Add(-1, 1); !errors.Is(err, unix.EBADF) {
		t.Errorf("no descriptor: %v, want EBADF", err)
	}
	if len(poller.waits) != 0 {
		t.Errorf("kept: %v", poller.waits)
	}
	h.Close()
	if err := poller.Add(0, 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Add after Close: %v, want os.ErrClosed", err)
	}
	wantQuiet(t, reports)
}
