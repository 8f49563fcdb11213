package cgroups

import (
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// counter is a number of the kernel's that grows with what happens to a guest.
type counter struct {
	version    hierarchy.Version
	controller string
	file, key  string // key "" is for a file with nothing else
	kind       EventKind
	limit      string // the control file whose limit it tells of
}

// The counters. Those of v1 are of one cgroup: memory.oom_control counts in the cgroup that the victim was in
// (memcg_memory_event does not go up on v1), memory.failcnt in the one whose own limit was hit, pids.events in the one that
// the fork was in, whosever limit it was (pids_event). Those of v2 are of all below too. memory.memsw.failcnt stays 0 on
// Linux 6.18, so there a limit that only memsw sets is heard of by OOM kills alone (measured).
var counters = []counter{
	{hierarchy.V1, "memory", "memory.oom_control", "oom_kill", OOMKill, "memory.limit_in_bytes"},
	{hierarchy.V1, "memory", "memory.failcnt", "", LimitReached, "memory.limit_in_bytes"},
	{hierarchy.V1, "memory", "memory.memsw.failcnt", "", LimitReached, "memory.memsw.limit_in_bytes"},
	{hierarchy.V1, "pids", "pids.events", "max", LimitReached, "pids.max"},
	{hierarchy.V2, "memory", "memory.events", "oom_kill", OOMKill, "memory.max"},
	{hierarchy.V2, "memory", "memory.events", "max", LimitReached, "memory.max"},
	{hierarchy.V2, "pids", "pids.events", "max", LimitReached, "pids.max"},
}

// Sampler tells what happened to one guest since it was asked last. The zero Sampler is ready for use, by one goroutine at a
// time. A v1 cgroup that is made and removed between two samples is not heard of.
type Sampler struct {
	last map[counterKey]uint64
}

type counterKey struct {
	boundary, counter int
	cgroup            uint64 // kernfs id
}

// Sample reads the guest's counters, and returns an event for each that grew. The first sample has no events.
func (s *Sampler) Sample(bs []*host.Boundary) []Event {
	var events []Event
	now := make(map[counterKey]uint64, len(s.last))
	for i, b := range bs {
		mine := countersOf(b)
		if len(mine) == 0 {
			continue
		}
		whole := true // nothing was left out but what is gone
		err := walk(b, func(c cgroup) bool {
			r := reader{dir: c.dir}
			below := false
			for _, n := range mine {
				below = below || n.deep
				if c.dir.IsBoundary() || n.deep {
					key := counterKey{i, n.place, c.dir.ID()}
					value, err := r.value(n.counter)
					if err != nil {
						whole = whole && gone(err)
						continue
					}
					now[key] = value
					if grown := growth(s.last[key], value); s.last != nil && grown > 0 {
						events = append(events, Event{Kind: n.kind, Path: viewPath(c.path), Limit: n.limit, Count: grown})
					}
				}
			}
			return below
		}, nil)
		if err != nil && !gone(err) || !whole {
			s.keep(now, i)
		}
	}
	s.last = now
	return events
}

// keep takes over what was known of a boundary that could not be read as a whole: what is not read this time is not new the
// next.
func (s *Sampler) keep(now map[counterKey]uint64, boundary int) {
	for key, value := range s.last {
		if _, ok := now[key]; !ok && key.boundary == boundary {
			now[key] = value
		}
	}
}

// own is a counter of one of the guest's hierarchies.
type own struct {
	counter
	place int  // in the table
	deep  bool // it tells of one cgroup, so it is read in all
}

// countersOf are the counters of a boundary's hierarchy. Before Linux 6.11 pids.events was of one cgroup on v2 too.
func countersOf(b *host.Boundary) []own {
	var mine []own
	t := b.Hierarchy()
	for place, c := range counters {
		if c.version == t.Version && t.Holds(c.controller) {
			mine = append(mine, own{c, place, t.Version == hierarchy.V1 || c.controller == "pids" && !has(b, "pids.events.local")})
		}
	}
	return mine
}

// has says whether a boundary has a control file.
func has(b *host.Boundary, file string) bool {
	root, err := b.Root()
	if err != nil {
		return false
	}
	defer root.Release()
	var st unix.Stat_t
	return root.Lookup(file, &st) == nil
}

// reader reads counters of a cgroup, a file with several of them once.
type reader struct {
	dir        *host.Dir
	file, text string
}

func (r *reader) value(c counter) (uint64, error) {
	if r.file != c.file {
		text, err := read(r.dir, c.file)
		if err != nil {
			return 0, err
		}
		r.file, r.text = c.file, text
	}
	n := amount(r.text)
	if c.key != "" {
		n = valueOf(r.text, c.key)
	}
	if n < 0 {
		return 0, unix.ENOENT
	}
	return uint64(n), nil
}

// growth is by how much a counter grew. One that is smaller was reset in between, as a guest may do with some.
func growth(from, to uint64) uint64 {
	if to < from {
		return to
	}
	return to - from
}
