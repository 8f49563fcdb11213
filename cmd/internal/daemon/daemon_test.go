package daemon

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
)

// newDaemon assembles a daemon without a holder, with the arena, the host and the log of the parts.
func (x *parts) newDaemon(t *testing.T) *Daemon {
	t.Helper()
	l, err := net.Listen("unix", x.dir+"/api.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	d := &Daemon{version: "test", settings: Settings{Socket: x.dir + "/api.sock", MaxGuests: 4, MaxBlocking: 4, MaxOpen: 9},
		log: x.told().log, worker: &holder.Worker{Arena: x.arena, Socket: socket}, paths: x.paths(), ended: make(chan struct{})}
	d.assemble(x.host)
	d.making.keepers, d.removing.keepers = x.making.keepers, x.making.keepers
	x.table, x.making, x.removing = d.table, d.making, d.removing
	return d
}

// TestDaemon: what a worker without guests answers, and that it ends.
func TestDaemon(t *testing.T) {
	for what, end := range map[string]func(*Daemon){"stop": (*Daemon).stop, "drain": (*Daemon).drain} {
		x := newParts(t)
		d := x.newDaemon(t)
		if err := d.serveAPI(); err != nil {
			t.Fatal(err)
		}
		if i := d.Info(); i.Version != "test" || i.Pid != os.Getpid() || i.Guests != 0 || i.Since.IsZero() {
			t.Errorf("%+v", i)
		}
		if all, top := d.Guests(), d.Top(); all == nil || len(all) > 0 || top == nil || len(top) > 0 || d.InGuest(os.Getpid()) {
			t.Error(all, top)
		}
		_, err := d.Guest("web")
		_, errSet := d.Set("web", nil)
		for _, err := range []error{err, errSet, d.Remove(t.Context(), "web", api.Maker{}, false)} {
			if fault.Of(err) != fault.NotFound {
				t.Error(err)
			}
		}
		for _, verb := range api.Verbs() {
			if answer, err := d.Do(t.Context(), verb, "web"); answer != nil || fault.Of(err) != fault.NotFound {
				t.Error(verb, answer, err)
			}
		}
		err = d.ShowType(t.Context(), 1, api.TypeRequest{})
		if fault.Of(err) != fault.Unsupported {
			t.Error(err)
		}
		if _, made, err := d.Add(t.Context(), "web", api.GuestSpec{Target: x.dir + "/none"}, nil, api.Maker{}); made || fault.Of(err) != fault.Missing {
			t.Error(made, err)
		}
		_, cancel := d.Subscribe("")
		cancel()
		if len(d.lookout.urgent) != 1 {
			t.Error("no sweep for a new subscriber")
		}
		d.clearViews()
		d.beatOnce(t)
		end(d)
		select {
		case <-d.ended:
		case <-time.After(time.Minute):
			t.Errorf("%s: the worker goes on", what)
		}
		if !d.table.isClosing() || d.healthy() == nil {
			t.Errorf("%s: not closing", what)
		}
		d.end()
		if log := x.log.since(); strings.Contains(log, "level=error") {
			t.Error(log)
		}
	}
}

// beatOnce checks that the worker's heart beats.
func (d *Daemon) beatOnce(t *testing.T) {
	t.Helper()
	before, _ := d.worker.Arena.Heartbeat()
	go d.beat()
	eventually(t, "a heartbeat", func() bool { now, _ := d.worker.Arena.Heartbeat(); return now > before })
}

