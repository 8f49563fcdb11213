package host

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

type polled struct {
	key     uint64
	revents uint32
}

func startPoller(t *testing.T) (*Poller, <-chan polled) {
	t.Helper()
	reports := make(chan polled, 1000)
	p, err := NewPoller(func(key uint64, revents uint32) { reports <- polled{key, revents} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, reports
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
		if p.tree.Version == hierarchy.V2 {
			test(t, p)
		}
	})
}

func TestPollEvents(t *testing.T) {
	const key = 0xfedcba9876543210
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t)
		fd, again := openEvents(t, p.a)
		add := func() {
			t.Helper()
			if err := poller.Add(key, fd); err != nil {
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
		poller.Remove(key)
		poller.Remove(key)
		pid, reap = startSleep(t)
		p.put(t, "/guest/a", pid)
		reap()
		wantQuiet(t, reports)
	})
}

// A file that was not read since it was opened has something to say.
func TestPollUnread(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t)
		fd, err := p.a.OpenFile("cgroup.events", unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := poller.Add(1, fd); err != nil {
			t.Fatal(err)
		}
		wantReport(t, reports, fired(1))
	})
}

func TestPollRemoved(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t)
		fd, _ := openEvents(t, p.a)
		if err := p.tree.RemoveAll(p.top + "/guest/a"); err != nil {
			t.Fatal(err)
		}
		if err := poller.Add(1, fd); err != nil {
			t.Fatal(err)
		}
		wantReport(t, reports, fired(1))
	})
}

// Keys and descriptors change hands: a handle that was closed without Remove, a new one with its number, another key.
func TestPollKeysAndDescriptors(t *testing.T) {
	inV2(t, func(t *testing.T, p *playground) {
		poller, reports := startPoller(t)
		first, err := p.a.OpenFile("cgroup.events", unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		unix.Pread(first, make([]byte, 100), 0)
		if err := poller.Add(1, first); err != nil {
			t.Fatal(err)
		}
		unix.Close(first)
		second, again := openEvents(t, p.a)
		if second != first {
			t.Logf("the descriptor's number is new: %d, was %d", second, first)
		}
		for key := uint64(2); key <= 3; key++ {
			if err := poller.Add(key, second); err != nil {
				t.Fatal(err)
			}
		}
		poller.Remove(1)
		poller.Remove(2)
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
		if err := poller.Add(3, third); err != nil { // the same key for another descriptor
			t.Fatal(err)
		}
		if len(poller.byKey) != 1 || len(poller.byFD) != 1 {
			t.Errorf("kept: %v, %v", poller.byKey, poller.byFD)
		}
	})
}

func TestPollerErrors(t *testing.T) {
	poller, reports := startPoller(t)
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := poller.Add(1, int(f.Fd())); !errors.Is(err, unix.EPERM) {
		t.Errorf("a regular file: %v, want EPERM", err)
	}
	if err := poller.Add(1, -1); !errors.Is(err, unix.EBADF) {
		t.Errorf("no descriptor: %v, want EBADF", err)
	}
	if err := poller.Close(); err != nil {
		t.Fatal(err)
	}
	if err := poller.Add(1, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Add after Close: %v, want os.ErrClosed", err)
	}
	wantQuiet(t, reports)
}
