package integration

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// place is a boundary in the pids hierarchy and a directory for its view.
type place struct {
	tree *host.Hierarchy
	path string
	dir  string
	d    *daemon
}

func newPlace(t *testing.T, d *daemon, name string) *place {
	t.Helper()
	h := openHost(t)
	p := &place{tree: need(t, h, "pids"), d: d}
	p.path = boundary(t, name, p.tree)
	p.dir = publicDir(t)
	t.Cleanup(func() { d.stop(t) })
	d.mounts[p.dir] = true
	return p
}

// add is the command that adds the place as a guest.
func (p *place) add(name string, more ...string) []string {
	return append([]string{"guest", "add", name, "--boundary", p.path, "--controllers", "pids", "--target", p.dir}, more...)
}

// at is a file of the boundary as the guest sees it.
func (p *place) at(file string) string { return filepath.Join(topOf(p.dir, p.tree), file) }

func mounted(dir string) bool { return strings.Contains(readFile("/proc/self/mountinfo"), " "+dir+" ") }

// try runs the program's client and says its status and all that it printed.
func (d *daemon) try(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(program(t), append(args, "--socket", d.socket)...)
	out, _ := cmd.CombinedOutput()
	return cmd.ProcessState.ExitCode(), string(out)
}

// folded is where doctor begins a new line for want of columns.
var folded = regexp.MustCompile(`\n +`)

// wantTry runs the client and wants a status and a word of what it says.
func (d *daemon) wantTry(t *testing.T, status int, word string, args ...string) {
	t.Helper()
	got, out := d.try(t, args...)
	said := out
	if args[0] == "doctor" {
		said = folded.ReplaceAllString(out, " ")
	}
	if got != status || !strings.Contains(said, word) {
		t.Errorf("%s: status %d, %q; want %d and %q", strings.Join(args, " "), got, out, status, word)
	}
}

// events follows the daemon's events in the background.
func (d *daemon) events(t *testing.T) func() string {
	t.Helper()
	out, err := os.Create(filepath.Join(d.dir, "events"))
	if err != nil {
		t.Fatal(err)
	}
	ready, follows, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	defer follows.Close()
	cmd := exec.Command(program(t), "guest", "events", "--json", "--ready-fd", readyFD, "--socket", d.socket)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, os.Stderr, []*os.File{follows}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		out.Close()
	})
	follows.Close()
	ready.SetReadDeadline(time.Now().Add(patience))
	if word, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		t.Fatalf("guest events ended before it followed any: %q, %v", word, err)
	}
	return func() string { return readFile(out.Name()) }
}

// TestGuestLife: what becomes of one guest, from its beginning to each of its ends; a worker that is killed changes nothing.
func TestGuestLife(t *testing.T) {
	d := startDaemon(t)
	p := newPlace(t, d, "life")
	events := d.events(t)
	d.wantTry(t, 0, "added", p.add("web", "--limit", "pids.max=40")...)
	d.wantTry(t, 0, "", p.add("web", "--limit", "pids.max=40")...) // the same again
	d.wantTry(t, 1, "another configuration", p.add("web", "--limit", "pids.max=41")...)
	d.wantTry(t, 1, "is mounted at", p.add("other")...)
	if got := readFile(p.at("pids.max")); got != "40\n" {
		t.Errorf("the guest's limit is %q", got)
	}
	var before, after []struct {
		Name, Since string
	}
	if err := d.call("GET", "/v1/guests", nil, &before); err != nil || len(before) != 1 || before[0].Name != "web" {
		t.Fatalf("%v, %v", before, err)
	}
	d.signal(t, unix.SIGKILL, 0)
	d.ready(t)
	if err := d.call("GET", "/v1/guests", nil, &after); err != nil || len(after) != 1 || after[0] != before[0] {
		t.Errorf("after a restart: %v, %v; before %v", after, err, before)
	}
	d.wantTry(t, 0, "pids.max", "guest", "set", "web", "pids.max=30")
	if got := readFile(p.at("pids.max")); got != "30\n" {
		t.Errorf("the guest's limit is %q", got)
	}
	pid := sleeper(t)
	if err := p.tree.Attach(p.path, pid); err != nil {
		t.Fatal(err)
	}
	d.wantTry(t, 0, "sleep", "guest", "tree", "web")
	for _, args := range [][]string{{"ls"}, {"show", "web"}, {"tree", "web"}, {"top", "--count", "1"}} {
		_, out := d.try(t, append(append([]string{"guest"}, args...), "--json")...)
		if !json.Valid([]byte(strings.TrimSpace(out))) && !json.Valid([]byte("["+strings.ReplaceAll(strings.TrimSpace(out), "\n", ",")+"]")) {
			t.Errorf("%v --json: %q", args, out)
		}
	}
	withFile(p.at("pids.max"), unix.O_WRONLY, writeFD("max")) // denied
	d.wantTry(t, 0, "", "guest", "kill", "web")
	eventually(t, "the process to be killed", func() bool {
		return unix.Kill(pid, 0) == nil && strings.Contains(readFile("/proc/"+strconv.Itoa(pid)+"/stat"), ") Z ")
	})
	d.wantTry(t, 0, "", "guest", "rm", "web")
	d.wantTry(t, 6, "no guest", "guest", "rm", "web")
	if mounted(p.dir) {
		t.Error("a removed guest's view is mounted")
	}
	eventually(t, "the events", func() bool {
		got := events()
		for _, want := range []string{`"added"`, `"restarted"`, `"denied"`, `"removed"`} {
			if !strings.Contains(got, want) {
				return false
			}
		}
		return true
	})
	d.stop(t)
}

