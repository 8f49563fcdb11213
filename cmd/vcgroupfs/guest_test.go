package main

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api/apitest"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/top"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// fakeDaemon is a backend that has one guest, and keeps what was asked of it.
type fakeDaemon struct {
	api.Hub
	mu    sync.Mutex
	asked []string
	spec  api.GuestSpec
	looks int64
	err   error
}

func (d *fakeDaemon) note(what ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, strings.Join(what, " "))
	return d.err
}

func (d *fakeDaemon) last() (asked string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked, d.asked = strings.Join(d.asked, "; "), nil
	return asked
}

func (d *fakeDaemon) web() api.Guest {
	return api.Guest{Name: "web", Spec: d.spec, Hierarchies: []string{"memory", "pids"}, Since: time.Unix(1e9, 0), Open: 3}
}

func (d *fakeDaemon) Info() api.Info       { return api.Info{} }
func (d *fakeDaemon) Guests() []api.Guest  { return []api.Guest{d.web()} }
func (d *fakeDaemon) InGuest(pid int) bool { return false }

func (d *fakeDaemon) OfRuntime(
	_ string, spec api.GuestSpec, p *policy.Policy, _ int,
) (api.GuestSpec, *policy.Policy, error) {
	return spec, p, d.note("runtime")
}

func (d *fakeDaemon) Guest(name string) (api.Guest, error) {
	if name != "web" {
		return api.Guest{}, fault.New(fault.NotFound, "cannot find the guest %s", name)
	}
	return d.web(), nil
}

func (d *fakeDaemon) Add(_ context.Context, name string, spec api.GuestSpec, _ *policy.Policy, by api.Maker) (api.Guest, bool, error) {
	raw, _ := json.Marshal(spec)
	what := []string{"add", name, string(raw)}
	if by.By != api.ByHand {
		what = append(what, "as", by.String())
	}
	return api.Guest{Name: name, Spec: spec}, name != "web", d.note(what...)
}

func (d *fakeDaemon) Remove(_ context.Context, name string, by api.Maker, force bool) error {
	if _, err := d.Guest(name); err != nil {
		return err
	}
	if force {
		return d.note("rm", name, "by force")
	}
	return d.note("rm", name)
}

func (d *fakeDaemon) Do(_ context.Context, verb api.Verb, name string) (any, error) {
	if verb != api.Tree {
		return nil, d.note(string(verb), name)
	}
	_, err := d.Guest(name)
	none := api.Figures{CPUUsec: -1, MemoryBytes: -1, MemoryLimit: -1, Pids: -1, PidsLimit: -1}
	return api.Cgroup{
		Name: "/", Hierarchies: []string{"memory", "pids"}, Processes: []api.Process{{Pid: 7, Command: "init"}},
		Figures: api.Figures{CPUUsec: 1_234_567, MemoryBytes: 1536 << 10, MemoryLimit: 1 << 30, Pids: 3, PidsLimit: 64},
		Children: []api.Cgroup{
			{Name: "a\x1b[2J", Figures: none, Processes: []api.Process{{Pid: 8, Command: "sh\nx"}, {Pid: 9, Command: "cat"}}},
			{Name: "b", Figures: api.Figures{Frozen: true, CPUUsec: -1, MemoryBytes: -1, MemoryLimit: -1, Pids: 1, PidsLimit: -1}, Children: []api.Cgroup{{Name: "c", Figures: none}}},
		},
	}, err
}

func (d *fakeDaemon) Top() []api.Usage {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looks++
	return []api.Usage{
		{Name: "idle", Figures: api.Figures{CPUUsec: -1, MemoryBytes: 5 << 30, MemoryLimit: -1, Pids: 2, PidsLimit: -1}, Requests: 5, Denials: 9},
		{Name: "web", Figures: api.Figures{CPUUsec: 50_000 * d.looks, MemoryBytes: 100, MemoryLimit: 200, Pids: 1, PidsLimit: 4}, Requests: uint64(100 * d.looks)},
	}
}

func (d *fakeDaemon) Set(name string, limits []api.Limit) ([]api.Change, error) {
	if limits[0].Value == "0" {
		return nil, d.note("set", name)
	}
	return []api.Change{{Path: "/a", File: limits[0].File, From: "max", To: limits[0].Value}}, d.note("set", name)
}

func (d *fakeDaemon) Upgrade(context.Context, string) error { return nil }

func (d *fakeDaemon) ShowType(context.Context, int, api.TypeRequest) error { return nil }

