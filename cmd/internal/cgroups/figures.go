package cgroups

import (
	"strconv"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// FiguresOf returns the figures of a guest. It costs a handful of reads, and a directory listing for each cgroup with
// children. Processes is -1: see CountProcesses. A removed boundary has no figures.
func FiguresOf(bs []*host.Boundary) Figures {
	f := noFigures()
	for _, b := range bs {
		root, err := b.Root()
		if err != nil {
			continue
		}
		fill(&f, b.Hierarchy(), root)
		root.Release()
		if n, err := b.CountCgroups(); err == nil {
			f.Cgroups = max(f.Cgroups, int64(n))
		}
	}
	return f
}

func noFigures() Figures {
	return Figures{Processes: -1, Cgroups: -1, CPUUsec: -1, MemoryBytes: -1, MemoryLimit: -1, Pids: -1, PidsLimit: -1}
}

// fill adds the figures from a cgroup's files in one hierarchy. A v1 hierarchy gives its controllers' figures; the v2
// tree of a host with v1 gives the missing ones.
func fill(f *Figures, t *host.Hierarchy, d *host.Dir) {
	if t.Version == hierarchy.V2 {
		fillV2(f, d)
		return
	}
	if t.Holds("cpuacct") {
		if nsec := number(d, "cpuacct.usage"); nsec >= 0 {
			f.CPUUsec = nsec / 1000
		}
	}
	if t.Holds("memory") {
		f.MemoryBytes, f.MemoryLimit = number(d, "memory.usage_in_bytes"), number(d, "memory.limit_in_bytes")
	}
	if t.Holds("pids") {
		f.Pids, f.PidsLimit = number(d, "pids.current"), number(d, "pids.max")
	}
	if t.Holds("freezer") {
		state, _ := read(d, "freezer.state")
		f.Frozen = f.Frozen || state == "FROZEN"
	}
}

func fillV2(f *Figures, d *host.Dir) {
	// Every cgroup has cpu.stat, whatever is enabled.
	if f.CPUUsec < 0 {
		f.CPUUsec = keyed(d, "cpu.stat", "usage_usec")
	}
	if f.MemoryBytes < 0 {
		f.MemoryBytes, f.MemoryLimit = number(d, "memory.current"), number(d, "memory.max")
	}
	if f.Pids < 0 {
		f.Pids, f.PidsLimit = number(d, "pids.current"), number(d, "pids.max")
	}
	f.Frozen = f.Frozen || keyed(d, "cgroup.events", "frozen") == 1
}

// unlimited is the least value in bytes that means no limit: v1 memory shows the largest number of pages for it, 1<<63
// less a page (PAGE_COUNTER_MAX, include/linux/page_counter.h).
const unlimited = 1 << 62

// number reads a control file with one number: -1 if the file is missing or means no limit.
func number(d *host.Dir, file string) int64 {
	text, err := read(d, file)
	if err != nil {
		return -1
	}
	return amount(text)
}

func amount(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n >= unlimited {
		// "max" is among them.
		return -1
	}
	return n
}

// keyed reads one line "KEY NUMBER" of a control file, -1 if there is none.
func keyed(d *host.Dir, file, key string) int64 {
	text, err := read(d, file)
	if err != nil {
		return -1
	}
	return valueOf(text, key)
}

func valueOf(text, key string) int64 {
	for line := range strings.Lines(text) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			return amount(v)
		}
	}
	return -1
}