// TestGuestEnds: a guest whose boundary, process or view is gone is taken away by itself, and the log says so.
func TestGuestEnds(t *testing.T) {
	d := startDaemon(t)
	gone := func(name string) func() bool {
		return func() bool { status, _ := d.try(t, "guest", "show", name); return status == 6 }
	}
	p := newPlace(t, d, "boundary-gone")
	d.wantTry(t, 0, "", p.add("a")...)
	if err := p.tree.RemoveAll(p.path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a guest without a boundary to go", gone("a"))

	p = newPlace(t, d, "view-gone")
	d.wantTry(t, 0, "", p.add("b")...)
	if err := unix.Unmount(p.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a guest without a view to go", gone("b"))

	p = newPlace(t, d, "process-gone")
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.tree.Attach(p.path, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	d.wantTry(t, 0, "", "guest", "add", "c", "--pid", strconv.Itoa(cmd.Process.Pid), "--current-cgroup", "--controllers", "pids", "--target", p.dir)
	d.signal(t, unix.SIGKILL, 0) // the next worker knows the process as well
	d.ready(t)
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "a guest without its process to go", gone("c"))
	if mounted(p.dir) {
		t.Error("its view is mounted")
	}

	p = newPlace(t, d, "gone-meanwhile") // while there is no worker
	d.wantTry(t, 0, "", p.add("d")...)
	d.signal(t, unix.SIGSTOP, 0)
	if err := p.tree.RemoveAll(p.path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a guest whose boundary went while nobody served to go", gone("d"))
	d.stop(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		if !regexp.MustCompile(`(?m)level=warning msg="the guest is gone" guest=` + name + " reason=.+$").MatchString(d.log()) {
			t.Errorf("the log does not say that %s is gone, and why: %s", name, d.log())
		}
	}
}

// TestGuestRefused: what cannot be added leaves nothing behind, and says what is wrong.
func TestGuestRefused(t *testing.T) {
	d := startDaemon(t)
	p := newPlace(t, d, "refused")
	if err := p.tree.WriteFile(p.path, "pids.max", "77"); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(d.dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("version: 1\nfoo: 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(d.dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		word   string
		args   []string
	}{
		{2, "boundary", []string{"guest", "add", "x", "--target", p.dir}},
		{2, "target", []string{"guest", "add", "x", "--boundary", p.path, "--controllers", "pids", "--target", "/"}},
		{2, "name", p.add("../x")},
		{1, "no such cgroup", []string{"guest", "add", "x", "--boundary", p.path + "-missing", "--controllers", "pids", "--target", p.dir}},
		{2, "", []string{"guest", "add", "x", "--boundary", "/", "--controllers", "pids", "--target", p.dir}},
		{1, "no such file", []string{"guest", "add", "x", "--boundary", p.path, "--controllers", "pids", "--target", p.dir + "-missing"}},
		{1, "not a directory", []string{"guest", "add", "x", "--boundary", p.path, "--controllers", "pids", "--target", file}},
		{1, "own cgroup namespace", []string{"guest", "add", "x", "--pid", strconv.Itoa(os.Getpid()), "--controllers", "pids", "--target", p.dir}},
		{2, "--pid PID", []string{"guest", "add", "x", "--boundary", p.path, "--controllers", "pids", "--into", "/sys/fs/cgroup"}},
		{2, "--into DIR", []string{"guest", "add", "x", "--boundary", p.path, "--controllers", "pids", "--target", p.dir, "--stack"}},
		{1, "process", []string{"guest", "add", "x", "--pid", "4194304", "--controllers", "pids", "--target", p.dir}},
		{3, "foo", p.add("x", "--policy", bad)},
		{2, "owner", p.add("x", "--owner", "root")},
		{2, "layout", p.add("x", "--layout", "v3")},
		{-1, "no.such", p.add("x", "--limit", "pids.max=5", "--limit", "no.such=1")},
		{-1, "pids.max", p.add("x", "--limit", "pids.max=many")},
		{2, "", []string{"guest", "add", "x", "--boundary", p.path, "--controllers", "nonsense", "--target", p.dir}},
		{6, "no guest", []string{"guest", "set", "x", "pids.max=1"}},
		{6, "no guest", []string{"guest", "tree", "x"}},
	} {
		status, out := d.try(t, c.args...)
		if status == 0 || c.status > 0 && status != c.status || !strings.Contains(out, c.word) {
			t.Errorf("%s: status %d, %q; want %d and %q", strings.Join(c.args, " "), status, out, c.status, c.word)
		}
	}
	if info := d.ready(t); info.Guests != 0 || mounted(p.dir) {
		t.Errorf("%d guests, mounted %t", info.Guests, mounted(p.dir))
	}
	if got, err := p.tree.ReadFile(p.path, "pids.max"); got != "77\n" || err != nil {
		t.Errorf("the limit is %q, %v", got, err)
	}
	d.wantTry(t, 0, "added", p.add("x")...)
	d.stop(t)
}

// TestHalfMade: a worker that is killed while guests are added and removed leaves none half made, and who asked gets an answer.
func TestHalfMade(t *testing.T) {
	d := startDaemon(t)
	p, resend := newPlace(t, d, "half"), d.ready(t).Resend
	stop := make(chan struct{})
	ended := make(chan struct{})
	var killed atomic.Int32
	go func() {
		defer close(ended)
		last := 0
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(float64(60*time.Millisecond) / scale(t))):
				if pid := d.signal(t, unix.SIGKILL, last); pid != 0 {
					last = pid
					if killed.Add(1)%2 == 0 { // a busy machine may need longer than that for one, and the daemon gives up at last
						d.ready(t)
					}
				}
			}
		}
	}()
	for i := 0; i < scaled(t, 40, 5) || killed.Load() < 3 && i < 1000; i++ {
		if status, out := d.try(t, p.add("x")...); status != 0 {
			t.Errorf("add %d: status %d, %s", i, status, out)
		}
		got := readFile(p.at("pids.current"))
		for got == "ECONNABORTED" && !resend { // a worker was killed that had the request in its hands
			got = readFile(p.at("pids.current"))
		}
		if got != "0\n" {
			t.Errorf("add %d: pids.current is %q", i, got)
		}
		if status, out := d.try(t, "guest", "rm", "x"); status != 0 {
			t.Errorf("rm %d: status %d, %s", i, status, out)
		}
		if mounted(p.dir) {
			t.Errorf("rm %d: still mounted", i)
		}
	}
	close(stop)
	<-ended
	if info := d.ready(t); info.Guests != 0 || info.Restarts == 0 {
		t.Errorf("%+v", info)
	}
	d.stop(t)
}

// TestDeclared: guests that files declare come, change and go with them.
func TestDeclared(t *testing.T) {
	d := startDaemon(t)
	p, q := newPlace(t, d, "declared-a"), newPlace(t, d, "declared-b")
	file := func(name string) string { return filepath.Join(d.dir, "guests", name+".yaml") }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(file(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spec := func(p *place, more string) string {
		return "boundary: " + p.path + "\ntarget: " + p.dir + "\ncontrollers: [pids]\n" + more
	}
	has := func(name string, want bool) func() bool {
		return func() bool { return (d.call("GET", "/v1/guests/"+name, nil, nil) == nil) == want }
	}
	write("bad", spec(q, "colour: red\n"))
	write("a", spec(p, "limits: {pids.max: \"12\"}\n"))
	write("plain", "boundary: "+p.path+"\ncontrollers: [pids]\n")
	eventually(t, "the declared guests", func() bool { return has("a", true)() && has("plain", true)() })
	eventually(t, "the word on the bad file", func() bool { return strings.Contains(d.log(), "colour") && strings.Contains(d.log(), "bad.yaml") })
	if got := readFile(p.at("pids.max")); got != "12\n" {
		t.Errorf("the limit is %q", got)
	}
	d.wantTry(t, 1, "declares it", "guest", "rm", "a")
	write("a", spec(p, "limits: {pids.max: \"13\"}\n"))
	eventually(t, "the changed guest", func() bool { return readFile(p.at("pids.max")) == "13\n" })
	since := guestSince(t, d, "plain")
	d.signal(t, unix.SIGKILL, 0)
	d.ready(t)
	time.Sleep(2 * time.Second) // the files are read each second
	if now := guestSince(t, d, "plain"); !now.Equal(since) {
		t.Errorf("a restart made the guest of a file that is unchanged anew: of %v, and now of %v", since, now)
	}
	if !has("a", true)() {
		t.Error("a restart took the declared guest away")
	}
	if err := os.WriteFile(filepath.Join(d.dir, "guests", "short.yml"), []byte(spec(q, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the word on the file of another name", func() bool { return strings.Contains(d.log(), "short.yml is not read") })
	if err := p.tree.RemoveAll(p.path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guests to go with their boundary", func() bool { return has("a", false)() && has("plain", false)() })
	if err := p.tree.Create(p.path, 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guests to come back with their boundary", func() bool { return has("a", true)() && has("plain", true)() })
	os.Remove(file("a"))
	os.Remove(file("plain"))
	eventually(t, "the guest to go with its file", has("a", false))

	policy := filepath.Join(d.dir, "guests", "policy.txt")
	if err := os.WriteFile(policy, []byte("version: 1\nquota: {cgroups: 1, depth: 1}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	write("b", strings.Replace(spec(q, "policy: policy.txt\n"), q.path, q.path+"-later", 1))
	eventually(t, "the word on the missing boundary", func() bool { return strings.Contains(d.log(), "-later") })
	if err := q.tree.Create(q.path+"-later", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.tree.RemoveAll(q.path + "-later") })
	eventually(t, "the guest whose boundary came later", has("b", true))
	os.Remove(file("bad"))
	os.Remove(file("b"))
	eventually(t, "it to go", has("b", false))
	d.stop(t)
}

// guestSince is when a guest was made.
func guestSince(t *testing.T, d *daemon, guest string) time.Time {
	t.Helper()
	var g struct{ Since time.Time }
	if err := d.call("GET", "/v1/guests/"+guest, nil, &g); err != nil {
		t.Fatal(err)
	}
	return g.Since
}

// TestServeRefuses: what is wrong on the command line of serve.
func TestServeRefuses(t *testing.T) {
	d := startDaemon(t)
	for _, c := range []struct {
		status int
		word   string
		args   []string
	}{
		{1, "another vcgroupfs serve", []string{"--socket", d.socket}},
		{2, "at most", []string{"--socket", "/tmp/" + strings.Repeat("x", 120)}},
		{2, "max-guests", []string{"--max-guests", "0"}},
		{2, "max-open", []string{"--max-open", "70000"}},
		{2, "max-rate", []string{"--max-rate", "-1"}},
		{2, "watchdog", []string{"--watchdog", "1ms"}},
		{2, "no such group", []string{"--group", "no-such-group"}},
		{2, "make the directory", []string{"--guests", d.dir + "/missing"}},
		{2, "no argument", []string{"x"}},
		{2, "--upgrade", []string{"--program", "/bin/true"}},
		{1, "choose another --notify", []string{"--socket", d.dir + "/other.sock"}},
		{1, "loopback", []string{"--socket", d.dir + "/other.sock", "--notify", "", "--metrics", "0.0.0.0:0"}},
		{5, "not running", []string{"--upgrade", "--socket", d.dir + "/none.sock"}},
		{1, "stays", []string{"--upgrade", "--socket", d.socket, "--program", "/bin/true"}},
		{1, "stays", []string{"--upgrade", "--socket", d.socket, "--program", d.dir + "/missing"}},
	} {
		cmd := exec.Command(program(t), append([]string{"serve"}, c.args...)...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.status || !strings.Contains(string(out), c.word) {
			t.Errorf("serve %s: status %d, %q; want %d and %q", strings.Join(c.args, " "), cmd.ProcessState.ExitCode(), out, c.status, c.word)
		}
	}
	if info := d.ready(t); info.Restarts != 0 {
		t.Errorf("%+v", info)
	}
	if left, _ := filepath.Glob(d.dir + "/other.sock*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	d.stop(t)
}

// loopback finds an address for a daemon. It is no fixed one: another run of these tests may be beside this one.
func loopback(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestProbes: health and figures on a loopback address, and nothing else there.
func TestProbes(t *testing.T) {
	address := loopback(t)
	d := startDaemonWith(t, program(t), []string{"--metrics", address})
	p := newPlace(t, d, "probes")
	d.wantTry(t, 0, "", p.add("web")...)
	withFile(p.at("pids.max"), unix.O_WRONLY, writeFD("max")) // denied
	readFile(p.at("pids.max"))
	for path, want := range map[string]int{"/healthz": 200, "/metrics": 200, "/v1/info": 404, "/v1/guests": 404} {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d: %s", path, resp.StatusCode, want, body)
		}
		if path != "/metrics" {
			continue
		}
		for _, line := range []string{
			`vcgroupfs_requests_total{operation="open",outcome="denied"} 1`, `vcgroupfs_requests_total{operation="open",outcome="ok"}`,
			`vcgroupfs_request_duration_seconds_bucket{operation="lookup"`, `vcgroupfs_denials_total{rule=`, "vcgroupfs_guests 1", "vcgroupfs_cgroups 0",
			"vcgroupfs_worker_restarts_total 0", "vcgroupfs_resume_seconds",
		} {
			if !strings.Contains(string(body), line) {
				t.Errorf("no %s in\n%s", line, body)
			}
		}
	}
	d.stop(t)
}

// withoutWorkers has no worker serve until the daemon has given up. Each is stopped before it can do anything: the watchdog kills it, and
// another one comes. Only what has become a worker is stopped: until its child has called execve, os/exec of the holder waits for it
// (CLONE_VFORK, vfork(2)).
func (d *daemon) withoutWorkers(t *testing.T) {
	t.Helper()
	last := process(0)
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, p := range children(d.cmd.Process.Pid) {
			if p != last && p.isWorker(d.cmd.Process.Pid) {
				syscall.Kill(int(p), unix.SIGSTOP)
				last = p
			}
		}
		select {
		case <-d.ended:
			return
		default:
		}
	}
	t.Fatal("serve has not given up")
}

// TestGiveUp: when no worker comes back, guests are not kept waiting, and serve says why it ends.
func TestGiveUp(t *testing.T) {
	giveUp := "2s"
	if scale(t) < 1 {
		giveUp = "12s" // the first worker may need 3 s there, and has no longer than that either
	}
	d := startDaemonWith(t, program(t), []string{"--give-up", giveUp})
	p := newPlace(t, d, "give-up")
	d.wantTry(t, 0, "", p.add("x")...)
	kept, err := unix.Open(p.at("cgroup.procs"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(kept)
	d.withoutWorkers(t)
	if d.err == nil || mounted(p.dir) || !strings.Contains(d.log(), "cannot keep a worker alive") {
		t.Errorf("ended with %v, mounted %t: %s", d.err, mounted(p.dir), d.log())
	}
	if want := "the view of guest x at " + p.dir + " is ended"; !strings.Contains(d.log(), want) {
		t.Errorf("the log does not say %q: %s", want, d.log())
	}
	if err := withFile(p.at("pids.max"), unix.O_RDONLY, func(int) error { return nil }); err == nil {
		t.Error("the view answers")
	}
}

// TestStoppedEarly: a worker that hangs before it has told the holder anything is replaced, too.
func TestStoppedEarly(t *testing.T) {
	d := startDaemon(t)
	p := newPlace(t, d, "stopped-early")
	d.wantTry(t, 0, "", p.add("x")...)
	first := d.signal(t, unix.SIGKILL, 0)
	second := 0
	for deadline := time.Now().Add(patience); second == 0 && time.Now().Before(deadline); {
		second = d.signal(t, unix.SIGSTOP, first)
	}
	began := time.Now()
	if got := readFile(p.at("cgroup.procs")); got != "" {
		t.Errorf("cgroup.procs is %q", got)
	}
	if took := time.Since(began); took > 10*time.Second { // --watchdog is 1s, --give-up 30s
		t.Errorf("it took %v", took)
	}
	if info := d.ready(t); info.Restarts < 2 || info.Pid == second {
		t.Errorf("%+v; the second worker was %d", info, second)
	}
	d.stop(t)
}
