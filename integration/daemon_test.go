package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// daemon is a "serve" of the test's own.
type daemon struct {
	dir    string // has its socket and the guests' files
	socket string
	cmd    *exec.Cmd
	said   *os.File // its standard error
	client *http.Client
	mounts map[string]bool // where its guests' views are
	ended  chan struct{}   // closed when it has ended
	err    error           // how, after ended
}

// daemonInfo is what a test reads of GET /v1/info.
type daemonInfo struct {
	Pid      int    `json:"pid"`
	Holder   int    `json:"holder"`
	Guests   int    `json:"guests"`
	Restarts uint64 `json:"restarts"`
	Resend   bool   `json:"resend"`
}

// guestSpec is the body of PUT /v1/guests/{name} as far as a test needs it.
type guestSpec struct {
	Boundary    string   `json:"boundary"`
	Target      string   `json:"target"`
	Rootfs      string   `json:"rootfs,omitempty"`
	Controllers []string `json:"controllers,omitempty"`
	Policy      string   `json:"policy,omitempty"`
}

// startDaemon starts the program under test and waits until it answers. It ends with the test at the latest.
func startDaemon(t testing.TB, env ...string) *daemon {
	t.Helper()
	return startDaemonOf(t, program(t), env...)
}

func startDaemonOf(t testing.TB, program string, env ...string) *daemon {
	t.Helper()
	return startDaemonWith(t, program, nil, env...)
}

// startDaemonWith starts it with more options.
func startDaemonWith(t testing.TB, program string, options []string, env ...string) *daemon {
	t.Helper()
	return startDaemonSaying(t, nil, program, options, env...)
}

// startDaemonSaying starts it with a standard error of the caller's; nil for a file.
func startDaemonSaying(t testing.TB, said *os.File, program string, options []string, env ...string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "vcgroupfs-test-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{dir: dir, socket: filepath.Join(dir, "api.sock"), said: said, ended: make(chan struct{}), mounts: map[string]bool{}}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(dir, "guests"), 0o755); err != nil {
		t.Fatal(err)
	}
	if said == nil {
		if d.said, err = os.Create(filepath.Join(dir, "stderr")); err != nil {
			t.Fatal(err)
		}
	}
	d.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	}}}
	t.Cleanup(func() { d.stop(t) })
	d.start(t, program, options, env...)
	return d
}

// start starts the program, also after it has ended.
func (d *daemon) start(t testing.TB, program string, options []string, env ...string) {
	t.Helper()
	d.ended = make(chan struct{})
	args := []string{"serve", "--socket", d.socket, "--guests", filepath.Join(d.dir, "guests"), "--watchdog", "1s"}
	d.cmd = exec.Command(program, append(args, options...)...)
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.Stderr = d.said
	if err := d.cmd.Start(); err != nil {
		close(d.ended)
		t.Fatal(err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	d.ready(t)
}

// die kills the holder and the worker: nobody is left who could go on.
func (d *daemon) die(t testing.TB) {
	t.Helper()
	_, worker := d.worker(t)
	defer unix.Close(worker)
	d.cmd.Process.Kill()
	<-d.ended
	if err := unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0); err != nil || !hasEnded(worker, patience) {
		t.Fatalf("the worker is still there: %v", err)
	}
	d.client.CloseIdleConnections()
}

// ready waits until the daemon answers, and says what.
func (d *daemon) ready(t testing.TB) daemonInfo {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		info, err := d.info()
		if err == nil {
			return info
		}
		select {
		case <-d.ended:
			t.Fatalf("serve ended: %v: %s", d.err, d.log())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("serve does not answer: %v: %s", err, d.log())
		}
	}
}

// declare writes the file that declares a guest.
func (d *daemon) declare(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "guests", name+".yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// log is what the daemon said on standard error, at most the last of it.
func (d *daemon) log() string {
	raw, _ := os.ReadFile(d.said.Name())
	return string(raw[max(0, len(raw)-4000):])
}

// call makes one request. A status that is not 2xx is an error with the body.
func (d *daemon) call(method, path string, body, answer any) error {
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(raw)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, in)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(raw))
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(raw, answer)
	}
	return err
}

