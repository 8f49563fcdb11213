package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// manyGuests is how many guests one daemon gets.
const manyGuests = 1000

// BenchmarkGuests prints what a thousand guests cost one daemon: the time of each, memory, threads, and what a guest feels of
// the others being there.
func BenchmarkGuests(b *testing.B) {
	h := kit.OpenHost(b)
	many := newManyGuests(b, kit.NeedHierarchy(b, h, "pids"), manyGuests)
	d := kit.StartDaemon(b)
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	row := func(what string, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", what, fmt.Sprintf(format, args...))
	}

	empty := d.SettledUsage()
	row("no guest", "%v", empty)
	many.add(b, d, 0, 1)
	one, alone := many.latency(b), connection(b, d)
	took := many.add(b, d, 1, manyGuests)
	full := d.SettledUsage()
	row("1,000 guests", "%v", full)
	row("resident memory of a guest", "%.1f KiB", float64(full.RSSKiB-empty.RSSKiB)/manyGuests)
	row("proportional memory of a guest", "%.1f KiB", float64(full.PSSKiB-empty.PSSKiB)/manyGuests)
	row("time to add a guest", "median %v, longest %v", took[len(took)/2], took[len(took)-1])
	crowded, beside := many.latency(b), connection(b, d)
	row("1,000 guests, one of them used", "%v", d.SettledUsage())
	took = many.remove(b, d, 1, manyGuests)
	row("time to remove a guest", "median %v, longest %v", took[len(took)/2], took[len(took)-1])
	again := many.latency(b)
	row("a new connection to the API with 1 guest", "median %v", alone)
	row("with 1,000 guests", "median %v, %.2f", beside, float64(beside)/float64(alone))
	row("open, read, close with 1 guest", "median %v", one)
	row("with 1,000 guests", "median %v", crowded)
	row("with 1 guest again", "median %v", again)
	row("1,000 guests to 1", "%.2f", 2*float64(crowded)/float64(one+again))
	many.remove(b, d, 0, 1)
	row("no guest again", "%v", d.SettledUsage())
	w.Flush()
	os.Stdout.Write(out.Bytes())
	d.Stop(b)
}

// connection is the median time of a request on a connection of its own, as each command of the program makes one.
func connection(b *testing.B, d *kit.Daemon) time.Duration {
	var took []time.Duration
	for range 100 {
		began := time.Now()
		conn, err := net.Dial("unix", d.Socket)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprint(conn, "GET /v1/info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
			b.Fatalf("%v: %.200s", err, answer)
		}
		took = append(took, time.Since(began).Round(time.Microsecond))
		conn.Close()
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// guestsOfOne are boundaries and mount points of many guests.
type guestsOfOne struct {
	hier *host.Hierarchy
	path string // of their cgroups' parent
	dir  string // of their mount points
}

// newManyGuests makes what n guests need; each adds a child of its own to a cgroup of the test.
func newManyGuests(b *testing.B, hier *host.Hierarchy, n int) *guestsOfOne {
	g := &guestsOfOne{hier: hier, path: kit.NewBoundary(b, "guests", hier), dir: kit.PublicDir(b)}
	b.Cleanup(func() { // what is in the directory, before it goes itself
		for i := range n {
			if err := os.Remove(g.target(i)); err != nil {
				b.Error(err)
			}
		}
	})
	for i := range n {
		if err := hier.Create(g.path+"/"+guestName(i), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.Mkdir(g.target(i), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	return g
}

func guestName(i int) string { return fmt.Sprintf("g%04d", i) }

func (g *guestsOfOne) target(i int) string { return filepath.Join(g.dir, guestName(i)) }

// root is the boundary's directory in a guest's view.
func (g *guestsOfOne) root(i int) string {
	dir := g.target(i)
	if g.hier.Dir != "" && kit.Exists(filepath.Join(dir, g.hier.Dir)) {
		return filepath.Join(dir, g.hier.Dir)
	}
	return dir
}

// each makes one request for each guest from..to-1 and returns how long each took, sorted.
func (g *guestsOfOne) each(b *testing.B, from, to int, request func(i int) error) []time.Duration {
	var took []time.Duration
	for i := from; i < to; i++ {
		began := time.Now()
		if err := request(i); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began).Round(time.Microsecond))
	}
	slices.Sort(took)
	return took
}

func (g *guestsOfOne) add(b *testing.B, d *kit.Daemon, from, to int) []time.Duration {
	took := g.each(b, from, to, func(i int) error {
		d.Mounts[g.target(i)] = true
		return d.Call("PUT", "/v1/guests/"+guestName(i),
			kit.GuestSpec{Boundary: g.path + "/" + guestName(i), Target: g.target(i), Controllers: []string{"pids"}}, nil)
	})
	if info := d.Ready(b); info.Guests != to {
		b.Errorf("the daemon has %d guests, want %d", info.Guests, to)
	}
	return took
}

// remove takes guests away; nothing of them may be mounted then.
func (g *guestsOfOne) remove(b *testing.B, d *kit.Daemon, from, to int) []time.Duration {
	took := g.each(b, from, to, func(i int) error { return d.Call("DELETE", "/v1/guests/"+guestName(i), nil, nil) })
	if info := d.Ready(b); info.Guests != from {
		b.Errorf("the daemon has %d guests, want %d", info.Guests, from)
	}
	if n := strings.Count(kit.ReadFile("/proc/self/mountinfo"), " "+g.dir+"/"); n != from {
		b.Errorf("%d views are mounted, want %d", n, from)
	}
	return took
}

// latency is the median time of open, read and close in the first guest's view.
func (g *guestsOfOne) latency(b *testing.B) time.Duration {
	path := filepath.Join(g.root(0), benchFile)
	var took []time.Duration
	for range 10000 {
		began := time.Now()
		if _, err := kit.Slurp(path); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}
