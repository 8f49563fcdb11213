package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestGuestLife: what becomes of one guest, from its beginning to each of its ends; a worker that is killed changes nothing.
func TestGuestLife(t *testing.T) {
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "life")
	events := d.FollowEvents(t)
	d.WantTry(t, 0, "added", p.Add("web", "--limit", "pids.max=40")...)
	d.WantTry(t, 0, "", p.Add("web", "--limit", "pids.max=40")...) // the same again
	d.WantTry(t, 1, "another configuration", p.Add("web", "--limit", "pids.max=41")...)
	d.WantTry(t, 1, "is mounted at", p.Add("other")...)
	if got := kit.ReadFile(p.At("pids.max")); got != "40\n" {
		t.Errorf("the guest's limit is %q", got)
	}
	var before, after []struct {
		Name, Since string
	}
	if err := d.Call("GET", "/v1/guests", nil, &before); err != nil || len(before) != 1 || before[0].Name != "web" {
		t.Fatalf("%v, %v", before, err)
	}
	d.Signal(t, unix.SIGKILL, 0)
	d.Ready(t)
	if err := d.Call("GET", "/v1/guests", nil, &after); err != nil || len(after) != 1 || after[0] != before[0] {
		t.Errorf("after a restart: %v, %v; before %v", after, err, before)
	}
	d.WantTry(t, 0, "pids.max", "guest", "set", "web", "pids.max=30")
	if got := kit.ReadFile(p.At("pids.max")); got != "30\n" {
		t.Errorf("the guest's limit is %q", got)
	}
	pid := kit.StartSleeper(t)
	if err := p.Hierarchy.Attach(p.Path, pid); err != nil {
		t.Fatal(err)
	}
	d.WantTry(t, 0, "sleep", "guest", "tree", "web")
	for _, args := range [][]string{{"ls"}, {"show", "web"}, {"tree", "web"}, {"top", "--count", "1"}} {
		_, out := d.Try(t, append(append([]string{"guest"}, args...), "--json")...)
		if !json.Valid([]byte(strings.TrimSpace(out))) && !json.Valid([]byte("["+strings.ReplaceAll(strings.TrimSpace(out), "\n", ",")+"]")) {
			t.Errorf("%v --json: %q", args, out)
		}
	}
	kit.WithFile(p.At("pids.max"), unix.O_WRONLY, kit.WriteFD("max")) // denied
	d.WantTry(t, 0, "", "guest", "kill", "web")
	kit.Eventually(t, "the process to be killed", func() bool {
		return unix.Kill(pid, 0) == nil && strings.Contains(kit.ReadFile("/proc/"+strconv.Itoa(pid)+"/stat"), ") Z ")
	})
	d.WantTry(t, 0, "", "guest", "rm", "web")
	d.WantTry(t, 6, "no guest", "guest", "rm", "web")
	if kit.IsMounted(p.Dir) {
		t.Error("a removed guest's view is mounted")
	}
	kit.Eventually(t, "the events", func() bool {
		got := events()
		for _, want := range []string{`"added"`, `"restarted"`, `"denied"`, `"removed"`} {
			if !strings.Contains(got, want) {
				return false
			}
		}
		return true
	})
	d.Stop(t)
}

// TestGuestEnds: a guest whose boundary, process or view is gone is taken away by itself, and the log says so.
func TestGuestEnds(t *testing.T) {
	d := kit.StartDaemon(t)
	gone := func(name string) func() bool {
		return func() bool { status, _ := d.Try(t, "guest", "show", name); return status == 6 }
	}
	p := kit.NewPlace(t, d, "boundary-gone")
	d.WantTry(t, 0, "", p.Add("a")...)
	if err := p.Hierarchy.RemoveAll(p.Path); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "a guest without a boundary to go", gone("a"))

	p = kit.NewPlace(t, d, "view-gone")
	d.WantTry(t, 0, "", p.Add("b")...)
	if err := unix.Unmount(p.Dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "a guest without a view to go", gone("b"))

	p = kit.NewPlace(t, d, "process-gone")
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.Hierarchy.Attach(p.Path, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	d.WantTry(t, 0, "", "guest", "add", "c", "--pid", strconv.Itoa(cmd.Process.Pid), "--current-cgroup", "--controllers", "pids", "--target", p.Dir)
	d.Signal(t, unix.SIGKILL, 0) // the next worker knows the process as well
	d.Ready(t)
	cmd.Process.Kill()
	cmd.Wait()
	kit.Eventually(t, "a guest without its process to go", gone("c"))
	if kit.IsMounted(p.Dir) {
		t.Error("its view is mounted")
	}

	p = kit.NewPlace(t, d, "gone-meanwhile") // while there is no worker
	d.WantTry(t, 0, "", p.Add("d")...)
	d.Signal(t, unix.SIGSTOP, 0)
	if err := p.Hierarchy.RemoveAll(p.Path); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "a guest whose boundary went while nobody served to go", gone("d"))
	d.Stop(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		if !regexp.MustCompile(`(?m)level=warning msg="the guest is gone" guest=` + name + " reason=.+$").MatchString(d.Log()) {
			t.Errorf("the log does not say that %s is gone, and why: %s", name, d.Log())
		}
	}
}

