package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the part of a service manager that a daemon talks to: sd_notify(3), with the store of descriptors.
type manager struct {
	path string

	mu     sync.Mutex
	states []string            // guarded by mu
	stored map[string]*os.File // guarded by mu
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{path: filepath.Join(t.TempDir(), "notify"), stored: map[string]*os.File{}}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, f := range m.stored {
			f.Close()
		}
	})
	go func() {
		buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
		for {
			n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			m.take(string(buf[:n]), oob[:oobn])
		}
	}()
	return m
}

func (m *manager) take(text string, oob []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states = append(m.states, text)
	name := ""
	for line := range strings.SplitSeq(text, "\n") {
		if n, ok := strings.CutPrefix(line, "FDNAME="); ok {
			name = n
		}
	}
	if strings.HasPrefix(text, "FDSTOREREMOVE=1") && m.stored[name] != nil {
		m.stored[name].Close()
		delete(m.stored, name)
	}
	if messages, err := unix.ParseSocketControlMessage(oob); err == nil {
		for _, c := range messages {
			fds, _ := unix.ParseUnixRights(&c)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				m.stored[name] = os.NewFile(uintptr(fd), name)
			}
		}
	}
}

// said says whether a state was told that begins so.
func (m *manager) said(prefix string) func() bool {
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, s := range m.states {
			if strings.HasPrefix(s, prefix) {
				return true
			}
		}
		return false
	}
}

// TestManager: a service manager is told how the daemon is; it keeps the guests' connections, and when holder and worker are
// both killed the next daemon goes on with them.
func TestManager(t *testing.T) {
	m := newManager(t)
	d := startDaemonWith(t, program(t), nil, "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=600000")
	p := newPlace(t, d, "manager")
	d.wantTry(t, 0, "", p.add("web")...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the manager was told %q; the log: %s", m.states[:min(4, len(m.states))], d.log())
		}
	})
	eventually(t, "the manager to be told", func() bool {
		return m.said("READY=1")() && m.said("WATCHDOG=1")() && m.said("FDSTORE=1\nFDPOLL=0\nFDNAME=arena")() && m.said("FDSTORE=1\nFDPOLL=0\nFDNAME=device-0")()
	})
	if err := unix.Mkdir(p.at("a"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := "pids.max"
	if p.tree.Version == 2 {
		file = "cgroup.max.depth"
	}
	reading, err1 := unix.Open(p.at("cgroup.procs"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	writing, err2 := unix.Open(p.at("a/"+file), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	defer unix.Close(reading)
	defer unix.Close(writing)
	_, worker := d.worker(t)
	defer unix.Close(worker)
	d.cmd.Process.Kill()
	<-d.ended
	// The worker alone still serves, and keeps another daemon from its guests.
	if got := readFile(p.at("a/" + file)); got != "max\n" {
		t.Errorf("without its holder the worker says %q", got)
	}
	out, _ := exec.Command(program(t), "serve", "--socket", d.socket, "--guests", "").CombinedOutput()
	if !strings.Contains(string(out), "serve-worker") {
		t.Errorf("a second daemon says %q", out)
	}
	unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0)
	if !hasEnded(worker, patience) {
		t.Fatal("the worker is still there")
	}

	next := m.restart(t, d)
	next.ready(t)
	next.wantTry(t, 0, "web", "guest", "ls")
	if _, err := unix.Pread(reading, make([]byte, 64), 0); err != nil {
		t.Errorf("a kept reading descriptor: %v", err)
	}
	if _, err := unix.Pwrite(writing, []byte("7"), 0); err != nil {
		t.Errorf("a kept writing descriptor: %v", err)
	}
	if got := readFile(p.at("a/" + file)); got != "7\n" {
		t.Errorf("it wrote %q", got)
	}
	if err := unix.Mkdir(p.at("b"), 0o755); err != nil {
		t.Error(err)
	}
	next.wantTry(t, 0, "", "guest", "rm", "web")
	eventually(t, "the guest's connection to leave the store", m.said("FDSTOREREMOVE=1\nFDNAME=device-0"))
	next.stop(t)
	if !m.said("STOPPING=1")() {
		t.Error("the manager was not told of the end")
	}
}

// restart starts the daemon again with what is stored, as sd_listen_fds(3) has it.
func (m *manager) restart(t *testing.T, old *daemon) *daemon {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	d := &daemon{dir: old.dir, socket: old.socket, client: old.client, mounts: old.mounts, ended: make(chan struct{})}
	var err error
	if d.said, err = os.Create(filepath.Join(d.dir, "stderr2")); err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", program(t), "serve", "--socket", d.socket, "--guests", "", "--watchdog", "1s")
	var names []string
	for name, f := range m.stored {
		names = append(names, name)
		d.cmd.ExtraFiles = append(d.cmd.ExtraFiles, f)
	}
	d.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	d.cmd.Stderr = d.said
	old.client.CloseIdleConnections()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() { d.stop(t) })
	time.Sleep(10 * time.Millisecond)
	return d
}
