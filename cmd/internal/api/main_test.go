package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/policy"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// role is what this binary is to do when it is started as a peer: a word and a socket's path.
const roleVariable = "VCGROUPFS_API_ROLE"

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(roleVariable), " ")
	switch role {
	case "ask": // METHOD PATH SOCKET
		f := strings.Fields(arg)
		status, body, err := ask(f[2], f[0], f[1], "")
		fmt.Print(status, " ", body, err)
	case "connect": // descriptor 3 to a socket
		if err := unix.Connect(3, &unix.SockaddrUnix{Name: arg}); err != nil {
			fmt.Print(err)
		}
	case "serve":
		serveRole(arg)
	case "reuse":
		fmt.Print(reuse(arg))
	default:
		os.Exit(m.Run())
	}
}

// play is this binary in a role.
func play(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// ask sends one request over a connection of its own.
func ask(socket, method, path, body string) (int, string, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return 0, "", err
	}
	return askOver(c, method, path, body)
}

func askOver(c net.Conn, method, path, body string) (int, string, error) {
	defer c.Close()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }, DisableKeepAlives: true}
	r, err := http.NewRequest(method, "http://x", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.URL.Opaque = path // as it is, not as package url would write it
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(raw), err
}

// fake is a backend that has what a test puts there.
type fake struct {
	hub Hub

	mu      sync.Mutex
	guests  map[string]GuestSpec
	calls   []string
	fail    error
	inGuest func(pid int) bool
}

func (f *fake) ShowType(_ context.Context, pid int, r TypeRequest) error {
	return f.call(fmt.Sprint("type ", pid == os.Getpid(), r.FD, r.Types[1]))
}

func (f *fake) call(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, what)
	if f.fail != nil && f.fail.Error() == "panic" {
		panic("as asked")
	}
	return f.fail
}

// reached lists the calls since it was last asked.
func (f *fake) reached() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *fake) failWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *fake) Info() Info { return Info{Version: "test", Pid: os.Getpid()} }

func (f *fake) Guests() (all []Guest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, spec := range f.guests {
		all = append(all, Guest{Name: name, Spec: spec})
	}
	return all
}

func (f *fake) Guest(name string) (Guest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if spec, ok := f.guests[name]; ok {
		return Guest{Name: name, Spec: spec}, nil
	}
	return Guest{}, fault.New(fault.NotFound, "no guest %s", name)
}

func (f *fake) Add(_ context.Context, name string, spec GuestSpec, _ *policy.Policy, by Maker) (Guest, bool, error) {
	if err := f.call(fmt.Sprint("add ", name, made(by))); err != nil {
		return Guest{}, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, there := f.guests[name]
	if f.guests == nil {
		f.guests = map[string]GuestSpec{}
	}
	f.guests[name] = spec
	return Guest{Name: name, Spec: spec}, !there, nil
}

func (f *fake) OfRuntime(
	_ string, spec GuestSpec, p *policy.Policy, caller int,
) (GuestSpec, *policy.Policy, error) {
	spec.OfRuntime, spec.CurrentCgroup = false, true
	return spec, p, f.call(fmt.Sprint("runtime ", caller == os.Getpid()))
}

func (f *fake) Remove(_ context.Context, name string, by Maker, force bool) error {
	if err := f.call(fmt.Sprint("remove ", name, made(by), map[bool]string{true: " by force"}[force])); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, there := f.guests[name]; !there {
		return fault.New(fault.NotFound, "no guest %s", name)
	}
	delete(f.guests, name)
	return nil
}

// made is what a call says of a maker that is not the hand.
func made(by Maker) string {
	if by == (Maker{By: ByHand}) {
		return ""
	}
	return " as " + by.String()
}

func (f *fake) Do(_ context.Context, verb Verb, name string) (any, error) {
	if verb == Tree {
		_, err := f.Guest(name)
		return Cgroup{Name: "/", Children: []Cgroup{{Name: "a"}}}, err
	}
	return verbs[slices.Index(Verbs(), verb)].answer, f.call(string(verb) + " " + name)
}

func (f *fake) Top() []Usage { return nil }

func (f *fake) Set(name string, limits []Limit) ([]Change, error) {
	return []Change{{"/", limits[0].File, "max", limits[0].Value}}, f.call("set " + name)
}

func (f *fake) Upgrade(_ context.Context, p string) error { return f.call("upgrade " + p) }

func (f *fake) Subscribe(guest string) (<-chan Event, func()) { return f.hub.Subscribe(guest) }

func (f *fake) InGuest(pid int) bool { return f.inGuest != nil && f.inGuest(pid) }

// quiet is a log that nobody reads.
func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// needRoot skips what asks as root.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("machine: not root, whom the interface is for")
	}
}

// served starts a server; what stops it is called at the latest at the test's end.
func served(t testing.TB, cfg Config) (socket string, stop func()) {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("", "api") // for peers that are not root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	socket = filepath.Join(dir, "s")
	stop = serveAt(t, cfg, socket, nil)
	return socket, stop
}

func serveAt(t testing.TB, cfg Config, socket string, loopback net.Listener) (stop func()) {
	t.Helper()
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(socket, 0o666)
	if cfg.Log == nil {
		cfg.Log = quiet()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, cfg, l, loopback) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// serveRole serves until its standard input ends.
func serveRole(socket string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Println("ready")
	if err := Serve(ctx, Config{Backend: &fake{}, Log: quiet()}, l, nil); err != nil {
		fmt.Println(err)
	}
}

// eventually waits for something to be so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

var errTest = errors.New("it broke")

// reuse has a process connect and end, gives its number to another process, and says what the server makes of that. It runs
// in a pid namespace of its own, where it may choose numbers.
func reuse(socket string) string {
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("proc", "/proc", "proc", 0, "")); err != nil {
		return err.Error()
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err.Error()
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err.Error()
	}
	cmd := play("connect " + socket)
	file := os.NewFile(uintptr(fd), "socket")
	cmd.ExtraFiles = []*os.File{file}
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		return fmt.Sprintf("connect: %v %s", err, out)
	}
	pid := cmd.Process.Pid
	var other *exec.Cmd
	for range 100 { // threads of this process take numbers too
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, pid-1), 0); err != nil {
			return err.Error()
		}
		other = exec.Command("sleep", "60")
		other.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := other.Start(); err != nil {
			return err.Error()
		}
		if other.Process.Pid == pid {
			break
		}
		other.Process.Kill()
		other.Wait()
	}
	defer func() { other.Process.Kill(); other.Wait() }()
	if other.Process.Pid != pid {
		return "the number was not given again"
	}
	ps, err := newPeers(0, func(int) bool { return false })
	if err != nil {
		return err.Error()
	}
	c, err := l.AcceptUnix()
	if err != nil {
		return err.Error()
	}
	p := ps.of(c)
	return fmt.Sprintf("uid %d: %s", p.uid, p.refused)
}