func (d *daemon) info() (info daemonInfo, err error) {
	err = d.call("GET", "/v1/info", nil, &info)
	return info, err
}

// run runs the program's client with --socket behind its other arguments.
func (d *daemon) run(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(program(t), append(args, "--socket", d.socket)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// add adds a site as a guest and returns the site as the guest sees it. The guest is removed by the daemon's end.
func (d *daemon) add(t testing.TB, name string, s site) site {
	t.Helper()
	dir := publicDir(t)
	t.Cleanup(func() { d.stop(t) }) // before the directory goes
	d.mounts[dir] = true
	d.run(t, "guest", "add", name, "--boundary", s.path, "--controllers", siteControllers, "--target", dir)
	return s.through(dir)
}

// loads adds sites as guests and starts a load in each.
func (d *daemon) loads(t testing.TB, sites []site) (loads []*load) {
	t.Helper()
	for i, s := range sites {
		l := newLoad(t, d.add(t, "g"+strconv.Itoa(i), s))
		l.tolerant = !d.ready(t).Resend
		loads = append(loads, l)
	}
	for _, l := range loads {
		l.start(t)
	}
	return loads
}

// stop ends the daemon by SIGTERM: with status 0, and with no process and no mount left.
func (d *daemon) stop(t testing.TB) {
	t.Helper()
	select {
	case <-d.ended:
		return
	default:
	}
	_, worker := d.worker(t)
	defer unix.Close(worker)
	d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.cmd.Process.Signal(unix.SIGQUIT)
		select {
		case <-d.ended:
		case <-time.After(patience):
			d.cmd.Process.Kill()
			<-d.ended
		}
		t.Errorf("the daemon did not end: %s", d.log())
	}
	d.client.CloseIdleConnections()
	d.said.Close()
	if d.err != nil {
		t.Errorf("the daemon ended with %v: %s", d.err, d.log())
	}
	if !hasEnded(worker, patience) {
		t.Error("the worker is still there")
	}
	for line := range strings.Lines(readFile("/proc/self/mountinfo")) {
		if f := strings.Fields(line); d.mounts[f[4]] {
			t.Errorf("still mounted: %s", line)
			unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

// hasEnded waits for the end of the process of a pidfd.
func hasEnded(pidfd int, wait time.Duration) bool {
	for deadline := time.Now().Add(wait); ; {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// process is a process by its number.
type process int

// children are the processes that another has started and that have not ended.
func children(pid int) (found []process) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		for word := range strings.FieldsSeq(readFile(file)) {
			if n, err := strconv.Atoi(word); err == nil {
				found = append(found, process(n))
			}
		}
	}
	return found
}

// isWorker says whether a process is a worker of a holder, and of no other.
func (p process) isWorker(holder int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
	if err != nil || !strings.Contains(string(args), "serve-worker") {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
	return err == nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", holder))
}

// worker is a descriptor of the daemon's worker: what is signalled by it is that process and no other that got its number.
func (d *daemon) worker(t testing.TB) (pid, fd int) {
	t.Helper()
	holder := d.cmd.Process.Pid
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		for _, p := range children(holder) {
			fd, err := unix.PidfdOpen(int(p), 0)
			if err == nil && p.isWorker(holder) {
				return int(p), fd
			}
			if err == nil {
				unix.Close(fd)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no worker: %s", d.log())
		}
	}
}

// signal sends a signal to the worker of the moment, unless that is the one that is known, and returns its number. It
// returns 0 when there was none to signal. A worker that is killed has ended then, and so takes no request any more.
func (d *daemon) signal(t testing.TB, sig unix.Signal, known int) int {
	t.Helper()
	pid, fd := d.worker(t)
	defer unix.Close(fd)
	if pid == known {
		return 0
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) { // it has ended meanwhile
		return 0
	} else if err != nil {
		t.Fatal(err)
	}
	if sig == unix.SIGKILL && !hasEnded(fd, patience) {
		t.Fatalf("the worker %d was killed and does not end", pid)
	}
	return pid
}
