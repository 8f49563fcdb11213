package api

import (
	"bufio"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPeers: who may do what, asked by real processes.
func TestPeers(t *testing.T) {
	var inGuest atomic.Bool // whoever asks
	backend := &fake{inGuest: func(int) bool { return inGuest.Load() }}
	const group = 54321
	socket, _ := served(t, Config{Backend: backend, Observers: group, Metrics: NewMetrics("x", func() Totals { return Totals{} }).Handler()})
	namespaces := func(flags uintptr) *syscall.SysProcAttr {
		a := &syscall.SysProcAttr{Cloneflags: flags}
		if flags&unix.CLONE_NEWUSER != 0 {
			a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
			a.GidMappings = a.UidMappings
		}
		return a
	}
	user := func(gid uint32, groups ...uint32) *syscall.SysProcAttr {
		return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: gid, Groups: groups}}
	}
	for _, c := range []struct {
		name  string
		attr  *syscall.SysProcAttr
		guest bool
		asks  map[string]string // request: part of the answer
	}{
		{"root", nil, false, map[string]string{"GET /v1/info": "200 ", "POST /v1/guests/web/kill": "204 ", "GET /metrics": "200 ", "GET /healthz": "200 ", "GET /nothing": "404 "}},
		{"another user namespace", namespaces(unix.CLONE_NEWUSER), false, map[string]string{
			"GET /v1/info": "403 {\"code\":\"forbidden\",\"message\":\"process", "POST /v1/guests/web/kill": "another user namespace", "GET /metrics": "403 ", "GET /healthz": "403 ", "GET /nothing": "403 ",
		}},
		{"another pid namespace", namespaces(unix.CLONE_NEWPID), false, map[string]string{"GET /v1/info": "another pid namespace", "GET /healthz": "403 "}},
		{"another cgroup namespace", namespaces(unix.CLONE_NEWCGROUP), false, map[string]string{"GET /v1/info": "another cgroup namespace", "GET /metrics": "403 "}},
		{"a guest's command", namespaces(unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS), false, map[string]string{"DELETE /v1/guests/web": "403 "}},
		{"in a boundary", nil, true, map[string]string{"GET /v1/info": "is in a guest", "GET /healthz": "403 ", "PUT /v1/guests/web": "403 "}},
		{"another mount namespace alone", namespaces(unix.CLONE_NEWNS), false, map[string]string{"GET /v1/info": "200 "}},
		{"a user", user(54322), false, map[string]string{
			"GET /v1/info": "for root and for members", "POST /v1/guests/web/kill": "for root (uid 0); you are uid 54321", "GET /healthz": "200 ", "GET /metrics": "200 ",
		}},
		{"an observer by its group", user(group), false, map[string]string{
			"GET /v1/info": "200 ", "GET /v1/top": "200 ", "GET /v1/guests": "200 ", "PUT /v1/guests/web": "403 ", "POST /v1/guests/web/set": "403 ", "POST /v1/upgrade": "403 ", "PUT /v1/type": "403 ",
		}},
		{"an observer by a further group", user(54322, 1, 2, group), false, map[string]string{"GET /v1/info": "200 ", "DELETE /v1/guests/web": "403 "}},
		{"an observer of many groups", user(54322, append(make([]uint32, 200), group)...), false, map[string]string{"GET /v1/info": "200 "}},
	} {
		for request, want := range c.asks {
			t.Run(c.name+" "+request, func(t *testing.T) {
				inGuest.Store(c.guest)
				cmd := play("ask " + request + " " + socket)
				cmd.SysProcAttr = c.attr
				raw, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(raw), want) {
					t.Errorf("%q, %v; want %q", raw, err, want)
				}
				if calls := backend.reached(); !strings.HasPrefix(want, "2") && len(calls) > 0 {
					t.Errorf("it reached the backend: %v", calls)
				}
			})
		}
	}
}

// TestUnseenPeer: a daemon in a pid namespace does not see who is outside.
func TestUnseenPeer(t *testing.T) {
	needRoot(t)
	socket := filepath.Join(t.TempDir(), "s")
	cmd := play("serve " + socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatal(line, err)
	}
	if status, body, err := ask(socket, "GET", "/healthz", ""); status != 403 || !strings.Contains(body, "does not see you") {
		t.Error(status, body, err)
	}
}

// TestReusedPid: a number that is another process's by now is not who connected.
func TestReusedPid(t *testing.T) {
	needRoot(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	unix.Close(fd)
	if err == unix.ENOPROTOOPT {
		t.Skip("kernel: SO_PEERPIDFD is there since 6.5")
	}
	cmd := play("reuse " + filepath.Join(t.TempDir(), "s"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "uid 0: the process that connected has ended") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestOwnListener: nobody but a unix socket's peer is known, so nothing else is served, and a connection that is none of ours is refused.
func TestOwnListener(t *testing.T) {
	l, err := ListenLoopback("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := Serve(t.Context(), Config{Backend: &fake{}, Log: quiet()}, l, nil); err == nil || !strings.Contains(err.Error(), "only a unix socket") {
		t.Error(err)
	}
	a, b := net.Pipe()
	defer b.Close()
	if p := peerOf(a); p.may(accessProbe) == nil {
		t.Error("a connection without a peer may do something")
	}
}