// run starts the daemon and has the commands of this process ask it.
func (d *fakeDaemon) run(t *testing.T) {
	t.Setenv("VCGROUPFS_SOCKET", apitest.Serve(t, d))
}

// TestGuestUsage: wrong command lines are refused before anybody is asked.
func TestGuestUsage(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("version: 1\nnonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VCGROUPFS_SOCKET", filepath.Join(dir, "none"))
	const add = "guest add web --boundary /b --target /t "
	for _, c := range []struct {
		args      string
		code      int
		out, errs string
	}{
		{"guest", 2, "freeze", ""}, {"guest nonsense", 2, "", "allowed: add, rm,"}, {"guest --nonsense", 2, "", "vcgroupfs guest --help"},
		{"guest add --help", 0, "--boundary PATH", ""}, {"guest show web --help", 0, "NAME", ""}, {"guest show web -h", 0, "NAME", ""},
		{"guest add", 2, "", "one name for the guest; vcgroupfs guest add --help"}, {"guest add a b --pid 1", 2, "", "one name"},
		{"guest add ../x --pid 1 --target /t", 2, "", "cannot use the name"}, {"guest add web --target /t", 2, "", "--boundary PATH or --pid PID"},
		{add + "--pid 1", 2, "", "either --boundary"}, {"guest add web --boundary /b --into /x", 2, "", "--pid PID"}, {"guest add web --pid 1 --stack", 2, "", "--into DIR"}, {"guest add web --pid 1 --no-stack", 2, "", "--into DIR"},
		{"guest add web --pid 1 --into /x --stack --no-stack", 2, "", "the opposite of each other"}, {"guest add web --boundary /b --current-cgroup", 2, "", "--pid PID"}, {"guest add web --boundary b --target /t", 2, "", `boundary: "b"`},
		{"guest add web --pid x --target /t", 2, "", "vcgroupfs guest add --help"}, {"guest add --pid x web", 2, "", "vcgroupfs guest add --help"},
		{"guest add web --pid -3 --target /t", 2, "", "--pid -3 is no process"}, {add + "--owner root", 2, "", "write UID:GID"}, {add + "--layout v9", 2, "", "allowed: auto"},
		{add + "--controllers cpux", 2, "", "no such controller"}, {add + "--controllers ,", 2, "", "no controller"}, {add + "--limit x", 2, "", "FILE=VALUE"},
		{add + "--limit a/b=1", 2, "", "FILE=VALUE"}, {add + "--limit a=1 --limit a=2", 2, "", "given twice"}, {add + "--policy " + bad, 3, "", `bad.yaml:2:1: "nonsense": unknown key`},
		{add + "--policy /nonexistent", 3, "", "no such file"}, {add + "--bogus", 2, "", "there is no option --bogus; vcgroupfs guest add --help"}, {add + "--limit", 2, "", "needs an argument"},
		{add, 5, "", "start it with: vcgroupfs serve"}, {"guest ls x", 2, "", "no argument"}, {"guest ls", 5, "", "the daemon is not running"},
		{"guest rm", 2, "", "the names of the guests"}, {"guest rm a b", 5, "", "not running"}, {"guest rm a ../b", 2, "", "cannot use the name"}, {"guest show", 2, "", "one guest"},
		{"guest tree a b", 2, "", "one guest"}, {"guest top --sort x", 2, "", "allowed: name, cpu, memory, pids, requests, denials"},
		{"guest top --interval 1ms", 2, "", "allowed: 100ms to 1h"}, {"guest top --interval x", 2, "", "vcgroupfs guest top --help"}, {"guest top --count 0", 2, "", "give 1 or more"},
		{"guest show a b --watch", 2, "", "one guest"}, {"guest show ../x --watch", 2, "", "cannot use the name"}, {"guest show web --interval 1s", 2, "", "is for --watch"},
		{"guest show web --watch --interval 2h", 2, "", "allowed: 100ms to 1h"}, {"guest show web --watch", 5, "", "not running"}, {"guest top", 5, "", "not running"},
		{"guest top --help", 0, "draw the screen anew", ""},
		{"guest events x", 2, "", "--guest NAME"}, {"guest events --guest ../x", 2, "", "cannot use the name"}, {"guest events", 5, "", "not running"},
		{"guest set web", 2, "", "a guest and what to set"}, {"guest set web x", 2, "", "FILE=VALUE"}, {"guest freeze", 2, "", "one guest"},
		{"guest kill web --json", 2, "", "there is no option --json"}, {"guest ls --socket " + dir, 5, "", "cannot reach the daemon at"},
	} {
		code, out, errs := try(strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.errs) || c.errs != "" && strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: %d, %q, %q; want %d, %q, %q", c.args, code, out, errs, c.code, c.out, c.errs)
		}
	}
}

