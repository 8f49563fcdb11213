package runtimes

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

func TestOCIState(t *testing.T) {
	config := `{"root": {"path": "rootfs"}}`
	read := func(path string) ([]byte, error) {
		switch path {
		case "/b/config.json":
			return []byte(config), nil
		case "/abs/config.json":
			return []byte(`{"root": {"path": "/var/lib/r/../x"}}`), nil
		case "/bad/config.json":
			return []byte(`{"root": 1}`), nil
		case "/none/config.json":
			return []byte(`{}`), nil
		}
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("no")}
	}
	for _, c := range []struct {
		state ociState
		want  Container
		says  string
	}{
		{ociState{ID: "a", Status: "creating", Pid: 7, Bundle: "/b"}, Container{ID: "a", Pid: 7, Rootfs: "/b/rootfs"}, ""},
		{ociState{ID: "a", Status: "created", Pid: 7, Bundle: "/abs"}, Container{ID: "a", Pid: 7, Rootfs: "/var/lib/x"}, ""},
		{ociState{ID: "a", Status: "stopped", Pid: 1 << 30}, Container{ID: "a"}, ""},
		{ociState{ID: "a", Status: "stopped", Pid: os.Getpid()}, Container{}, "lives"},
		{ociState{ID: "a", Pid: 7, Bundle: "/b"}, Container{}, "createRuntime and poststop"},
		{ociState{Status: "creating", Pid: 7, Bundle: "/b"}, Container{}, "no id"},
		{ociState{ID: "a", Status: "running", Pid: 7, Bundle: "/b"}, Container{}, "createRuntime and poststop"},
		{ociState{ID: "a", Status: "creating", Bundle: "/b"}, Container{}, "no pid"},
		{ociState{ID: "a", Status: "creating", Pid: -7, Bundle: "/b"}, Container{}, "no pid"},
		{ociState{ID: "a", Status: "creating", Pid: 7, Bundle: "b"}, Container{}, "no absolute path"},
		{ociState{ID: "a", Status: "creating", Pid: 7, Bundle: "/nowhere"}, Container{}, "/nowhere/config.json"},
		{ociState{ID: "a", Status: "creating", Pid: 7, Bundle: "/bad"}, Container{}, "configuration"},
		{ociState{ID: "a", Status: "creating", Pid: 7, Bundle: "/none"}, Container{}, "root.path"},
	} {
		got, err := c.state.container(read)
		switch {
		case c.says == "" && (err != nil || got.ID != c.want.ID || got.Pid != c.want.Pid || got.Rootfs != c.want.Rootfs):
			t.Errorf("%+v: %+v, %v; want %+v", c.state, got, err, c.want)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%+v: %v; want %q", c.state, err, c.says)
		}
	}
}

// TestReadOCI: a state on standard input is a container; what no runtime would say is a wrong command line.
func TestReadOCI(t *testing.T) {
	bundle := t.TempDir()
	config := filepath.Join(bundle, "config.json")
	if err := os.WriteFile(config, []byte(`{"root": {"path": "rootfs"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	state := `{"ociVersion": "1.0.2", "id": "web", "status": "created", "pid": 7, "bundle": "` + bundle + `/.",
		"annotations": {"` + ControllersAnnotation + `": "pids"}}`
	got, err := readOCI(Input{Stdin: strings.NewReader(state)})
	if err != nil || got.ID != "web" || got.Pid != 7 || got.Rootfs != bundle+"/rootfs" || got.Of != bundle ||
		got.Annotations[ControllersAnnotation] != "pids" {
		t.Errorf("%+v, %v", got, err)
	}
	for text, says := range map[string]string{
		" \n": "it is empty", "nonsense": "invalid character", `{"id": 1}`: "cannot unmarshal", "{}": "no id",
		strings.Repeat(" ", maxHookInput) + state: "it is empty",
	} {
		_, err := readOCI(Input{Stdin: strings.NewReader(text)})
		if err == nil || fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: %v, want %q", text, err, says)
		}
	}
	broken := errors.New("the pipe is broken")
	if _, err := readOCI(Input{Stdin: failing{broken}}); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestListenerState: which container a listener is of, as runc and crun say it, and which descriptor it is.
func TestListenerState(t *testing.T) {
	for name, c := range map[string]struct {
		id               string
		pid, first, want int
		fds              []string
		listener         int
		fails            string
	}{
		"runc":        {"web", 7, 1, 1, []string{"seccompFd"}, 0, ""},
		"crun's exec": {"web", 0, 0, 0, []string{"pidfd", "seccompFd"}, 1, ""},
		"older":       {"web", 7, 0, 7, nil, -1, ""},
		"nobody":      {"", 7, 1, 0, nil, -1, "no container"},
		"wrong":       {"web", 0, -1, 0, nil, -1, "no container"},
	} {
		s := ListenerState{FDs: c.fds, Pid: c.pid}
		s.State.ID, s.State.Pid = c.id, c.first
		box, err := s.Container()
		if c.fails == "" && (err != nil || box.ID != c.id || box.Pid != c.want) ||
			c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %+v, %v; want %d, %q", name, box, err, c.want, c.fails)
		}
		if got := s.Listener(); got != c.listener {
			t.Errorf("%s: the listener is descriptor %d, want %d", name, got, c.listener)
		}
	}
}
