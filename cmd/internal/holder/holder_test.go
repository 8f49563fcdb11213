package holder

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// TestHolder: kept descriptors go from worker to worker, over kill -9 and an upgrade, and listeners from answerer to
// answerer; the end is orderly, and the service manager was told all of it.
func TestHolder(t *testing.T) {
	m := newFakeManager(t)
	r := runHolder(t, nil)
	const settings = `settings {"maxGuests":2}, `
	first, rest := r.noted("worker", 1)
	r.serves(first)
	if want := `0 restarts, reason "", ` + settings + "kept"; rest != want {
		t.Errorf("the first worker: %s, want %s", rest, want)
	}
	syscall.Kill(first, unix.SIGKILL)
	second, rest := r.noted("worker", 2)
	if want := `1 restarts, reason "signal: killed", ` + settings + "kept 0/0=device 0/1=handle"; rest != want {
		t.Errorf("the second worker: %s, want %s", rest, want)
	}
	c, err := net.Dial("unix", r.config.Notify)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answerer, rest := r.noted("answerer", 1)
	if rest != settings+"kept" {
		t.Errorf("the first answerer: %s", rest)
	}
	eventually(t, "the word on the listener", func() bool {
		return slices.Contains(m.read(), "FDSTOREREMOVE=1 FDNAME=listener-8-word")
	})
	syscall.Kill(answerer, unix.SIGKILL)
	if _, rest = r.noted("answerer", 2); rest != settings+"kept 7-word=listener" {
		t.Errorf("the second answerer: %s", rest)
	}
	r.serves(second)
	syscall.Kill(os.Getpid(), unix.SIGHUP) // systemctl reload
	third, rest := r.noted("worker", 3)
	want := `1 restarts, reason "upgrade", ` + settings + "kept 0/0=device 0/1=handle"
	if rest != want || third == second {
		t.Errorf("the upgraded worker: %s, want %s", rest, want)
	}
	r.noted("answerer", 3)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		"the worker (process", "the holder upgrades to", "terminated: the worker removes all guests",
		"the view of guest web is ended",
	} {
		if !strings.Contains(r.log(), want) {
			t.Errorf("the log has no %q: %s", want, r.log())
		}
	}
	if left, _ := filepath.Glob(r.dir + "/[sn]*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	wantTold(t, m.read())
}

// wantTold checks what the service manager of TestHolder was told.
func wantTold(t *testing.T, told []string) {
	t.Helper()
	for _, want := range []string{
		"FDSTORE=1 FDPOLL=0 FDNAME=arena", "FDSTORE=1 FDPOLL=0 FDNAME=calls", "FDSTORE=1 FDPOLL=0 FDNAME=device-0",
		"FDSTORE=1 FDPOLL=0 FDNAME=listener-7-word", "READY=1 STATUS=serving", "STATUS=upgrading", "STOPPING=1",
		"FDSTOREREMOVE=1 FDNAME=listener-7-word", "FDSTOREREMOVE=1 FDNAME=device-0",
	} {
		if !slices.Contains(told, want) {
			t.Errorf("the manager was not told %q but %q", want, told)
		}
	}
}

// TestHolderGivesUp: workers that exit at once have it give up, with views ended and an error.
func TestHolderGivesUp(t *testing.T) {
	r := runHolder(t, nil)
	pid, _ := r.noted("worker", 1)
	r.serves(pid)
	r.post(func() { r.supervisor.giveUp = time.Second })
	if err := os.WriteFile(os.Getenv(failVariable), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, unix.SIGKILL)
	const why = "cannot keep a worker alive: the last one ended with exit status 1"
	if err := r.wait(); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("it ended with %v", err)
	}
	if want := "the view of guest web is ended"; !strings.Contains(r.log(), want) {
		t.Errorf("the log has no %q: %s", want, r.log())
	}
}

// TestHolderWatchdog: a worker that is stopped is killed and replaced.
func TestHolderWatchdog(t *testing.T) {
	r := runHolder(t, func(c *Config) { c.Watchdog = time.Second })
	r.post(func() { r.supervisor.watchdog = time.Hour }) // a busy machine takes long to start a worker
	pid, _ := r.noted("worker", 1)
	r.serves(pid)
	syscall.Kill(pid, unix.SIGSTOP)
	r.post(func() { r.supervisor.watchdog = time.Second })
	eventually(t, "the watchdog", func() bool { return strings.Contains(r.log(), "has not beaten for 1s") })
	r.post(func() { r.supervisor.watchdog = time.Hour })
	if _, rest := r.noted("worker", 2); !strings.Contains(rest, `reason "signal: killed"`) {
		t.Errorf("the second worker: %s; the log: %s", rest, r.log())
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// TestHolderRefusesProgram: what is no program does not replace the worker, and stays open nowhere.
func TestHolderRefusesProgram(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{plain, plain + "-missing", "/bin/true"} {
		r := runHolder(t, func(c *Config) { c.Program = program })
		pid, _ := r.noted("worker", 1)
		r.serves(pid)
		syscall.Kill(os.Getpid(), unix.SIGHUP)
		eventually(t, "the refusal", func() bool { return strings.Contains(r.log(), "the old worker stays") })
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("the old worker: %v", err)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if len(r.programs) > 0 {
			t.Errorf("%s is open", program)
		}
	}
}

// TestAdopt: what the service manager kept for a holder before goes to the next one; without the arena it is of no use.
func TestAdopt(t *testing.T) {
	arena, err := state.New(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	duplicate := func(f *os.File) int {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	newHolder := func() *Holder {
		h := &Holder{log: logrus.NewEntry(logrus.New())}
		h.log.Logger.SetOutput(&strings.Builder{})
		h.store = newStore(&h.manager)
		return h
	}
	h, before := newHolder(), openFiles(t)
	types, err := h.adopt(map[string]int{
		arenaName: duplicate(arena.File()), "device-3": memfd("d"), "listener-5-listener.web": memfd("l"),
		"type-1-views": memfd("t"), "unknown": memfd("u"), "listener-x": memfd("x"), callsName: memfd("no calls"),
	})
	if err != nil {
		t.Fatal(err)
	}
	items, fds := h.store.guests()
	if len(items) != 1 || items[0] != (item{3, DeviceKey}) || textOf(fds[0]) != "d" {
		t.Errorf("of guests: %v", items)
	}
	l := h.store.listeners()
	if len(l) != 1 || l[0].Key != 5 || l[0].Word != "listener.web" || textOf(l[0].FD) != "l" {
		t.Errorf("listeners: %v", l)
	}
	if h.arena == nil || h.supervisor.reason != "the holder was replaced" || len(types) != 1 {
		t.Errorf("%+v, types %v", h.supervisor, types)
	}
	h.store.dropListeners()
	h.store.forgetGuests()
	h.arena.Close()
	h.config.NoBPF = true
	h.loadTypes(types)
	if now := openFiles(t); now > before {
		t.Errorf("%d descriptors, %d before", now, before)
	}

	h = newHolder()
	if _, err := h.adopt(map[string]int{"device-3": memfd("d")}); err != nil || h.store.hasGuests() {
		t.Errorf("without an arena: %v, kept %v", err, h.store.held)
	}
	if _, err := h.adopt(map[string]int{arenaName: memfd("no arena")}); err == nil {
		t.Error("it adopts what is no arena")
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