// TestGuestCommands: what each command asks and prints.
func TestGuestCommands(t *testing.T) {
	d := &fakeDaemon{spec: api.GuestSpec{Boundary: "/machines/web", Target: "/srv/web", Policy: "version: 1\n# \x1b[2J\n", Limits: map[string]string{"pids.max": "64"}}}
	d.run(t)
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("p.yaml", []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args       string
		code       int
		out, asked string
	}{
		{"guest add new --boundary /b --target t --policy p.yaml --controllers cpu,memory --owner 1:2 --layout v1 --limit pids.max=7 --limit cpu.max=1", 0, "added new at " + dir + "/t\n",
			`add new {"boundary":"/b","target":"` + dir + `/t","controllers":["cpu","memory"],"policy":"version: 1\n","owner":"1:2","layout":"v1","limits":{"cpu.max":"1","pids.max":"7"}}`},
		{"guest add --pid 7 --target=/t web", 0, "web is there already, at /t\n", `add web {"pid":7,"target":"/t"}`},
		{"guest rm web", 0, "", "rm web"}, {"guest rm none web", 6, "", "rm web"},
		{"guest ls", 0, "web   /machines/web  /srv/web  memory pids", ""}, {"guest ls --json", 0, `"hierarchies": [`, ""},
		{"guest show web", 0, "limit        pids.max=64\n", ""}, {"guest show web", 0, `    # \x1b[2J`, ""}, {"guest show web --json", 0, `"boundary": "/machines/web"`, ""}, {"guest show none", 6, "", ""}, {"guest show none --watch", 6, "", ""},
		{"guest tree web", 0, "CGROUP", ""}, {"guest tree --json web", 0, `"command": "init"`, ""},
		{"guest set web pids.max=32", 0, "/a      pids.max  max   32\n", "set web"}, {"guest set web pids.max=0", 0, "nothing to change\n", "set web"},
		{"guest set web --json pids.max=32 cpu.max=1", 0, `"path": "/a"`, "set web"}, {"guest freeze web", 0, "", "freeze web"}, {"guest thaw web", 0, "", "thaw web"}, {"guest kill -- web", 0, "", "kill web"},
	} {
		code, out, errs := try(strings.Fields(c.args)...)
		if asked := d.last(); code != c.code || !strings.Contains(out, c.out) || asked != c.asked || strings.ContainsAny(out, "\x1b") {
			t.Errorf("%q: %d, %q, %q, asked %q; want %d, %q, %q", c.args, code, out, errs, asked, c.code, c.out, c.asked)
		}
	}
	for _, v := range guestVerbs {
		if code, out, errs := try("guest", string(v.verb), "web"); code != 0 || out != "" || d.last() != string(v.verb)+" web" {
			t.Errorf("%s: %d, %q, %q", v.verb, code, out, errs)
		}
	}
	for kind, exit := range map[fault.Kind]int{
		fault.Conflict: 1, fault.Unsupported: 4, fault.Invalid: 2, fault.Failed: 1, fault.NotFound: 6, fault.Forbidden: 4,
	} {
		d.err = fault.New(kind, "why")
		if got, _, errs := try("guest", "freeze", "web"); got != exit || errs != "vcgroupfs: why\n" {
			t.Error(kind.Code(), got, errs)
		}
	}
}

// TestGuestTree: the drawing, with nothing of a guest's that moves the cursor.
func TestGuestTree(t *testing.T) {
	d := &fakeDaemon{}
	d.run(t)
	_, out, _ := try("guest", "tree", "web")
	const want = `CGROUP         CPU    MEMORY   TASKS  STATE   HIERARCHIES
web            1.23s  1.5M/1G  3/64   -       memory pids
├─ 7 init
├─ a\x1b[2J    -      -        -      -
│  ├─ 8 sh\nx
│  └─ 9 cat
└─ b           -      -        1      frozen
   └─ c        -      -        -      -
`
	if out != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}
}

