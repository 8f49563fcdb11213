package cgroups

import (
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// counter is a kernel counter of events in a guest.
type counter struct {
	version    hierarchy.Version
	controller string
	file, key  string // key "" is for a file with nothing else
	kind       EventKind
	limit      string // the control file with the limit
}

// counters are the known counters. Those of v1 count for one cgroup: memory.oom_control in the victim's cgroup
// (memcg_memory_event does not propagate on v1), memory.failcnt in the one whose own limit was hit, pids.events in the
// forking task's, whichever limit it hit (pids_event). Those of v2 include all cgroups below. memory.memsw.failcnt
// stays 0 on Linux 6.18, so there only OOM kills tell of a limit set by memsw alone (measured).
var counters = []counter{
	{hierarchy.V1, "memory", "memory.oom_control", "oom_kill", OOMKill, "memory.limit_in_bytes"},
	{hierarchy.V1, "memory", "memory.failcnt", "", LimitReached, "memory.limit_in_bytes"},
	{hierarchy.V1, "memory", "memory.memsw.failcnt", "", LimitReached, "memory.memsw.limit_in_bytes"},
	{hierarchy.V1, "pids", "pids.events", "max", LimitReached, "pids.max"},
	{hierarchy.V2, "memory", "memory.events", "oom_kill", OOMKill, "memory.max"},
	{hierarchy.V2, "memory", "memory.events", "max", LimitReached, "memory.max"},
	{hierarchy.V2, "pids", "pids.events", "max", LimitReached, "pids.max"},
}

// Sampler detects events of one guest since the last sample. The zero Sampler is ready, for one goroutine at a time. It
// misses a v1 cgroup that is made and removed between two samples.
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
		// Nothing was skipped but removed cgroups.
		whole := true
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

// keep keeps the last values of a boundary that was read in part: a value missed in this sample is not new in the next.
func (s *Sampler) keep(now map[counterKey]uint64, boundary int) {
	for key, value := range s.last {
		if _, ok := now[key]; !ok && key.boundary == boundary {
			now[key] = value
		}
	}
}

// own is a counter in one of the guest's hierarchies.
type own struct {
	counter
	place int  // index in the table
	deep  bool // counts for one cgroup, so all are read
}

// countersOf returns the counters of a boundary's hierarchy. Before Linux 6.11 pids.events counted for one cgroup on v2
// too.
func countersOf(b *host.Boundary) []own {
	var mine []own
	t := b.Hierarchy()
	for place, c := range counters {
		if c.version == t.Version && t.Holds(c.controller) {
			mine = append(mine,
				own{c, place, t.Version == hierarchy.V1 || c.controller == "pids" && !has(b, "pids.events.local")})
		}
	}
	return mine
}

// has reports that a boundary has a control file.
func has(b *host.Boundary, file string) bool {
	root, err := b.Root()
	if err != nil {
		return false
	}
	defer root.Release()
	var st unix.Stat_t
	return root.Lookup(file, &st) == nil
}

// reader reads counters of a cgroup. It reads a file with several of them once.
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

// growth returns the growth of a counter. A smaller value means a reset in between: a guest may reset some counters.
func growth(from, to uint64) uint64 {
	if to < from {
		return to
	}
	return to - from
}
