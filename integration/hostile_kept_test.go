package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// kept opens something and keeps it open until the test ends.
func kept(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// wantErrno checks what came of something.
func wantErrno(t *testing.T, what, want string, err error) {
	t.Helper()
	if got := kit.ErrnoName(err); !kit.OneOf(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// TestKeptAuthority: a descriptor has after the worker's death the authority that it had, no less and no more; and that of a
// cgroup which the host removed meanwhile is not one of the cgroup that it made anew under the name.
func TestKeptAuthority(t *testing.T) {
	h := kit.OpenHost(t)
	native := kit.NewSite(t, h, "kept")
	for _, name := range []string{"stays", "gone", "anew"} {
		if err := native.Pids.Create(native.Path+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
		if native.Pids.Version == hierarchy.V2 {
			if err := native.Pids.Enable(native.Path+"/"+name, "pids"); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := kit.StartDaemon(t)
	s := d.Add(t, "g", native)
	t.Cleanup(func() { d.Stop(t) }) // when what the test keeps open is closed
	stranger := kit.StartSleeper(t)
	reading := kept(t, s.At("pids.max"), unix.O_RDONLY)
	limit, members := kept(t, s.At("stays", "pids.max"), unix.O_RDWR), kept(t, s.At("stays", kit.Procs), unix.O_WRONLY)
	dir := kept(t, s.At("stays"), unix.O_RDONLY|unix.O_DIRECTORY)
	gone, anew := kept(t, s.At("gone", "pids.max"), unix.O_RDWR), kept(t, s.At("anew", "pids.max"), unix.O_RDWR)
	anewDir := kept(t, s.At("anew"), unix.O_RDONLY|unix.O_DIRECTORY)
	outside, err := s.Pids.PathOf(stranger)
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	for round := 1; round <= 2; round++ {
		if last = d.Signal(t, unix.SIGKILL, last); last == 0 {
			t.Fatal("no worker to kill")
		}
		for _, name := range []string{"gone", "anew"} {
			if err := unix.Rmdir(native.Native(name)); err != nil && round == 1 {
				t.Fatal(err)
			}
		}
		if err := unix.Mkdir(native.Native("anew"), 0o755); err != nil {
			t.Fatal(err)
		}
		kit.Eventually(t, "the next worker", func() bool { return d.Ready(t).Restarts >= uint64(round) })

		wantErrno(t, "a reading descriptor is written", "EBADF", kit.WriteFD("max")(reading))
		wantErrno(t, "a reading descriptor is opened anew", "EPERM", kit.WithFile("/proc/self/fd/"+strconv.Itoa(reading), unix.O_WRONLY, kit.WriteFD("max")))
		wantErrno(t, "the boundary's limit", "EPERM", kit.WithFile(s.At("pids.max"), unix.O_WRONLY, kit.WriteFD("max")))
		wantErrno(t, "a writable descriptor below", "", kit.WriteFD(strconv.Itoa(100+round))(limit))
		if got := kit.ReadFile(native.Native("stays", "pids.max")); got != strconv.Itoa(100+round)+"\n" {
			t.Errorf("the limit below is %q", got)
		}
		wantErrno(t, "a file of a kept directory", "", func() error {
			fd, err := unix.Openat(dir, "pids.max", unix.O_WRONLY, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}())
		wantErrno(t, "a stranger by a kept descriptor", "ESRCH|ENOENT", kit.WriteFD(strconv.Itoa(stranger))(members))
		if got, err := s.Pids.PathOf(stranger); got != outside || err != nil {
			t.Errorf("the stranger is in %s, %v", got, err)
		}
		for what, fd := range map[string]int{"removed": gone, "made anew": anew} {
			wantErrno(t, "writing to a cgroup that was "+what, "ENODEV", kit.WriteFD("7")(fd))
			_, err := unix.Pread(fd, make([]byte, 64), 0)
			wantErrno(t, "reading of a cgroup that was "+what, "ENODEV", err)
		}
		_, err := unix.Openat(anewDir, "pids.max", unix.O_RDWR, 0)
		wantErrno(t, "a file of a kept directory that was made anew", "ENOENT|ENODEV|ESTALE", err)
		if got := kit.ReadFile(native.Native("anew", "pids.max")); got != "max\n" {
			t.Errorf("the limit of the new cgroup is %q", got)
		}
	}
}

// playAsk asks a control socket for what each line says, "METHOD PATH BODY", and prints the status.
func playAsk(socket string) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		f := append(strings.SplitN(in.Text(), " ", 3), "", "")
		req, err := http.NewRequest(f[0], "http://daemon"+f[1], strings.NewReader(f[2]))
		if err != nil {
			panic(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println(err)
			continue
		}
		resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
}

// TestHostileRequests: whatever a guest's root asks of the control socket without the program's client is 403, probes too, and
// changes nothing: with the host's uid 0 in namespaces of its own, in a user namespace that maps it, and inside the boundary in
// the host's namespaces.
func TestHostileRequests(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "requests", hier)
	d := kit.StartDaemon(t)
	dir, prey := kit.PublicDir(t), kit.PublicDir(t)
	t.Cleanup(func() { d.Stop(t) })
	d.Mounts[dir], d.Mounts[prey] = true, true
	d.Run(t, "guest", "add", "g", "--boundary", path, "--controllers", "pids", "--target", dir, "--limit", "pids.max=40")
	own := kit.PublicProgram(t)
	spec := fmt.Sprintf(`{"boundary":%q,"target":%q,"controllers":["pids"]}`, path, prey)
	for _, c := range []struct {
		name   string
		attr   syscall.SysProcAttr
		inside bool
	}{
		{"pid, cgroup and mount namespaces", syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS}, true},
		{"user namespace", syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{Size: 1000}}, GidMappings: []syscall.SysProcIDMap{{Size: 1000}}}, false},
		{"boundary", syscall.SysProcAttr{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(own)
			cmd.Env = append(os.Environ(), kit.RoleVariable+"=ask "+d.Socket)
			cmd.Stderr, cmd.SysProcAttr = os.Stderr, &c.attr
			asker := kit.StartProcess(t, cmd)
			if c.inside {
				if err := hier.Attach(path, asker.PID()); err != nil {
					t.Fatal(err)
				}
			}
			for _, ask := range []string{
				"GET /v1/info", "GET /v1/guests", "GET /v1/guests/g", "GET /v1/guests/g/tree", "GET /v1/top", "GET /v1/events", "GET /metrics", "GET /healthz",
				"PUT /v1/guests/x " + spec, "PUT /v1/guests/g " + spec, "DELETE /v1/guests/g",
				`POST /v1/guests/g/set [{"file":"pids.max","value":"max"}]`, "POST /v1/guests/g/freeze", "POST /v1/guests/g/kill",
				`POST /v1/upgrade {"program":"` + own + `"}`,
			} {
				fmt.Fprintln(asker.In, ask)
				if got := asker.Line(t); got != "403" {
					t.Errorf("%s: %s", ask, got)
				}
			}
			asker.In.Close()
			cmd.Wait()
		})
	}
	if got, err := hier.ReadFile(path, "pids.max"); got != "40\n" || err != nil {
		t.Errorf("pids.max is %q, %v", got, err)
	}
	if info := d.Ready(t); info.Guests != 1 || info.Restarts != 0 {
		t.Errorf("%+v", info)
	}
	if strings.Contains(kit.ReadFile("/proc/self/mountinfo"), " "+prey+" ") {
		t.Error("something is mounted on the prey")
	}
}

// ugly is what a terminal or a log's reader would take for something else.
const ugly = "\x1b[2J\x07\u202e\xff\"=\t"

// wantPlain checks that nothing of ugly is in what the daemon or its client said.
func wantPlain(t *testing.T, what, said string) {
	t.Helper()
	for _, bad := range []string{"\x1b", "\x07", "\u202e", "\xff"} {
		if i := strings.Index(said, bad); i >= 0 {
			t.Errorf("%s has the guest's bytes: %q", what, said[max(0, i-80):min(len(said), i+40)])
		}
	}
}

// TestHostileNames: what a guest puts into names reaches log, events and the client's output escaped, at any length.
func TestHostileNames(t *testing.T) {
	h := kit.OpenHost(t)
	native := kit.NewSite(t, h, "names")
	d := kit.StartDaemon(t)
	s := d.Add(t, "g", native)
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://daemon/v1/events", nil)
	resp, err := d.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()

	forged := "cgroup.evil\nlevel=warning msg=forged guest=other " + ugly
	wantErrno(t, "a forged line", "EINVAL", unix.Mkdir(s.At(forged), 0o755))
	wantErrno(t, "an ugly name of a control file's kind", "EINVAL", unix.Mkdir(s.At("cgroup."+ugly), 0o755))
	if err := unix.Mkdir(s.At("d"+ugly), 0o755); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "below an ugly name", "EINVAL", unix.Mkdir(s.At("d"+ugly, "cgroup.evil"), 0o755))
	wantErrno(t, "a name that is too long", "ENAMETOOLONG", unix.Mkdir(s.At(strings.Repeat("x", 256)), 0o755))
	long := s.At()
	for range 3 {
		long += "/" + strings.Repeat("y", 255)
		if err := unix.Mkdir(long, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	wantErrno(t, "a long path", "EINVAL", unix.Mkdir(long+"/cgroup."+strings.Repeat("z", 248), 0o755))

	events := bufio.NewReader(resp.Body)
	paths := 0
	for paths < 3 {
		line, err := events.ReadBytes('\n')
		if err != nil {
			t.Fatalf("after %d denials: %v: %s", paths, err, d.Log())
		}
		var e struct{ Kind, Path string }
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if bytes.ContainsAny(line, "\x1b\x07") {
			t.Errorf("an event has the guest's bytes: %q", line)
		}
		if e.Kind == "denied" {
			paths++
		}
	}
	kit.Eventually(t, "the log of the denials", func() bool { return strings.Count(kit.ReadFile(d.Stderr.Name()), "msg=denied") >= 3 })
	said := kit.ReadFile(d.Stderr.Name())
	wantPlain(t, "the log", said)
	if strings.Contains(said, "\nlevel=warning msg=forged") {
		t.Errorf("the guest wrote a line: %q", said)
	}
	wantPlain(t, "guest tree", d.Run(t, "guest", "tree", "g"))
	cancel()
	d.Stop(t)
}

// inOpen is how many threads of a process are in the kernel's openat, read or close.
func inOpen(pid int) (n int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, file := range files {
		var number int
		if _, err := fmt.Sscan(kit.ReadFile(file), &number); err == nil &&
			(number == unix.SYS_OPENAT || number == unix.SYS_READ || number == unix.SYS_CLOSE) {
			n++
		}
	}
	return n
}

// TestKilledInFlight: guests that are killed while the worker does not answer are gone once it does, and leave nothing open.
func TestKilledInFlight(t *testing.T) {
	h := kit.OpenHost(t)
	native := kit.NewSite(t, h, "in-flight")
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--watchdog", "1m"}) // the worker is stopped for longer than 5 s on a busy machine
	s := d.Add(t, "g", native)
	for range 3 {
		var guests []*kit.Helper
		for range 4 {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), kit.RoleVariable+"=flood open 8 1 "+s.At(), "GOGC=off", "GODEBUG=asyncpreemptoff=1")
			g := kit.StartProcess(t, cmd)
			g.Line(t)
			guests = append(guests, g)
		}
		_, worker := d.Worker(t)
		if err := unix.PidfdSendSignal(worker, unix.SIGSTOP, nil, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // everybody waits for an answer
		for _, g := range guests {
			if n := inOpen(g.PID()); n == 0 {
				t.Errorf("no thread of process %d waits", g.PID())
			}
			g.Cmd.Process.Kill()
		}
		time.Sleep(200 * time.Millisecond)
		unix.PidfdSendSignal(worker, unix.SIGCONT, nil, 0)
		unix.Close(worker)
		for _, g := range guests {
			ended := make(chan struct{})
			go func() { g.Cmd.Wait(); close(ended) }()
			select {
			case <-ended:
			case <-time.After(kit.Patience):
				t.Fatalf("a killed guest is still there: %s", kit.ReadFile("/proc/"+strconv.Itoa(g.PID())+"/status"))
			}
		}
	}
	runtime.GC()
	var g struct{ Open int }
	kit.Eventually(t, "the guests' files to be closed", func() bool { return d.Call("GET", "/v1/guests/g", nil, &g) == nil && g.Open == 0 })
	if info := d.Ready(t); info.Restarts != 0 {
		t.Errorf("%d restarts", info.Restarts)
	}
	d.Stop(t)
}
