package kit

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Daemon is a "serve" of the test's own.
type Daemon struct {
	Dir    string // has its socket and the guests' files
	Socket string
	Cmd    *exec.Cmd
	Stderr *os.File // its standard error
	Client *http.Client
	Mounts map[string]bool // where its guests' views are
	Ended  chan struct{}   // closed when it has ended
	Err    error           // how, after ended
}

// StartDaemon starts the program under test and waits until it answers. It ends with the test at the latest.
func StartDaemon(t testing.TB, env ...string) *Daemon {
	t.Helper()
	return StartDaemonOf(t, Program(t), env...)
}

// StartDaemonOf starts another program than the one under test.
func StartDaemonOf(t testing.TB, program string, env ...string) *Daemon {
	t.Helper()
	return StartDaemonWith(t, program, nil, env...)
}

// StartDaemonWith starts it with more options.
func StartDaemonWith(t testing.TB, program string, options []string, env ...string) *Daemon {
	t.Helper()
	return StartDaemonSaying(t, nil, program, options, env...)
}

// StartDaemonSaying starts it with a standard error of the caller's; nil for a file.
func StartDaemonSaying(t testing.TB, said *os.File, program string, options []string, env ...string) *Daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "vcgroupfs-test-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Dir: dir, Socket: filepath.Join(dir, "api.sock"), Stderr: said, Ended: make(chan struct{}),
		Mounts: map[string]bool{}}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(dir, "guests"), 0o755); err != nil {
		t.Fatal(err)
	}
	if said == nil {
		if d.Stderr, err = os.Create(filepath.Join(dir, "stderr")); err != nil {
			t.Fatal(err)
		}
	}
	d.Client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket)
	}}}
	t.Cleanup(func() { d.Stop(t) })
	d.Start(t, program, options, env...)
	return d
}

// watchdog is --watchdog for the daemons of tests: a worker that is stopped is replaced soon, and one that a busy
// machine does not run for a while is left alone. Emulated processors are not run for longer: a new worker on trial
// had no second there.
func watchdog(t testing.TB) string {
	if Scale(t) < 1 {
		return "5s"
	}
	return "1s"
}

// Start starts the program, also after it has ended.
func (d *Daemon) Start(t testing.TB, program string, options []string, env ...string) {
	t.Helper()
	d.Ended = make(chan struct{})
	args := []string{"serve", "--socket", d.Socket, "--guests", filepath.Join(d.Dir, "guests"), "--watchdog", watchdog(t)}
	d.Cmd = exec.Command(program, append(args, options...)...)
	d.Cmd.Env = append(os.Environ(), env...)
	d.Cmd.Stderr = d.Stderr
	if err := d.Cmd.Start(); err != nil {
		close(d.Ended)
		t.Fatal(err)
	}
	go func() {
		d.Err = d.Cmd.Wait()
		close(d.Ended)
	}()
	d.Ready(t)
}

// Die kills the holder and the worker: nobody is left who could go on.
func (d *Daemon) Die(t testing.TB) {
	t.Helper()
	_, worker := d.Worker(t)
	defer unix.Close(worker)
	d.Cmd.Process.Kill()
	<-d.Ended
	if err := unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0); err != nil || !HasEnded(worker, Patience) {
		t.Fatalf("the worker is still there: %v", err)
	}
	d.Client.CloseIdleConnections()
}

// Ready waits until the daemon answers, and says what.
func (d *Daemon) Ready(t testing.TB) DaemonInfo {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(2 * time.Millisecond) {
		info, err := d.Info()
		if err == nil {
			return info
		}
		select {
		case <-d.Ended:
			t.Fatalf("serve ended: %v: %s", d.Err, d.Log())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("serve does not answer: %v: %s", err, d.Log())
		}
	}
}

// Log is what the daemon said on standard error, at most the last of it.
func (d *Daemon) Log() string {
	raw, _ := os.ReadFile(d.Stderr.Name())
	return string(raw[max(0, len(raw)-4000):])
}

// WantLog waits until the daemon has said something: what it says reaches its log a moment after the answer of which it
// says it.
func (d *Daemon) WantLog(t testing.TB, text string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("the log: %s", d.Log())
		}
	}()
	Eventually(t, "the log to say "+strconv.Quote(text), func() bool { return strings.Contains(d.Log(), text) })
}

// Stop ends the daemon by SIGTERM: with status 0, and with no process and no mount left.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-d.Ended:
		return
	default:
	}
	_, worker := d.Worker(t)
	defer unix.Close(worker)
	d.Cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.Ended:
	case <-time.After(Patience):
		d.Cmd.Process.Signal(unix.SIGQUIT)
		select {
		case <-d.Ended:
		case <-time.After(Patience):
			d.Cmd.Process.Kill()
			<-d.Ended
		}
		t.Errorf("the daemon did not end: %s", d.Log())
	}
	d.Client.CloseIdleConnections()
	d.Stderr.Close()
	if d.Err != nil {
		t.Errorf("the daemon ended with %v: %s", d.Err, d.Log())
	}
	if !HasEnded(worker, Patience) {
		t.Error("the worker is still there")
	}
	for line := range strings.Lines(ReadFile("/proc/self/mountinfo")) {
		if f := strings.Fields(line); d.Mounts[f[4]] {
			t.Errorf("still mounted: %s", line)
			unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

// ListenerSocket is the socket for listeners of a daemon.
func (d *Daemon) ListenerSocket() string { return filepath.Join(filepath.Dir(d.Socket), "notify") }

// StartUnaidedDaemon starts a daemon whose views' type nothing but a listener makes right.
func StartUnaidedDaemon(t testing.TB, env ...string) *Daemon {
	t.Helper()
	return StartDaemonWith(t, Program(t), []string{"--no-bpf"}, env...)
}

// LoopbackAddress finds an address for a daemon. It is no fixed one: another run of these tests may be beside this one.
func LoopbackAddress(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// PipeTo makes a pipe for a daemon's standard error. The writing end is the daemon's; it blocks, as a shell's does.
func PipeTo(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	reader, writer = os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
	t.Cleanup(func() { reader.Close(); writer.Close() })
	return reader, writer
}
