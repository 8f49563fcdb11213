package holder

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is both ends of a link.
func pair(t *testing.T) (*link, *link) {
	t.Helper()
	a, file, err := newLinks()
	if err != nil {
		t.Fatal(err)
	}
	b, err := openLink(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.close(); b.close() })
	return a, b
}

// TestLinkKeeps: what a sender gave is there after its end, in order, descriptors included.
func TestLinkKeeps(t *testing.T) {
	a, b := pair(t)
	const n = 3*maxItems + 5
	var items []item
	var fds []int
	for i := range n {
		fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		unix.Pwrite(fd, []byte{byte(i)}, 0)
		items, fds = append(items, item{i, uint64(i) << 40}), append(fds, fd)
	}
	if err := a.sendHeld(items, fds); err != nil {
		t.Fatal(err)
	}
	closeAll(fds)
	if err := a.send(message{kind: msgUpgrade, text: []byte("/a/program")}); err != nil {
		t.Fatal(err)
	}
	a.close()
	buf, oob := room()
	for got := 0; got < n; {
		m, err := b.receive(buf, oob)
		if err != nil || m.kind != msgHold || len(m.fds) != len(m.items) {
			t.Fatalf("%+v, %v", m, err)
		}
		for i, fd := range m.fds {
			var content [1]byte
			unix.Pread(fd, content[:], 0)
			if m.items[i] != (item{got, uint64(got) << 40}) || content[0] != byte(got) {
				t.Errorf("descriptor %d came as %+v with content %d", got, m.items[i], content[0])
			}
			got++
		}
		closeAll(m.fds)
	}
	if m, err := b.receive(buf, oob); err != nil || m.kind != msgUpgrade || string(m.text) != "/a/program" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := b.receive(buf, oob); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// TestLinkRefuses: a descriptor too many, or a message that is none, is an error, and nothing is left open.
func TestLinkRefuses(t *testing.T) {
	a, b := pair(t)
	before := openFiles(t)
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.send(message{kind: msgHold, items: []item{{1, 1}}, fds: []int{fd, fd}}); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	buf, oob := room()
	if m, err := b.receive(buf, oob); err == nil {
		t.Errorf("%+v", m)
	}
	if now := openFiles(t); now != before {
		t.Errorf("%d descriptors, %d before", now, before)
	}
	if _, err := a.conn.Write([]byte("short")); err != nil {
		t.Fatal(err)
	}
	if m, err := b.receive(buf, oob); err == nil {
		t.Errorf("%+v", m)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func FuzzLinkMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("h\x00\x00\x00\x01\x00\x00\x00"))
	f.Add([]byte("h\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00text"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err == nil && len(m.items)*itemSize+len(m.text)+headerSize != len(b) {
			t.Errorf("%d bytes became %d items and %d bytes of text", len(b), len(m.items), len(m.text))
		}
	})
}

// TestListen: the socket is its owner's alone, what a dead daemon left is replaced, what is no socket is not, and a second
// daemon is refused.
func TestListen(t *testing.T) {
	path := t.TempDir() + "/s"
	held, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := lock(path); err == nil || !strings.Contains(err.Error(), "another vcgroupfs serve") {
		t.Errorf("a second lock: %v", err)
	}
	for range 2 {
		s, err := listen(path, -1)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", st, err)
		}
		s.Close()
	}
	os.Remove(path)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path, -1); err == nil {
		t.Error("it listens over a file")
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Error("the file is lost")
	}
	for _, addr := range []string{"0.0.0.0:0", "nonsense", "127.0.0.1", ":0"} {
		if _, err := listenLoopback(addr); err == nil {
			t.Errorf("it serves metrics on %q", addr)
		}
	}
	m, err := listenLoopback("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}

// TestPause: workers that die before they serve are started ever more slowly, but at least once a second.
func TestPause(t *testing.T) {
	h := &Holder{}
	if h.pause() != 0 {
		t.Error("the first one waits")
	}
	for n, want := range map[int]time.Duration{1: 20 * time.Millisecond, 10: 200 * time.Millisecond, 1000: time.Second} {
		h.deaths = n
		if h.pause() != want {
			t.Errorf("after %d deaths: %v, want %v", n, h.pause(), want)
		}
	}
}
