package fs

import (
	"bytes"
	"strconv"
	"strings"
)

// filterControllers keeps the permitted names of cgroup.controllers or cgroup.subtree_control. With none left the
// file is empty, as the kernel writes it.
func (v *View) filterControllers(h *handle, raw []byte) ([]byte, error) {
	var kept []string
	for _, c := range strings.Fields(string(raw)) {
		if v.policy.Permits(c) {
			kept = append(kept, c)
		}
	}
	if h.hier.lent != nil {
		var err error
		if kept, err = h.hier.lent.list(h, kept); err != nil {
			return nil, err
		}
	}
	if len(kept) == 0 {
		return []byte{}, nil
	}
	return []byte(strings.Join(kept, " ") + "\n"), nil
}

// filterStat drops hidden controllers from cgroup.stat, and the leaf from the boundary's counts.
func (v *View) filterStat(hier *viewHierarchy, dir uint64, raw []byte) []byte {
	var out bytes.Buffer
	leaf := hier.leafID.Load() != 0 && hier.isRoot(dir)
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		c, subsys := strings.CutPrefix(strings.TrimPrefix(key, "nr_dying_"), "subsys_")
		if !subsys {
			c, subsys = strings.CutPrefix(key, "nr_subsys_")
		}
		if subsys && !v.policy.Permits(c) {
			continue
		}
		if leaf && key == "nr_descendants" {
			if n, err := strconv.Atoi(value); err == nil && n > 0 {
				line = key + " " + strconv.Itoa(n-1) + "\n"
			}
		}
		out.WriteString(line)
	}
	return out.Bytes()
}

// filterMemoryStat bounds hierarchical_memory_limit and hierarchical_memsw_limit of a v1 memory.stat. The kernel
// prints the least limit of all ancestors (memcg1_stat_format); the view counts those from the boundary down.
func (hier *viewHierarchy) filterMemoryStat(dir uint64, raw []byte) ([]byte, error) {
	var out bytes.Buffer
	for line := range strings.Lines(string(raw)) {
		key, _, _ := strings.Cut(line, " ")
		file := ""
		switch key {
		case "hierarchical_memory_limit":
			file = "memory.limit_in_bytes"
		case "hierarchical_memsw_limit":
			file = "memory.memsw.limit_in_bytes"
		}
		if file != "" {
			limit, err := hier.leastLimit(dir, file)
			if err != nil {
				return nil, err
			}
			line = key + " " + strconv.FormatUint(limit, 10) + "\n"
		}
		out.WriteString(line)
	}
	return out.Bytes(), nil
}

// leastLimit returns the least value, in bytes, of a limit file from a directory up to the boundary.
func (hier *viewHierarchy) leastLimit(dir uint64, file string) (uint64, error) {
	least := ^uint64(0)
	d, err := hier.acquire(dir)
	if err != nil {
		return 0, err
	}
	for {
		raw, err := d.ReadFile(file)
		if err != nil {
			d.Release()
			return 0, err
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64); err == nil {
			least = min(least, n)
		}
		if d.IsBoundary() {
			d.Release()
			return least, nil
		}
		up, err := d.Parent()
		d.Release()
		if err != nil {
			return 0, err
		}
		d = up
	}
}
