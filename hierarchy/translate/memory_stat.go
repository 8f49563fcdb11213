package translate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// statNames are the keys of memory.stat on v1, and the keys of v2 that they are the sum of (memcg1_stat_format,
// mm/memcontrol-v1.c). "" stands for memory.swap.current, none for a number that v2 does not have.
var statNames = []struct {
	v1 string
	v2 []string
}{
	{"cache", []string{"file"}}, {"rss", []string{"anon"}}, {"rss_huge", []string{"anon_thp"}},
	{"shmem", []string{"shmem"}}, {"mapped_file", []string{"file_mapped"}}, {"dirty", []string{"file_dirty"}},
	{"writeback", []string{"file_writeback"}}, {"workingset_refault_anon", []string{"workingset_refault_anon"}},
	{"workingset_refault_file", []string{"workingset_refault_file"}}, {"swap", []string{""}},
	{"swapcached", []string{"swapcached"}}, {"pgpgin", nil}, {"pgpgout", nil},
	{"pgfault", []string{"pgfault"}}, {"pgmajfault", []string{"pgmajfault"}},
	{"inactive_anon", []string{"inactive_anon"}}, {"active_anon", []string{"active_anon"}},
	{"inactive_file", []string{"inactive_file"}}, {"active_file", []string{"active_file"}},
	{"unevictable", []string{"unevictable"}},
}

// memoryStat returns the numbers of a cgroup and all below it, by the keys of v2; "" is the usage of swap.
func memoryStat(c Cgroup) (keyed, error) {
	k, err := keyedIn(c, "memory.stat")
	if err != nil {
		return nil, err
	}
	swap, err := numberIn(c, "memory.swap.current")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	k[""] = swap
	return k, nil
}

func (k keyed) sum(keys []string) (n uint64) {
	for _, key := range keys {
		n += k[key]
	}
	return n
}

// readMemoryStat is memory.stat of v1: what v2 shows is the total; less that of the cgroups below it is the cgroup's
// own. The limits are the least from here up to the boundary.
func readMemoryStat(f file) (string, error) {
	total, err := memoryStat(f)
	if err != nil {
		return "", err
	}
	children, err := f.Below()
	if err != nil {
		return "", err
	}
	below := keyed{}
	for _, child := range children {
		k, err := memoryStat(child)
		if err != nil {
			// It has no memory controller, or is just being removed.
			continue
		}
		for key, n := range k {
			below[key] += n
		}
	}
	var own, all strings.Builder
	for _, s := range statNames {
		n, less := total.sum(s.v2), below.sum(s.v2)
		fmt.Fprintf(&own, "%s %d\n", s.v1, n-min(n, less))
		fmt.Fprintf(&all, "total_%s %d\n", s.v1, n)
	}
	memory, memsw, err := leastLimits(f)
	return fmt.Sprintf("%shierarchical_memory_limit %s\nhierarchical_memsw_limit %s\n%s",
		own.String(), memory.v1(), memsw.v1(), all.String()), err
}

// leastLimits returns the least limits from a cgroup up to the boundary.
func leastLimits(c Cgroup) (memory, memsw amount, err error) {
	memory, memsw = amount{unlimited: true}, amount{unlimited: true}
	for ok := true; ok; c, ok = c.Above() {
		m, s, err := memswOf(c)
		if err != nil {
			return memory, memsw, err
		}
		if memory.above(m) {
			memory = m
		}
		if memsw.above(s) {
			memsw = s
		}
	}
	return memory, memsw, nil
}

// numaNames are the lines of memory.numa_stat on v1 and the keys of v2 that they are the sum of.
var numaNames = []struct {
	v1 string
	v2 []string
}{
	{"total", []string{"inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"}},
	{"file", []string{"inactive_file", "active_file"}}, {"anon", []string{"inactive_anon", "active_anon"}},
	{"unevictable", []string{"unevictable"}},
}

// numaStat returns the bytes of each node, by the keys of v2.
func numaStat(c Cgroup) (nodes []string, k map[string]keyed, err error) {
	s, err := c.Read("memory.numa_stat")
	if err != nil {
		return nil, nil, err
	}
	k = map[string]keyed{}
	for text := range strings.Lines(s) {
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		all := keyed{}
		for _, field := range fields[1:] {
			node, n, _ := strings.Cut(field, "=")
			bytes, err := strconv.ParseUint(n, 10, 64)
			if err != nil {
				continue
			}
			all[node] = bytes
			if len(k) == 0 {
				nodes = append(nodes, node)
			}
		}
		k[fields[0]] = all
	}
	return nodes, k, nil
}

// readNumaStat is memory.numa_stat of v1, in pages: first the cgroup's own, then that of all below it, too.
func readNumaStat(f file) (string, error) {
	nodes, total, err := numaStat(f)
	if err != nil {
		return "", err
	}
	children, err := f.Below()
	if err != nil {
		return "", err
	}
	below := map[string]keyed{}
	for _, child := range children {
		_, k, err := numaStat(child)
		if err != nil {
			continue
		}
		for key, byNode := range k {
			for node, n := range byNode {
				if below[key] == nil {
					below[key] = keyed{}
				}
				below[key][node] += n
			}
		}
	}
	var own, all strings.Builder
	for _, s := range numaNames {
		write := func(b *strings.Builder, name string, less map[string]keyed) {
			var sum uint64
			var byNode strings.Builder
			for _, node := range nodes {
				var n, m uint64
				for _, key := range s.v2 {
					n, m = n+total[key][node], m+less[key][node]
				}
				n = (n - min(n, m)) / pageSize
				sum += n
				fmt.Fprintf(&byNode, " %s=%d", node, n)
			}
			fmt.Fprintf(b, "%s=%d%s\n", name, sum, byNode.String())
		}
		write(&own, s.v1, below)
		write(&all, "hierarchical_"+s.v1, nil)
	}
	return own.String() + all.String(), nil
}
