package listener

import (
	"encoding/binary"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// TestWord: what the holder keeps is what is read again, and fits into a name of systemd's store.
func TestWord(t *testing.T) {
	for _, w := range []word{
		{}, {kind: kindConn}, {kind: kindListener, pid: 42, start: 1 << 63, name: "a.b-c_1"},
		{kind: kindLXC, name: strings.Repeat("x", 64)},
	} {
		s := w.String()
		if got := parseWord(s); got != w {
			t.Errorf("%q is read as %+v, was %+v", s, got, w)
		}
		if len(s) > 200 || strings.Contains(s, ":") {
			t.Errorf("%q is no name for the store", s)
		}
	}
	if got := parseWord("nonsense"); got != (word{kind: "nonsense"}) {
		t.Errorf("nonsense: %+v", got)
	}
}

// newListener is the listener of a thread that makes no call which it stops.
func newListener(t *testing.T) int {
	t.Helper()
	fd := -1
	err := host.OnThread(func() error { // which ends, with the filter
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			fd, err = notify.Install(notify.Filter(notify.Rules{Type: true}))
		}
		return err
	})
	if err != nil {
		t.Skipf("machine: no seccomp listener: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// connected is a pair of connected sockets.
func connected(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	open := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return open(fds[0]), open(fds[1])
}

// TestReadState: a runtime's word is understood, and can be read again by the next process; what is wrong is refused
// in time.
func TestReadState(t *testing.T) {
	listener := newListener(t)
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null := int(file.Fd())
	const whole = `{"fds":["x","seccompFd"],"pid":7,"state":{"id":"web","pid":1,"annotations":{"a":"`
	pad := func(n int) string { return whole + strings.Repeat("b", n) + `"}}}` }
	for name, c := range map[string]struct {
		text  string
		fds   []int
		fails string
	}{
		"good":               {pad(0), []int{null, listener}, ""},
		"with annotations":   {pad(20000), []int{null, listener}, ""},
		"of runc":            {`{"fds":["seccompFd"],"pid":7,"metadata":"m","state":{"id":"web","pid":1}}`, []int{listener}, ""},
		"without init's pid": {`{"fds":["seccompFd"],"pid":1,"state":{"id":"web"}}`, []int{listener}, ""},
		"too long":           {pad(70000), []int{null, listener}, "more than"},
		"no descriptors":     {pad(0), nil, "cannot find a listener"},
		"fewer descriptors":  {pad(0), []int{listener}, "cannot find a listener"},
		"no listener":        {pad(0), []int{listener, null}, "it is none"},
		"no container":       {`{"fds":["seccompFd"],"pid":7,"state":{}}`, []int{listener}, "no container"},
		"no seccompFd":       {`{"fds":["other"],"pid":1,"state":{"id":"web"}}`, []int{listener}, "cannot find a listener"},
		"nonsense":           {"nonsense", []int{listener}, "timeout"},
		"nothing":            {"", nil, "EOF"},
		"too many":           {pad(0), []int{null, null, null, null, null, null, null, null, listener}, "more than 8"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := connected(t)
			var rights []byte
			if c.fds != nil {
				rights = unix.UnixRights(c.fds...)
			}
			if c.text == "" {
				a.CloseWrite()
			} else if _, _, err := a.WriteMsgUnix([]byte(c.text), rights, nil); err != nil {
				t.Fatal(err)
			}
			b.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // which is longer where more must come
			for range 2 {                                             // the second is the next process
				fd, w, err := readState(b)
				if c.fails != "" {
					if err == nil || !strings.Contains(err.Error(), c.fails) {
						t.Errorf("%v, want %q", err, c.fails)
					}
					return
				}
				if err != nil || !isListener(fd) || w.kind != kindListener || w.pid != 1 || w.start == 0 || w.name != "web" {
					t.Errorf("%d, %+v, %v", fd, w, err)
				}
				unix.Close(fd)
			}
		})
	}
}

// TestRequest: the listener is found among the descriptors of a packet, and a packet without one is a request too.
func TestRequest(t *testing.T) {
	const notif, resp = 80, notify.ResponseSize
	packet := make([]byte, 32+notif+resp)
	binary.NativeEndian.PutUint16(packet[16:], notif)
	binary.NativeEndian.PutUint16(packet[18:], resp)
	listener := newListener(t)
	for name, c := range map[string]struct {
		fds  []int
		want int
	}{
		"of LXC 4.0.3": {[]int{0, 1, listener}, listener}, "older": {nil, -1}, "none": {[]int{0, 1, 2}, -1},
		"another order": {[]int{listener, 0, 1}, -1},
	} {
		if r, err := newRequest(packet, c.fds); err != nil || r.listener != c.want || len(r.fds) != len(c.fds) {
			t.Errorf("%s: %+v, %v; want %d", name, r, err, c.want)
		}
	}
	if _, err := newRequest(packet[:40], nil); err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Errorf("a part of a packet: %v", err)
	}
}

func FuzzParseWord(f *testing.F) {
	f.Add("listener.1.2.web")
	f.Fuzz(func(t *testing.T, s string) {
		w := parseWord(s)
		if again := parseWord(w.String()); again.pid != w.pid || again.start != w.start {
			t.Errorf("%q: %+v, then %+v", s, w, again)
		}
	})
}

// TestContainer: of which container a listener is, as runc and crun say it.
func TestContainer(t *testing.T) {
	self := os.Getpid()
	for name, c := range map[string]struct {
		s    runtimes.ListenerState
		want int
		ok   bool
	}{
		"runc's exec": {stateOf("web", self+1, self), self, true},
		"crun's exec": {stateOf("web", 0, 0), 0, true},
		"older":       {stateOf("web", self, 0), self, true},
		"nobody":      {stateOf("", self, self), 0, false},
		"wrong":       {stateOf("web", 0, -1), 0, false},
	} {
		w, err := wordOf(&c.s)
		if (err == nil) != c.ok || c.ok && (w.pid != c.want || (w.start != 0) != (c.want != 0) || w.name != "web") {
			t.Errorf("%s: %+v, %v", name, w, err)
		}
	}
}

func stateOf(id string, pid, first int) (s runtimes.ListenerState) {
	s.Pid, s.State.ID, s.State.Pid = pid, id, first
	return s
}