// TestGuestRefused: what cannot be added leaves nothing behind, and says what is wrong.
func TestGuestRefused(t *testing.T) {
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "refused")
	if err := p.Hierarchy.WriteFile(p.Path, "pids.max", "77"); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(d.Dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("version: 1\nfoo: 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(d.Dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		word   string
		args   []string
	}{
		{2, "boundary", []string{"guest", "add", "x", "--target", p.Dir}},
		{2, "target", []string{"guest", "add", "x", "--boundary", p.Path, "--controllers", "pids", "--target", "/"}},
		{2, "name", p.Add("../x")},
		{1, "no such cgroup", []string{"guest", "add", "x", "--boundary", p.Path + "-missing", "--controllers", "pids", "--target", p.Dir}},
		{2, "", []string{"guest", "add", "x", "--boundary", "/", "--controllers", "pids", "--target", p.Dir}},
		{1, "no such file", []string{"guest", "add", "x", "--boundary", p.Path, "--controllers", "pids", "--target", p.Dir + "-missing"}},
		{1, "not a directory", []string{"guest", "add", "x", "--boundary", p.Path, "--controllers", "pids", "--target", file}},
		{1, "own cgroup namespace", []string{"guest", "add", "x", "--pid", strconv.Itoa(os.Getpid()), "--controllers", "pids", "--target", p.Dir}},
		{2, "--pid PID", []string{"guest", "add", "x", "--boundary", p.Path, "--controllers", "pids", "--into", "/sys/fs/cgroup"}},
		{2, "--into DIR", []string{"guest", "add", "x", "--boundary", p.Path, "--controllers", "pids", "--target", p.Dir, "--stack"}},
		{1, "process", []string{"guest", "add", "x", "--pid", "4194304", "--controllers", "pids", "--target", p.Dir}},
		{3, "foo", p.Add("x", "--policy", bad)},
		{2, "owner", p.Add("x", "--owner", "root")},
		{2, "layout", p.Add("x", "--layout", "v3")},
		{-1, "no.such", p.Add("x", "--limit", "pids.max=5", "--limit", "no.such=1")},
		{-1, "pids.max", p.Add("x", "--limit", "pids.max=many")},
		{2, "", []string{"guest", "add", "x", "--boundary", p.Path, "--controllers", "nonsense", "--target", p.Dir}},
		{6, "no guest", []string{"guest", "set", "x", "pids.max=1"}},
		{6, "no guest", []string{"guest", "tree", "x"}},
	} {
		status, out := d.Try(t, c.args...)
		if status == 0 || c.status > 0 && status != c.status || !strings.Contains(out, c.word) {
			t.Errorf("%s: status %d, %q; want %d and %q", strings.Join(c.args, " "), status, out, c.status, c.word)
		}
	}
	if info := d.Ready(t); info.Guests != 0 || kit.IsMounted(p.Dir) {
		t.Errorf("%d guests, mounted %t", info.Guests, kit.IsMounted(p.Dir))
	}
	if got, err := p.Hierarchy.ReadFile(p.Path, "pids.max"); got != "77\n" || err != nil {
		t.Errorf("the limit is %q, %v", got, err)
	}
	d.WantTry(t, 0, "added", p.Add("x")...)
	d.Stop(t)
}

