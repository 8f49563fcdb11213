package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api/apitest"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// changing is a daemon whose guest a test changes.
type changing struct {
	fakeDaemon
	guest *api.Guest // guarded by mu; nil: removed
}

func (d *changing) Guest(name string) (api.Guest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.guest == nil {
		return api.Guest{}, fault.New(fault.NotFound, "there is no guest %s", name)
	}
	return *d.guest, d.err
}

func (d *changing) become(g *api.Guest, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guest, d.err = g, err
}

// watch starts "guest show web --watch"; line waits for the next line and is empty at the end, ended for the end.
func (d *changing) watch(t *testing.T, options ...string) (line func() string, stop context.CancelFunc, ended chan error) {
	t.Helper()
	t.Setenv("VCGROUPFS_SOCKET", apitest.Serve(t, d))
	r, w := io.Pipe()
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); r.Close() })
	ended = make(chan error, 1)
	go func() {
		ended <- newApp(w, w).RunContext(ctx, append([]string{"vcgroupfs", "guest", "show", "--watch", "--interval", "100ms"}, append(options, "web")...))
		w.Close()
	}()
	lines := bufio.NewReader(r)
	return func() string {
		text, _ := lines.ReadString('\n')
		return strings.TrimSuffix(text, "\n")
	}, stop, ended
}

// TestGuestWatch: the guest, then a line for each change; a daemon that fails is told of once; the guest's removal ends it.
func TestGuestWatch(t *testing.T) {
	d := &changing{}
	g := d.web()
	d.become(&g, nil)
	line, _, ended := d.watch(t)
	until := func(want string) {
		t.Helper()
		var seen []string
		for len(seen) == 0 || !strings.Contains(seen[len(seen)-1], want) {
			if seen = append(seen, line()); len(seen) > 20 {
				t.Fatalf("no %q in %q", want, seen)
			}
		}
	}
	until("policy       the default")
	is := func(change func(g *api.Guest)) {
		g := g
		change(&g)
		d.become(&g, nil)
	}
	is(func(g *api.Guest) { g.Open = 5 })
	if _, change, _ := strings.Cut(line(), " "); change != "open: 3 -> 5" {
		t.Errorf("%q", change)
	}
	is(func(g *api.Guest) { g.Open, g.Calls.Listeners, g.Rule = 5, 1, "a\x1b[2J" })
	for _, want := range []string{`made by: hand -> self of a\x1b[2J`, `by self: - -> its cgroup matches a\x1b[2J`, "calls: no listener -> 0 answered, 0 passed on, by 1 listeners"} {
		if _, change, _ := strings.Cut(line(), " "); change != want {
			t.Errorf("%q, want %q", change, want)
		}
	}
	d.become(&g, errors.New("out of\x1b order"))
	if got := line(); got != `vcgroupfs: out of\x1b order; trying again every 100ms` {
		t.Errorf("%q", got)
	}
	is(func(g *api.Guest) { g.Since = g.Since.Add(time.Hour); g.Spec.Policy = "version: 1\n" })
	if got := line(); got != "vcgroupfs: the daemon answers again" {
		t.Errorf("%q", got)
	}
	until("    version: 1")
	d.become(nil, nil)
	if err := <-ended; fault.Of(err) != fault.NotFound || err.Error() != "there is no guest web" {
		t.Errorf("%v", err)
	}
}

// TestGuestWatchJSON: a line for each change, with the whole guest; an interrupted command succeeds.
func TestGuestWatchJSON(t *testing.T) {
	d := &changing{}
	g := d.web()
	d.become(&g, nil)
	line, stop, ended := d.watch(t, "--json")
	for open := 3; open < 6; open++ {
		var got api.Guest
		if err := json.Unmarshal([]byte(line()), &got); err != nil || got.Name != "web" || got.Open != open {
			t.Fatalf("%+v, %v", got, err)
		}
		next := g
		next.Open = open + 1
		d.become(&next, nil)
	}
	go line() // else a line on its way would wait for its reader
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestChangedLines(t *testing.T) {
	before := []showLine{{"name", "web"}, {"  in memory", "/a"}, {"limit", "a=1"}, {"limit", "b=2"}, {"rule", "x"}}
	now := []showLine{{"name", "web"}, {"  in memory", "/b"}, {"limit", "a=1"}, {"limit", "b=3"}, {"into", "/sys"}}
	want := []string{"in memory: /a -> /b", "limit: a=1, b=2 -> a=1, b=3", "into: - -> /sys", "rule: x -> -"}
	if got := changedLines(before, now); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
