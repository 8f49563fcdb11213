package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// TestClient: every call, and the errors that the daemon says.
func TestClient(t *testing.T) {
	backend := &fake{}
	m := NewMetrics("x", func() Totals { return Totals{} })
	socket, _ := served(t, Config{Backend: backend, Metrics: m.Handler()})
	c := NewClient(socket)
	defer c.Close()
	ctx := t.Context()
	check := func(what string, ok bool, err error) {
		t.Helper()
		if !ok || err != nil {
			t.Error(what, ok, err)
		}
	}
	info, err := c.Info(ctx)
	check("info", info.Version == "test", err)
	spec := GuestSpec{Boundary: "/a", Target: "/t", Limits: map[string]string{"pids.max": "7"}}
	g, made, err := c.Add(ctx, "web", spec)
	check("add", made && g.Spec.Limits["pids.max"] == "7", err)
	_, made, err = c.Add(ctx, "web", spec)
	check("add again", !made, err)
	all, err := c.Guests(ctx)
	check("guests", len(all) == 1, err)
	g, err = c.Guest(ctx, "web")
	check("guest", g.Name == "web", err)
	var tree Cgroup
	err = c.Do(ctx, Tree, "web", &tree)
	check("tree", len(tree.Children) == 1, err)
	_, err = c.Top(ctx)
	check("top", true, err)
	changes, err := c.Set(ctx, "web", []Limit{{"pids.max", "8"}})
	check("set", len(changes) == 1, err)
	check("freeze, thaw, kill, upgrade, health", true, errors.Join(
		c.Do(ctx, Freeze, "web", nil), c.Do(ctx, Thaw, "web", nil), c.Do(ctx, Kill, "web", nil), c.Upgrade(ctx, ""), c.Health(ctx)))
	_, text, err := ask(socket, "GET", "/metrics", "")
	check("metrics", strings.Contains(text, "vcgroupfs_guests"), err)
	check("remove", true, c.Remove(ctx, "web", false))
	if err := c.Remove(ctx, "web", false); fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
	if _, _, err := c.Add(ctx, "../x", spec); fault.Of(err) != fault.Invalid {
		t.Error(err)
	}
}

// TestNotRunning: what is said where no daemon listens, and how soon.
func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: stale}); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	for _, socket := range []string{filepath.Join(dir, "none"), stale} {
		start := time.Now()
		_, err := NewClient(socket).Info(t.Context())
		if fault.Of(err) != fault.NoDaemon || !strings.Contains(err.Error(), "vcgroupfs serve") || time.Since(start) > 2*refusedFor {
			t.Error(err, time.Since(start))
		}
	}
	if _, err := NewClient(filepath.Join(dir, strings.Repeat("x", 200))).Info(t.Context()); err == nil || fault.Of(err) == fault.NoDaemon {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := NewClient(stale).Info(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// breaking is a socket whose first connections are broken after their request was read, as a worker's death breaks them. The
// listening socket stays, as it does in the holder.
func breaking(t *testing.T, backend *fake, breaks int, half string) (socket string, broken *atomic.Int32) {
	needRoot(t)
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	broken = &atomic.Int32{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range breaks {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 16<<10))
			io.WriteString(c, half)
			broken.Add(1) // before the client can see it
			c.Close()
		}
		l.Close()
		time.Sleep(300 * time.Millisecond) // nobody accepts
		next, err := net.FileListener(f)
		if err != nil {
			t.Error(err)
			return
		}
		if err := Serve(ctx, Config{Backend: backend, Log: quiet()}, next, nil); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		l.Close()
		<-ended
		f.Close()
	})
	return socket, broken
}

// TestRetry: a call that may be done twice outlives the worker that it was sent to; another says that it does not know.
func TestRetry(t *testing.T) {
	for _, half := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"} {
		backend := &fake{guests: map[string]GuestSpec{"web": {}}}
		for what, do := range map[string]func(*Client) error{
			"info": func(c *Client) error { _, err := c.Info(t.Context()); return err },
			"add": func(c *Client) error {
				_, _, err := c.Add(t.Context(), "x", GuestSpec{Pid: 1, Target: "/t"})
				return err
			},
			"set":    func(c *Client) error { _, err := c.Set(t.Context(), "web", []Limit{{"pids.max", "1"}}); return err },
			"remove": func(c *Client) error { return c.Remove(t.Context(), "nobody", false) }, // may have been done by a try that broke
		} {
			socket, broken := breaking(t, backend, 3, half)
			c := NewClient(socket)
			if err := do(c); err != nil || broken.Load() != 3 {
				t.Errorf("%s: %v after %d", what, err, broken.Load())
			}
			c.Close()
		}
	}
	backend := &fake{}
	socket, broken := breaking(t, backend, 1, "")
	if err := NewClient(socket).Do(t.Context(), Kill, "web", nil); err == nil || !strings.Contains(err.Error(), "look before you ask again") || broken.Load() != 1 {
		t.Errorf("kill: %v after %d", err, broken.Load())
	}
}

// TestFullBacklog: where more connect than the socket holds, a call waits.
func TestFullBacklog(t *testing.T) {
	needRoot(t)
	socket := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	for {
		c, err := net.Dial("unix", socket)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		time.Sleep(200 * time.Millisecond)
		l, err := net.FileListener(f)
		if err != nil {
			ended <- err
			return
		}
		ended <- Serve(ctx, Config{Backend: &fake{}, Log: quiet()}, l, nil)
	}()
	if err := NewClient(socket).Do(t.Context(), Kill, "web", nil); err != nil {
		t.Error(err)
	}
	start := time.Now()
	cancel()
	if err := <-ended; err != nil || time.Since(start) > 2*time.Second {
		t.Error(err, time.Since(start)) // those who connected and say nothing keep nobody
	}
}

// TestFollow: a client's events go on over a restart, with word of the gap.
func TestFollow(t *testing.T) {
	needRoot(t)
	socket := filepath.Join(t.TempDir(), "s")
	first, second := &fake{}, &fake{}
	stop := serveAt(t, Config{Backend: first}, socket, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := make(chan Event)
	ended := make(chan error, 1)
	go func() {
		ended <- NewClient(socket).Events(ctx, "", func() {}, func(e Event) error {
			events <- e
			if e.Kind == EventGone {
				return io.ErrUnexpectedEOF
			}
			return nil
		})
	}()
	publish := func(h *Hub, kind string) {
		eventually(t, "it subscribes", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.subscribers) > 0
		})
		h.Publish(Event{Kind: kind, Guest: "web"})
	}
	publish(&first.hub, EventAdded)
	if e := <-events; e.Kind != EventAdded {
		t.Error(e)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket + "2", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(socket+"2", socket); err != nil { // there is always one that listens
		t.Fatal(err)
	}
	serveCtx, stopSecond := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(serveCtx, Config{Backend: second, Log: quiet()}, l, nil) }()
	stop()
	if e := <-events; e.Kind != EventDropped || e.Count != 0 || e.Reason == "" {
		t.Error(e)
	}
	publish(&second.hub, EventGone)
	if e := <-events; e.Kind != EventGone {
		t.Error(e)
	}
	if err := <-ended; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	stopSecond()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestWire: what the routes answer is what the client reads, field by field as documented: no name is lost to a typo.
func TestWire(t *testing.T) {
	raw, err := json.Marshal([]any{Guest{}, Usage{}, Cgroup{}, Event{}, Info{}, Change{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"memoryLimitBytes"`, `"cpuUsec"`, `"pidsLimit"`, `"uid"`, `"requests"`, `"declared"`, `"resend"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no %s in %s", want, raw)
		}
	}
}
