package holder

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// TestManagerQueue: what the manager's socket has no room for is sent later, in order, with its descriptors.
func TestManagerQueue(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "3000")
	f := newFakeManager(t)
	before := openFiles(t)
	later := 0
	m := findManager(logrus.NewEntry(logrus.New()), func() { later++ })
	if os.Getenv("NOTIFY_SOCKET") != "" || m.every != time.Millisecond {
		t.Errorf("%q is left for the children; a sign of life each %v", os.Getenv("NOTIFY_SOCKET"), m.every)
	}
	var want []string
	for i := 0; later == 0; i++ {
		fd := memfd("stored")
		m.storeFD(strconv.Itoa(i), fd)
		unix.Close(fd)
		want = append(want, "FDSTORE=1 FDPOLL=0 FDNAME="+strconv.Itoa(i))
	}
	m.stopping()
	m.alive() // due when the queue is empty
	want = append(want, "STOPPING=1")
	m.retry() // no room yet
	if later != 2 || len(m.queue) != 2 {
		t.Errorf("%d messages wait, called %d times", len(m.queue), later)
	}
	for len(m.queue) > 0 {
		f.read()
		m.retry()
	}
	if told := f.read(); !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	m.alive()
	m.alive()
	m.unstore("x")
	if told := f.read()[len(want):]; !slices.Equal(told, []string{"WATCHDOG=1", "FDSTOREREMOVE=1 FDNAME=x"}) {
		t.Errorf("told %q", told)
	}
	if now := openFiles(t); now > before { // those of the tests before go late
		t.Errorf("%d descriptors, %d before", now, before)
	}
}

// TestManagerGone: a manager that does not listen is logged and ignored; one that never reads has a bound on what waits
// for it.
func TestManagerGone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "missing"))
	var logged strings.Builder
	log := logrus.New()
	log.SetOutput(&logged)
	m := findManager(logrus.NewEntry(log), func() {})
	m.ready()
	if !strings.Contains(logged.String(), "cannot tell the service manager") || len(m.queue) > 0 {
		t.Errorf("%d messages wait; %s", len(m.queue), logged.String())
	}
	m.queue = make([]notice, maxQueue)
	logged.Reset()
	m.reloading()
	m.reloading()
	if n := strings.Count(logged.String(), "the queue of messages is full"); n != 1 || len(m.queue) != maxQueue {
		t.Errorf("logged %d times, %d messages", n, len(m.queue))
	}
	m.queue = []notice{{"x", -1}}
	m.flush()
	if len(m.queue) > 0 {
		t.Error("a message that cannot be sent is kept")
	}
	for _, err := range []error{unix.EAGAIN, unix.ENOBUFS, unix.ETOOMANYREFS} {
		if !isFull(os.NewSyscallError("sendmsg", err)) {
			t.Errorf("%v is final", err)
		}
	}
	if isFull(errors.New("x")) {
		t.Error("any error is tried again")
	}
}

// TestInherited: descriptors are of the process that the manager names alone.
func TestInherited(t *testing.T) {
	m := manager{}
	for pid, want := range map[string]int{strconv.Itoa(os.Getpid()): 1, "1": 0, "": 0} {
		t.Setenv("LISTEN_PID", pid)
		t.Setenv("LISTEN_FDS", "1")
		t.Setenv("LISTEN_FDNAMES", "arena")
		if got := m.inherited(); len(got) != want || want == 1 && got["arena"] != firstFD {
			t.Errorf("LISTEN_PID=%s: %v", pid, got)
		}
		if os.Getenv("LISTEN_FDS") != "" {
			t.Error("the children inherit the variables")
		}
	}
}
