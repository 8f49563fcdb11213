package cgroups

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// ofKind are the events of a kind, each as its path and limit. Every one must be whole.
func ofKind(t *testing.T, events []Event, kind EventKind) []string {
	t.Helper()
	var all []string
	for _, e := range events {
		if e.Count == 0 || e.Path == "" || e.Limit == "" {
			t.Errorf("event %+v lacks something", e)
		}
		if e.Kind == kind {
			all = append(all, e.Path+" "+e.Limit)
		}
	}
	return all
}

func wantEvents(t *testing.T, events []Event, kind EventKind, want ...string) {
	t.Helper()
	if got := ofKind(t, events, kind); strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("events of kind %d: %q, want %q; all: %+v", kind, got, want, events)
	}
}

// allocate runs the allocator in a cgroup, to its end.
func (p *playground) allocate(dir string) {
	p.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=allocate")
	g := p.start(cmd)
	if line, _ := g.out.ReadString('\n'); line != "ready\n" {
		p.t.Fatalf("the allocator says %q", line)
	}
	p.put(0, dir, g.pid())
	g.in.Write([]byte("\n"))
	g.wait(p.t)
	if line, _ := g.out.ReadString('\n'); line != "" {
		p.t.Fatalf("no OOM kill: the allocator says %q", line)
	}
}

// memoryFiles are the names of the limits by version.
var memoryFiles = map[hierarchy.Version][2]string{
	hierarchy.V1: {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"},
	hierarchy.V2: {"memory.max", "memory.swap.max"},
}

// limitMemory limits a cgroup's memory to 8 MiB, and with what can go to swap to 16.
func (p *playground) limitMemory(dir string) {
	p.t.Helper()
	files := memoryFiles[p.hierarchies[0].Version]
	p.set(0, dir, files[0], "8M")
	swap := "16M"
	if p.hierarchies[0].Version == hierarchy.V2 {
		swap = "8M"
	}
	if _, err := p.hierarchies[0].ReadFile(p.top+"/guest"+dir, files[1]); err == nil {
		p.set(0, dir, files[1], swap)
	}
}

// TestSampleOOM: OOM kills by a child's limit, in a child by the boundary's limit, and in a child that was made meanwhile.
func TestSampleOOM(t *testing.T) {
	p := newPlayground(t, "memory")
	v2 := p.hierarchies[0].Version == hierarchy.V2
	if v2 {
		p.must(p.hierarchies[0].Enable(p.top+"/guest/a", "memory"))
	}
	file := memoryFiles[p.hierarchies[0].Version][0]
	at := func(dir string) string {
		if v2 {
			dir = "/" // counters of v2 are of all below
		}
		return dir + " " + file
	}
	p.create(0, "/a/b")
	p.limitMemory("/a")
	var s Sampler
	if events := s.Sample(p.bs); events != nil {
		t.Errorf("the first sample: %+v", events)
	}
	wantEvents(t, s.Sample(p.bs), OOMKill)
	p.allocate("/a")
	events := s.Sample(p.bs)
	wantEvents(t, events, OOMKill, at("/a"))
	if len(ofKind(t, events, LimitReached)) == 0 {
		t.Errorf("no event for the limit: %+v", events)
	}
	p.limitMemory("")
	p.create(0, "/new")
	p.allocate("/new")
	events = s.Sample(p.bs)
	wantEvents(t, events, OOMKill, at("/new"))
	for _, l := range ofKind(t, events, LimitReached) {
		if !strings.HasPrefix(l, "/ memory.") {
			t.Errorf("the limit is the boundary's, but the event says %s", l)
		}
	}
	if events := s.Sample(p.bs); events != nil {
		t.Errorf("nothing happened: %+v", events)
	}
}

// tryForks has a process of a cgroup fork until it is refused.
func (p *playground) tryForks(dir string) {
	p.t.Helper()
	g := p.start(exec.Command("sh", "-c", "read go; (:); (:); (:); echo done"))
	p.put(0, dir, g.pid())
	g.in.Write([]byte("\n"))
	g.wait(p.t)
}

// TestSamplePids: the limit of a child and of the boundary, each reached by a process of a child. v1 says where the fork
// was, whosever limit it ran into.
func TestSamplePids(t *testing.T) {
	p := newPlayground(t, "pids")
	path := "/a pids.max"
	if p.hierarchies[0].Version == hierarchy.V2 {
		p.must(p.hierarchies[0].Enable(p.top+"/guest/a", "pids"))
		if has(p.bs[0], "pids.events.local") {
			path = "/ pids.max"
		}
	}
	p.create(0, "/a")
	var s Sampler
	s.Sample(p.bs)
	p.set(0, "/a", "pids.max", "1")
	p.tryForks("/a")
	wantEvents(t, s.Sample(p.bs), LimitReached, path)
	p.set(0, "/a", "pids.max", "max")
	p.set(0, "", "pids.max", "1")
	p.tryForks("/a")
	wantEvents(t, s.Sample(p.bs), LimitReached, path)
	wantEvents(t, s.Sample(p.bs), LimitReached)
}

// TestSampleKeep: what could not be read once is not taken for new afterwards.
func TestSampleKeep(t *testing.T) {
	s := Sampler{last: map[counterKey]uint64{{0, 1, 7}: 5, {1, 1, 7}: 6}}
	now := map[counterKey]uint64{{0, 1, 8}: 1}
	s.keep(now, 0)
	if len(now) != 2 || now[counterKey{0, 1, 7}] != 5 {
		t.Errorf("kept: %v", now)
	}
	if growth(5, 7) != 2 || growth(5, 5) != 0 || growth(5, 2) != 2 {
		t.Error("growth")
	}
}
