package translate

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// v1Limits returns the limits of memory and of swap. Without swap accounting there is no swap to bound.
//
// v1's limit of both is never below that of memory. So without a limit of memory the limit of swap is kept (keptSwap),
// and v1 gets it with the next limit of memory. runc writes memory.swap.max first.
func v1Limits(c Cgroup) (memory, swap amount, err error) {
	if memory, err = amountIn(c, "memory.limit_in_bytes"); err != nil {
		return memory, swap, err
	}
	memsw, err := amountIn(c, "memory.memsw.limit_in_bytes")
	if errors.Is(err, unix.ENOENT) {
		return memory, amount{unlimited: true}, nil
	}
	if err == nil && memory.unlimited {
		swap, err = keptSwap(c)
		return memory, swap, err
	}
	if err != nil || memsw.unlimited {
		return memory, amount{unlimited: true}, err
	}
	return memory, memsw.minus(memory), nil
}

// keptSwap returns the limit of swap of a cgroup that has none of memory.
func keptSwap(c Cgroup) (amount, error) {
	kept, err := c.Kept(swapMax)
	if err != nil || kept == "" {
		return amount{unlimited: true}, err
	}
	return parseAmount(kept)
}

// keepSwap stores what keptSwap returns.
func keepSwap(c Cgroup, swap amount) error {
	if swap.unlimited {
		return c.Keep(swapMax, "")
	}
	return c.Keep(swapMax, swap.v2())
}

func readSwapMax(f file) (string, error) {
	_, swap, err := v1Limits(f)
	return line(swap.v2()), err
}

// onV1 is the limit as v1 reads it.
func (a amount) onV1() string {
	if a.unlimited {
		return "-1"
	}
	return decimal(a.n)
}

// writeMax bounds memory and keeps the limit of swap: v1's limit of both moves with it, and is never below.
func writeMax(f file, v hierarchy.Value) error {
	old, swap, err := v1Limits(f)
	if err != nil {
		return err
	}
	if from, err := f.begun(); err != nil {
		return err
	} else if from != "" {
		if swap, err = parseAmount(from); err != nil {
			return err
		}
	}
	limit := pages(v)
	if limit.unlimited {
		if err := keepSwap(f, swap); err != nil {
			return err
		}
	}
	if swap.unlimited {
		return f.Write("memory.limit_in_bytes", limit.onV1())
	}
	limits := func(memory amount) [][2]string {
		return [][2]string{
			{"memory.limit_in_bytes", memory.onV1()}, {"memory.memsw.limit_in_bytes", memory.plus(swap).onV1()},
		}
	}
	changes, undo := limits(limit), limits(old)
	if limit.above(old) {
		slices.Reverse(changes)
	} else {
		slices.Reverse(undo)
	}
	return f.together(swap.v2(), changes, undo)
}

func writeSwapMax(f file, v hierarchy.Value) error {
	memory, _, err := v1Limits(f)
	if err != nil {
		return err
	}
	swap := pages(v)
	if memory.unlimited {
		if err := keepSwap(f, swap); err != nil {
			return err
		}
	}
	return f.Write("memory.memsw.limit_in_bytes", memory.plus(swap).onV1())
}

func readSwapCurrent(f file) (string, error) {
	memory, err := numberIn(f, "memory.usage_in_bytes")
	if err != nil {
		return "", err
	}
	both, err := numberIn(f, "memory.memsw.usage_in_bytes")
	return line(decimal(both - min(both, memory))), err
}

func readMemoryEvents(f file) (string, error) {
	most, err := numberIn(f, "memory.failcnt")
	if err != nil {
		return "", err
	}
	k, err := keyedIn(f, "memory.oom_control")
	kills := k["oom_kill"]
	return fmt.Sprintf("low 0\nhigh 0\nmax %d\noom %d\noom_kill %d\noom_group_kill 0\n", most, kills, kills), err
}

func readSwapEvents(f file) (string, error) {
	n, err := numberIn(f, "memory.memsw.failcnt")
	return fmt.Sprintf("high 0\nmax %d\nfail %d\n", n, n), err
}

// v2StatNames are the keys of v2's memory.stat that v1 has, in v2's order, with total_* before v1's name; "" for one
// that another file has.
var v2StatNames = []struct{ v2, v1 string }{
	{"anon", "rss"}, {"file", "cache"}, {"kernel", ""}, {"sock", ""}, {"shmem", "shmem"}, {"file_mapped", "mapped_file"},
	{"file_dirty", "dirty"}, {"file_writeback", "writeback"}, {"swapcached", "swapcached"}, {"anon_thp", "rss_huge"},
	{"inactive_anon", "inactive_anon"}, {"active_anon", "active_anon"}, {"inactive_file", "inactive_file"},
	{"active_file", "active_file"}, {"unevictable", "unevictable"}, {"workingset_refault_anon", "workingset_refault_anon"},
	{"workingset_refault_file", "workingset_refault_file"}, {"pgfault", "pgfault"}, {"pgmajfault", "pgmajfault"},
}

func readMemoryStatV2(f file) (string, error) {
	k, err := keyedIn(f, "memory.stat")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, s := range v2StatNames {
		n := k["total_"+s.v1]
		switch s.v2 {
		case "kernel":
			n, err = numberIn(f, "memory.kmem.usage_in_bytes")
		case "sock":
			n, err = numberIn(f, "memory.kmem.tcp.usage_in_bytes")
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d\n", s.v2, n)
	}
	return b.String(), nil
}

// readNumaStatV2 is memory.numa_stat of v2, in bytes, of what v1 counts by node.
func readNumaStatV2(f file) (string, error) {
	s, err := f.Read("memory.numa_stat")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range []string{"anon", "file", "unevictable"} {
		for text := range strings.Lines(s) {
			fields := strings.Fields(text)
			if len(fields) == 0 || !strings.HasPrefix(fields[0], "hierarchical_"+name+"=") {
				continue
			}
			b.WriteString(name)
			for _, field := range fields[1:] {
				node, n, _ := strings.Cut(field, "=")
				pages, _ := strconv.ParseUint(n, 10, 64)
				fmt.Fprintf(&b, " %s=%d", node, pages*pageSize)
			}
			b.WriteByte('\n')
		}
	}
	return b.String(), nil
}