// TestHalfMade: a worker that is killed while guests are added and removed leaves none half made, and who asked gets an answer.
func TestHalfMade(t *testing.T) {
	d := kit.StartDaemon(t)
	p, resend := kit.NewPlace(t, d, "half"), d.Ready(t).Resend
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
			case <-time.After(time.Duration(float64(60*time.Millisecond) / kit.Scale(t))):
				if pid := d.Signal(t, unix.SIGKILL, last); pid != 0 {
					last = pid
					if killed.Add(1)%2 == 0 { // a busy machine may need longer than that for one, and the daemon gives up at last
						d.Ready(t)
					}
				}
			}
		}
	}()
	for i := 0; i < kit.Scaled(t, 40, 5) || killed.Load() < 3 && i < 1000; i++ {
		if status, out := d.Try(t, p.Add("x")...); status != 0 {
			t.Errorf("add %d: status %d, %s", i, status, out)
		}
		got := kit.ReadFile(p.At("pids.current"))
		for got == "ECONNABORTED" && !resend { // a worker was killed that had the request in its hands
			got = kit.ReadFile(p.At("pids.current"))
		}
		if got != "0\n" {
			t.Errorf("add %d: pids.current is %q", i, got)
		}
		if status, out := d.Try(t, "guest", "rm", "x"); status != 0 {
			t.Errorf("rm %d: status %d, %s", i, status, out)
		}
		if kit.IsMounted(p.Dir) {
			t.Errorf("rm %d: still mounted", i)
		}
	}
	close(stop)
	<-ended
	if info := d.Ready(t); info.Guests != 0 || info.Restarts == 0 {
		t.Errorf("%+v", info)
	}
	d.Stop(t)
}