// TestGuestTop: rates from two looks, and the orders.
func TestGuestTop(t *testing.T) {
	d := &fakeDaemon{}
	d.run(t)
	for sort, first := range map[string]string{"name": "idle", "cpu": "web", "memory": "idle", "pids": "idle", "requests": "web", "denials": "idle"} {
		code, out, errs := try("guest", "top", "--interval", "100ms", "--json", "--sort", sort)
		var rows []top.Row
		if err := json.Unmarshal([]byte(out), &rows); code != 0 || err != nil || len(rows) != 2 || rows[0].Name != first {
			t.Error(sort, code, out, errs, err)
			continue
		}
		web := rows[0]
		if first == "idle" {
			web = rows[1]
		}
		// Both are for the same time, which is at least the interval and longer on a loaded machine.
		if web.CPUPercent <= 0 || web.CPUPercent > 51 || math.Abs(web.RequestsPerSecond/web.CPUPercent-20) > 0.01 || web.MemoryLimit != 200 {
			t.Errorf("%+v", web)
		}
	}
	code, out, _ := try("guest", "top", "--interval", "100ms", "--count", "2")
	if code != 0 || strings.Count(out, "NAME\n") != 2 || !strings.Contains(out, "      5G      2 ") || !strings.Contains(out, " 100B/200B    1/4 ") || strings.Contains(out, "\x1b") {
		t.Error(code, out)
	}
}

// TestGuestTopScreen: on a terminal the first table is there at once, keys sort it and end it, and the terminal is as it was. TestTopScreen of the
// integration tests has the rest.
func TestGuestTopScreen(t *testing.T) {
	d := &fakeDaemon{}
	d.run(t)
	t.Setenv("TERM", "xterm")
	master, screen := openTerminal(t)
	before, err := unix.IoctlGetTermios(int(screen.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	app := newApp(screen, io.Discard)
	go func() { ended <- app.Run([]string{"vcgroupfs", "guest", "top", "--interval", "1h"}) }()
	var mu sync.Mutex
	var sent strings.Builder
	go io.Copy(writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return sent.Write(b)
	}), master)
	seen := 0
	until := func(parts ...string) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for _, part := range parts {
			for {
				mu.Lock()
				text := sent.String()
				mu.Unlock()
				if at := strings.Index(text[seen:], part); at >= 0 {
					seen += at + len(part)
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("no %q in %q", part, text[seen:])
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	until("\x1b[?1049h", "CPU%↓", "idle", "web", "keys")
	io.WriteString(master, "r")
	until("REQ/S↓")
	io.WriteString(master, "q")
	until("\x1b[?25h", "\x1b[?1049l")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if after, err := unix.IoctlGetTermios(int(screen.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the terminal's settings: %+v, before %+v, %v", after, before, err)
	}
	if d.looks != 1 {
		t.Errorf("the daemon was asked %d times, want 1: a key needs no look", d.looks)
	}
}

// TestGuestTopPlain: with --count, with --json and on a terminal that cannot move the cursor the table is printed, on a terminal, too.
func TestGuestTopPlain(t *testing.T) {
	d := &fakeDaemon{}
	d.run(t)
	for _, c := range []struct{ term, options, want string }{
		{"xterm", "--count 1", "STATE  NAME\r\n"}, {"xterm", "--json", `"cpuPercent": `}, {"dumb", "", "STATE  NAME\r\n"},
	} {
		t.Setenv("TERM", c.term)
		master, screen := openTerminal(t)
		app := newApp(screen, io.Discard)
		if err := app.Run(append([]string{"vcgroupfs", "guest", "top", "--interval", "100ms"}, strings.Fields(c.options)...)); err != nil {
			t.Error(err)
		}
		screen.Close()
		if out, _ := io.ReadAll(master); !strings.Contains(string(out), c.want) || strings.Contains(string(out), "\x1b") {
			t.Errorf("%+v: %q", c, out)
		}
	}
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// openTerminal makes a terminal for the time of a test.
func openTerminal(t *testing.T) (master, screen *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if screen, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	return master, screen
}

// TestGuestEvents: a line for each event.
func TestGuestEvents(t *testing.T) {
	d := &fakeDaemon{}
	d.run(t)
	r, w := io.Pipe()
	go func() {
		newApp(w, io.Discard).Run([]string{"vcgroupfs", "guest", "events", "--guest", "web"})
		w.Close()
	}()
	stop := make(chan struct{})
	go func() { // until it has subscribed
		for {
			d.Publish(api.Event{Kind: api.EventDenied, Guest: "web", Pid: 7, Operation: "open", Path: "/memory.max\x1b", Rule: "boundary", Reason: "read-only"})
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	line := make([]byte, 1000)
	n, err := r.Read(line)
	close(stop)
	r.Close()
	if !strings.HasSuffix(string(line[:n]), ` web denied uid=0 pid=7 operation=open path=/memory.max\x1b rule=boundary (read-only)`+"\n") {
		t.Errorf("%q, %v", line[:n], err)
	}
	d.Publish(api.Event{Kind: api.EventGone, Guest: "web"}) // the command finds that nobody reads, and ends
}