// TestDaemonGuests: what is answered about a guest; with verbs and limits that change nothing of it.
func TestDaemonGuests(t *testing.T) {
	x := newParts(t)
	d := x.newDaemon(t)
	g, _ := x.served(t, "web")
	if all := d.Guests(); len(all) != 1 || all[0].Name != "web" {
		t.Errorf("%+v", all)
	}
	if got, err := d.Guest("web"); err != nil || got.Name != "web" {
		t.Error(got, err)
	}
	if top := d.Top(); len(top) != 1 || top[0].Name != "web" {
		t.Errorf("%+v", top)
	}
	answer, err := d.Do(t.Context(), api.Tree, "web")
	if tree, ok := answer.(api.Cgroup); !ok || err != nil || tree.Name != "/" || len(tree.Hierarchies) != 1 {
		t.Errorf("%+v, %v", answer, err)
	}
	if _, err := d.Do(t.Context(), api.Attach, "web"); fault.Of(err) != fault.Invalid {
		t.Error(err)
	}
	if _, err := d.Set("web", []api.Limit{{File: "none.max", Value: "1"}}); fault.Of(err) != fault.Invalid {
		t.Error(err)
	}
	d.making.types.showAll(d.table.all())
	d.sweeper.check(g)
	d.sweeper.check(x.guest("other"))
	if x.named("web") != g {
		t.Error("a sweep has removed the guest")
	}
	d.stopAPI = func() {}
	d.stop()
	if <-d.ended; len(d.table.all()) > 0 || g.served() != nil {
		t.Error("a guest is left")
	}
}

// TestDaemonDrains: guests are left to the next worker, and no sweep removes them.
func TestDaemonDrains(t *testing.T) {
	x := newParts(t)
	d := x.newDaemon(t)
	g, _ := x.served(t, "web")
	d.stopAPI = func() {}
	d.drain()
	<-d.ended
	<-g.served().Done
	d.sweeper.check(g)
	if x.named("web") != g || len(x.arena.Regions()) != 1 {
		t.Error("the guest was removed")
	}
	d.table.mu.Lock()
	d.table.closing = false
	d.table.mu.Unlock()
	d.sweeper.check(g)
	if x.named("web") != nil {
		t.Error("the guest is left")
	}
}

// TestResumeAll: self comes after the guests, descriptors that nobody uses are closed, and what cannot go on is told.
func TestResumeAll(t *testing.T) {
	x := newParts(t)
	d := x.newDaemon(t)
	d.self.cfg.keepers = x.making.keepers
	d.start.Reason = "it was killed"
	entry, err := selfRecord{target: "/run/self"}.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.arena.Allocate(entry); err != nil {
		t.Fatal(err)
	}
	id, controller := x.place(t)
	rec := record{Name: "web", Spec: api.GuestSpec{Boundary: id.Path, Controllers: []string{controller}}, Boundaries: []boundaryID{id}}
	web, held, _ := x.left(t, rec)
	bad, badHeld, _ := x.left(t, record{})
	null := func() int {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	all := map[int]map[uint64]int{web.Index(): held, 7: {1: null()}, bad.Index(): badHeld}
	d.resume(all)
	log := x.log.since()
	guest := strings.Index(log, "cannot go on with guest")
	if self := strings.Index(log, "cannot go on with self at /run/self: it is not asked for any more"); guest < 0 || self < guest {
		t.Error(log)
	}
	if x.named("web") == nil || len(x.arena.Regions()) != 1 {
		t.Error(x.all(), len(x.arena.Regions()))
	}
	if !strings.Contains(web.Label(), "the view of guest web") {
		t.Error(web.Label())
	}
	if len(x.kept.forgot) != 3 {
		t.Errorf("%d regions are forgotten", x.kept.forgot)
	}
	x.remove(x.named("web"), "", "")
}

// TestShareFiles: the first worker warns of too few descriptors.
func TestShareFiles(t *testing.T) {
	x := newParts(t)
	d := x.newDaemon(t)
	d.bound(x.host)
	if log := x.log.since(); log != "" {
		t.Errorf("enough: %s", log)
	}
	d.settings.MaxGuests = 1 << 30
	d.shareFiles(x.host)
	if log := x.log.since(); !strings.Contains(log, "raise RLIMIT_NOFILE") {
		t.Error(log)
	}
	d.start.Reason = "it was killed"
	d.shareFiles(x.host)
	if log := x.log.since(); log != "" {
		t.Errorf("a later worker: %s", log)
	}
}

// TestSettings: the settings are read as an older holder passes them on.
func TestSettings(t *testing.T) {
	raw := []byte(`{"socket":"/s","group":7,"guests":"/g","maxGuests":1,"maxOpen":2,"maxWatches":3,"maxBlocking":4,"maxRate":5,"maxCPU":6,` +
		`"self":{"path":"/p","containers":["/c"],"policy":"/y","controllers":["pids"]},"notify":"/n"}`)
	var s Settings
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(s); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("%s, %v", again, err)
	}
}