// TestDeclared: guests that files declare come, change and go with them.
func TestDeclared(t *testing.T) {
	d := kit.StartDaemon(t)
	p, q := kit.NewPlace(t, d, "declared-a"), kit.NewPlace(t, d, "declared-b")
	file := func(name string) string { return filepath.Join(d.Dir, "guests", name+".yaml") }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(file(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spec := func(p *kit.Place, more string) string {
		return "boundary: " + p.Path + "\ntarget: " + p.Dir + "\ncontrollers: [pids]\n" + more
	}
	has := func(name string, want bool) func() bool {
		return func() bool { return (d.Call("GET", "/v1/guests/"+name, nil, nil) == nil) == want }
	}
	write("bad", spec(q, "colour: red\n"))
	write("a", spec(p, "limits: {pids.max: \"12\"}\n"))
	write("plain", "boundary: "+p.Path+"\ncontrollers: [pids]\n")
	kit.Eventually(t, "the declared guests", func() bool { return has("a", true)() && has("plain", true)() })
	kit.Eventually(t, "the word on the bad file", func() bool { return strings.Contains(d.Log(), "colour") && strings.Contains(d.Log(), "bad.yaml") })
	if got := kit.ReadFile(p.At("pids.max")); got != "12\n" {
		t.Errorf("the limit is %q", got)
	}
	d.WantTry(t, 1, "declares it", "guest", "rm", "a")
	write("a", spec(p, "limits: {pids.max: \"13\"}\n"))
	kit.Eventually(t, "the changed guest", func() bool { return kit.ReadFile(p.At("pids.max")) == "13\n" })
	since := guestSince(t, d, "plain")
	d.Signal(t, unix.SIGKILL, 0)
	d.Ready(t)
	time.Sleep(2 * time.Second) // the files are read each second
	if now := guestSince(t, d, "plain"); !now.Equal(since) {
		t.Errorf("a restart made the guest of a file that is unchanged anew: of %v, and now of %v", since, now)
	}
	if !has("a", true)() {
		t.Error("a restart took the declared guest away")
	}
	if err := os.WriteFile(filepath.Join(d.Dir, "guests", "short.yml"), []byte(spec(q, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	d.WantLog(t, "short.yml is not read")
	if err := p.Hierarchy.RemoveAll(p.Path); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the guests to go with their boundary", func() bool { return has("a", false)() && has("plain", false)() })
	if err := p.Hierarchy.Create(p.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the guests to come back with their boundary", func() bool { return has("a", true)() && has("plain", true)() })
	os.Remove(file("a"))
	os.Remove(file("plain"))
	kit.Eventually(t, "the guest to go with its file", has("a", false))

	policy := filepath.Join(d.Dir, "guests", "policy.txt")
	if err := os.WriteFile(policy, []byte("version: 1\nquota: {cgroups: 1, depth: 1}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	write("b", strings.Replace(spec(q, "policy: policy.txt\n"), q.Path, q.Path+"-later", 1))
	d.WantLog(t, "-later") // on the missing boundary
	if err := q.Hierarchy.Create(q.Path+"-later", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Hierarchy.RemoveAll(q.Path + "-later") })
	kit.Eventually(t, "the guest whose boundary came later", has("b", true))
	os.Remove(file("bad"))
	os.Remove(file("b"))
	kit.Eventually(t, "it to go", has("b", false))
	d.Stop(t)
}

// guestSince is when a guest was made.
func guestSince(t *testing.T, d *kit.Daemon, guest string) time.Time {
	t.Helper()
	var g struct{ Since time.Time }
	if err := d.Call("GET", "/v1/guests/"+guest, nil, &g); err != nil {
		t.Fatal(err)
	}
	return g.Since
}

// TestServeRefuses: what is wrong on the command line of serve.
func TestServeRefuses(t *testing.T) {
	d := kit.StartDaemon(t)
	for _, c := range []struct {
		status int
		word   string
		args   []string
	}{
		{1, "another vcgroupfs serve", []string{"--socket", d.Socket}},
		{2, "at most", []string{"--socket", "/tmp/" + strings.Repeat("x", 120)}},
		{2, "max-guests", []string{"--max-guests", "0"}},
		{2, "max-open", []string{"--max-open", "70000"}},
		{2, "max-rate", []string{"--max-rate", "-1"}},
		{2, "watchdog", []string{"--watchdog", "1ms"}},
		{2, "no such group", []string{"--group", "no-such-group"}},
		{2, "make the directory", []string{"--guests", d.Dir + "/missing"}},
		{2, "no argument", []string{"x"}},
		{2, "--upgrade", []string{"--program", "/bin/true"}},
		{1, "choose another --notify", []string{"--socket", d.Dir + "/other.sock"}},
		{1, "loopback", []string{"--socket", d.Dir + "/other.sock", "--notify", "", "--metrics", "0.0.0.0:0"}},
		{5, "not running", []string{"--upgrade", "--socket", d.Dir + "/none.sock"}},
		{1, "stays", []string{"--upgrade", "--socket", d.Socket, "--program", "/bin/true"}},
		{1, "stays", []string{"--upgrade", "--socket", d.Socket, "--program", d.Dir + "/missing"}},
	} {
		cmd := exec.Command(kit.Program(t), append([]string{"serve"}, c.args...)...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.status || !strings.Contains(string(out), c.word) {
			t.Errorf("serve %s: status %d, %q; want %d and %q", strings.Join(c.args, " "), cmd.ProcessState.ExitCode(), out, c.status, c.word)
		}
	}
	if info := d.Ready(t); info.Restarts != 0 {
		t.Errorf("%+v", info)
	}
	if left, _ := filepath.Glob(d.Dir + "/other.sock*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	d.Stop(t)
}

// TestProbes: health and figures on a loopback address, and nothing else there.
func TestProbes(t *testing.T) {
	address := kit.LoopbackAddress(t)
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--metrics", address})
	p := kit.NewPlace(t, d, "probes")
	d.WantTry(t, 0, "", p.Add("web")...)
	kit.WithFile(p.At("pids.max"), unix.O_WRONLY, kit.WriteFD("max")) // denied
	kit.ReadFile(p.At("pids.max"))
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
	d.Stop(t)
}

// TestGiveUp: when no worker comes back, guests are not kept waiting, and serve says why it ends.
func TestGiveUp(t *testing.T) {
	giveUp := "2s"
	if kit.Scale(t) < 1 {
		giveUp = "12s" // the first worker may need 3 s there, and has no longer than that either
	}
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--give-up", giveUp})
	p := kit.NewPlace(t, d, "give-up")
	d.WantTry(t, 0, "", p.Add("x")...)
	kept, err := unix.Open(p.At("cgroup.procs"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(kept)
	d.StopAllWorkers(t)
	if d.Err == nil || kit.IsMounted(p.Dir) || !strings.Contains(d.Log(), "cannot keep a worker alive") {
		t.Errorf("ended with %v, mounted %t: %s", d.Err, kit.IsMounted(p.Dir), d.Log())
	}
	if want := "the view of guest x at " + p.Dir + " is ended"; !strings.Contains(d.Log(), want) {
		t.Errorf("the log does not say %q: %s", want, d.Log())
	}
	if err := kit.WithFile(p.At("pids.max"), unix.O_RDONLY, func(int) error { return nil }); err == nil {
		t.Error("the view answers")
	}
}

// TestStoppedEarly: a worker that hangs before it has told the holder anything is replaced, too.
func TestStoppedEarly(t *testing.T) {
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "stopped-early")
	d.WantTry(t, 0, "", p.Add("x")...)
	first := d.Signal(t, unix.SIGKILL, 0)
	second := 0
	for deadline := time.Now().Add(kit.Patience); second == 0 && time.Now().Before(deadline); {
		second = d.Signal(t, unix.SIGSTOP, first)
	}
	began := time.Now()
	if got := kit.ReadFile(p.At("cgroup.procs")); got != "" {
		t.Errorf("cgroup.procs is %q", got)
	}
	if took := time.Since(began); took > 20*time.Second { // --watchdog is 5s at most, --give-up 30s
		t.Errorf("it took %v", took)
	}
	if info := d.Ready(t); info.Restarts < 2 || info.Pid == second {
		t.Errorf("%+v; the second worker was %d", info, second)
	}
	d.Stop(t)
}
