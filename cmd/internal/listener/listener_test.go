package listener

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
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
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the filter ends with the thread
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			made <- result{-1, err}
			return
		}
		fd, err := notify.Install(notify.Filter(notify.Rules{Type: true}))
		made <- result{fd, err}
	}()
	r := <-made
	if r.err != nil {
		t.Skipf("machine: no seccomp listener: %v", r.err)
	}
	t.Cleanup(func() { unix.Close(r.fd) })
	return r.fd
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

// lxcPacket is one of LXC's.
func lxcPacket(notif, resp uint16, rest int) []byte {
	b := make([]byte, lxcHead+rest)
	binary.NativeEndian.PutUint32(b[lxcInitPid:], 42)
	binary.NativeEndian.PutUint16(b[lxcSizes:], notif)
	binary.NativeEndian.PutUint16(b[lxcSizes+2:], resp)
	return b
}

// TestParseLXC: a packet's answer stands where LXC looks for it; one whose sizes do not fit is refused.
func TestParseLXC(t *testing.T) {
	packet := lxcPacket(80, 24, 80+24+5)
	packet[lxcHead] = 9
	r, err := parseLXC(packet, nil)
	if err != nil {
		t.Fatal(err)
	}
	notify.PutResponse(r.response, r.call.ID, unix.EBUSY, false)
	if r.initPid != 42 || r.call.ID != 9 || len(r.packet) != lxcHead+80+24 || r.packet[lxcHead+80] != 9 ||
		int32(binary.NativeEndian.Uint32(r.packet[lxcHead+80+16:])) != -int32(unix.EBUSY) || r.listener != -1 {
		t.Errorf("%+v", r)
	}
	for _, bad := range [][]byte{
		nil, packet[:lxcHead-1], lxcPacket(79, 24, 200), lxcPacket(80, 23, 200), lxcPacket(80, 24, 103), lxcPacket(65535, 65535, 200),
	} {
		if _, err := parseLXC(bad, nil); err == nil {
			t.Errorf("a packet of %d bytes is understood", len(bad))
		}
	}
}

func FuzzParseLXC(f *testing.F) {
	f.Add(lxcPacket(80, 24, 104))
	f.Add(lxcPacket(88, 32, 130))
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, err := parseLXC(packet, nil)
		if err != nil {
			return
		}
		notify.PutResponse(r.response, r.call.ID, 0, true)
		if len(r.packet) > len(packet) {
			t.Errorf("%d bytes of %d go back", len(r.packet), len(packet))
		}
	})
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
		s    processState
		want int
		ok   bool
	}{
		"runc's exec": {stateOf("web", self+1, self), self, true},
		"crun's exec": {stateOf("web", 0, 0), 0, true},
		"older":       {stateOf("web", self, 0), self, true},
		"nobody":      {stateOf("", self, self), 0, false},
		"wrong":       {stateOf("web", 0, -1), 0, false},
	} {
		w, err := c.s.container()
		if (err == nil) != c.ok || c.ok && (w.pid != c.want || (w.start != 0) != (c.want != 0) || w.name != "web") {
			t.Errorf("%s: %+v, %v", name, w, err)
		}
	}
}

func stateOf(id string, pid, first int) (s processState) {
	s.Pid, s.State.ID, s.State.Pid = pid, id, first
	return s
}
