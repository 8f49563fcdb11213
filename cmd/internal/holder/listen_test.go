package holder

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListen: the socket is its owner's alone, what a dead daemon left is replaced, what is no socket is not, and a
// second daemon is refused.
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
		s, err := listenStream(path, -1)
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
	if _, err := listenStream(path, -1); err == nil {
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

// TestListenForRuntimes: a socket on which another process listens is an error; one that a dead daemon left is
// replaced.
func TestListenForRuntimes(t *testing.T) {
	path := t.TempDir() + "/notify"
	h := &Holder{config: Config{Notify: path, Socket: path + ".api"}}
	if err := h.listenForRuntimes(); err != nil {
		t.Fatal(err)
	}
	other := &Holder{config: h.config}
	if err := other.listenForRuntimes(); err == nil || !strings.Contains(err.Error(), "another process does") {
		t.Errorf("a second daemon: %v", err)
	}
	other.Close()
	h.Close()
	if err := other.listenForRuntimes(); err != nil {
		t.Errorf("over the sockets of a dead daemon: %v", err)
	}
	defer other.Close()
	if _, err := net.Dial("unixpacket", path+LXCSuffix); err != nil {
		t.Error(err)
	}
	other.removeSockets()
	for _, p := range []string{path, path + LXCSuffix} {
		if _, err := os.Lstat(p); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s is left: %v", p, err)
		}
	}
}
