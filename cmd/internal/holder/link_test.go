package holder

import (
	"errors"
	"io"
	"os"
	"testing"

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
	buf, oob := receiveBuffers()
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
	buf, oob := receiveBuffers()
	if m, err := b.receive(buf, oob); err == nil {
		t.Errorf("%+v", m)
	}
	if now := openFiles(t); now > before { // those of the tests before go late
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
