package kit

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

// ServiceManager is the part of a service manager that a daemon talks to: sd_notify(3), with the store of descriptors.
type ServiceManager struct {
	Path string

	Mu     sync.Mutex
	States []string            // guarded by Mu
	Stored map[string]*os.File // guarded by Mu
}

// NewServiceManager starts one, for as long as the test runs.
func NewServiceManager(t *testing.T) *ServiceManager {
	t.Helper()
	m := &ServiceManager{Path: filepath.Join(t.TempDir(), "notify"), Stored: map[string]*os.File{}}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.Path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		m.Mu.Lock()
		defer m.Mu.Unlock()
		for _, f := range m.Stored {
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

func (m *ServiceManager) take(text string, oob []byte) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.States = append(m.States, text)
	name := ""
	for line := range strings.SplitSeq(text, "\n") {
		if n, ok := strings.CutPrefix(line, "FDNAME="); ok {
			name = n
		}
	}
	if strings.HasPrefix(text, "FDSTOREREMOVE=1") && m.Stored[name] != nil {
		m.Stored[name].Close()
		delete(m.Stored, name)
	}
	if messages, err := unix.ParseSocketControlMessage(oob); err == nil {
		for _, c := range messages {
			fds, _ := unix.ParseUnixRights(&c)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				m.Stored[name] = os.NewFile(uintptr(fd), name)
			}
		}
	}
}

// Said says whether a state was told that begins so.
func (m *ServiceManager) Said(prefix string) func() bool {
	return func() bool {
		m.Mu.Lock()
		defer m.Mu.Unlock()
		for _, s := range m.States {
			if strings.HasPrefix(s, prefix) {
				return true
			}
		}
		return false
	}
}

// Restart starts the daemon again with what is stored, as sd_listen_fds(3) has it.
func (m *ServiceManager) Restart(t *testing.T, old *Daemon) *Daemon {
	t.Helper()
	m.Mu.Lock()
	defer m.Mu.Unlock()
	d := &Daemon{Dir: old.Dir, Socket: old.Socket, Client: old.Client, Mounts: old.Mounts, Ended: make(chan struct{})}
	var err error
	if d.Stderr, err = os.Create(filepath.Join(d.Dir, "stderr2")); err != nil {
		t.Fatal(err)
	}
	d.Cmd = exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", Program(t), "serve", "--socket", d.Socket,
		"--guests", "", "--watchdog", watchdog(t))
	var names []string
	for name, f := range m.Stored {
		names = append(names, name)
		d.Cmd.ExtraFiles = append(d.Cmd.ExtraFiles, f)
	}
	d.Cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.Path, fmt.Sprintf("LISTEN_FDS=%d", len(names)),
		"LISTEN_FDNAMES="+strings.Join(names, ":"))
	d.Cmd.Stderr = d.Stderr
	old.Client.CloseIdleConnections()
	if err := d.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.Err = d.Cmd.Wait()
		close(d.Ended)
	}()
	t.Cleanup(func() { d.Stop(t) })
	time.Sleep(10 * time.Millisecond)
	return d
}
