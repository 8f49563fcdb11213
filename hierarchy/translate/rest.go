package translate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// readSet shows the cgroup's own processors or nodes; if it has none set, those that it has from above, with which v2
// lets its tasks run.
func readSet(own, effective string) func(file) (string, error) {
	return func(f file) (string, error) {
		s, err := f.Read(own)
		if err != nil || strings.TrimSpace(s) != "" {
			return s, err
		}
		return f.Read(effective)
	}
}

// writeSet keeps a set within the parent's and around its children's, as v1 does (cpuset1_validate_change,
// kernel/cgroup/cpuset-v1.c): EACCES, EBUSY, and ENOSPC for an empty one with tasks. v2 accepts any.
func writeSet(own, effective string) func(file, hierarchy.Value) error {
	return func(f file, v hierarchy.Value) error {
		text := string(v.Canonical())
		want, err := setOf(text)
		if err != nil {
			// A pattern or a name, which only the kernel can read.
			return f.Write(own, text)
		}
		if has, err := setIn(f, own); err == nil && len(has) > 0 && len(want) == 0 && populated(f) {
			return unix.ENOSPC
		}
		children, err := f.Below()
		if err != nil {
			return err
		}
		for _, child := range children {
			// One that has no such controller has no set.
			if has, err := setIn(child, own); err == nil && !within(has, want) {
				return unix.EBUSY
			}
		}
		if above, ok := f.Above(); ok {
			s, err := readSet(own, effective)(file{Cgroup: above})
			if err != nil {
				return err
			}
			if has, err := setOf(s); err == nil && !within(want, has) && known(above, effective, want) {
				return unix.EACCES
			}
		}
		return f.Write(own, text)
	}
}

func setIn(c Cgroup, file string) ([]uint64, error) {
	s, err := c.Read(file)
	if err != nil {
		return nil, err
	}
	return setOf(s)
}

// populated reports that there are tasks in a cgroup or below it.
func populated(c Cgroup) bool {
	k, err := keyedIn(c, "cgroup.events")
	return err == nil && k["populated"] == 1
}

// known reports that a set has no number above those that are there: for such a one the kernel has its own errno.
func known(c Cgroup, effective string, set []uint64) bool {
	for above, ok := c.Above(); ok; above, ok = c.Above() {
		c = above
	}
	all, err := setIn(c, effective)
	return err == nil && (len(set) == 0 || len(all) > 0 && slices.Max(set) <= slices.Max(all))
}

// maxSet bounds the numbers of a set: no kernel has more processors (NR_CPUS is at most 8192) or nodes.
const maxSet = 1 << 14

// setOf reads a list such as 0-3,7. EINVAL for any other form.
func setOf(s string) (all []uint64, err error) {
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		if part == "" {
			continue
		}
		from, to, many := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 32)
		if err != nil {
			return nil, unix.EINVAL
		}
		last := first
		if many {
			if last, err = strconv.ParseUint(to, 10, 32); err != nil {
				return nil, unix.EINVAL
			}
		}
		if last < first || last >= maxSet {
			return nil, unix.EINVAL
		}
		for n := first; n <= last; n++ {
			all = append(all, n)
		}
	}
	return all, nil
}

// within reports that all of a set are in another.
func within(set, other []uint64) bool {
	for _, n := range set {
		if !slices.Contains(other, n) {
			return false
		}
	}
	return true
}

// readFreezer is THAWED, FREEZING or FROZEN (freezer_read, kernel/cgroup/legacy_freezer.c).
func readFreezer(f file) (string, error) {
	k, err := keyedIn(f, "cgroup.events")
	if err != nil {
		return "", err
	}
	if k["frozen"] == 1 {
		return "FROZEN\n", nil
	}
	own, err := freezes(f)
	if err != nil {
		return "", err
	}
	above, err := freezesAbove(f)
	if own || above {
		return "FREEZING\n", err
	}
	return "THAWED\n", err
}

func freezes(c Cgroup) (bool, error) {
	s, err := c.Read("cgroup.freeze")
	return strings.TrimSpace(s) == "1", err
}

func freezesAbove(c Cgroup) (bool, error) {
	for c, ok := c.Above(); ok; c, ok = c.Above() {
		if is, err := freezes(c); is || err != nil {
			return is, err
		}
	}
	return false, nil
}

func writeFreezer(f file, v hierarchy.Value) error {
	if string(v.Canonical()) == "FROZEN" {
		return f.Write("cgroup.freeze", "1")
	}
	return f.Write("cgroup.freeze", "0")
}

func readBool(is func(Cgroup) (bool, error)) func(file) (string, error) {
	return func(f file) (string, error) {
		yes, err := is(f)
		if yes {
			return line("1"), err
		}
		return line("0"), err
	}
}

// devices reads a file with a line for each device, as in "8:0 rbps=1024 wbps=max".
func devices(c Cgroup, file string) (names []string, values map[string]map[string]string, err error) {
	s, err := c.Read(file)
	if err != nil {
		return nil, nil, err
	}
	values = map[string]map[string]string{}
	for text := range strings.Lines(s) {
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		k := map[string]string{}
		for _, field := range fields[1:] {
			name, value, _ := strings.Cut(field, "=")
			k[name] = value
		}
		names, values[fields[0]] = append(names, fields[0]), k
	}
	return names, values, nil
}

// throttle is one of the limits in io.max by device: v1 has a file for each, where 0 is no limit.
func readThrottle(key string) func(file) (string, error) {
	return func(f file) (string, error) {
		names, values, err := devices(f, "io.max")
		var b strings.Builder
		for _, name := range names {
			if v := values[name][key]; v != "" && v != "max" {
				fmt.Fprintf(&b, "%s %s\n", name, v)
			}
		}
		return b.String(), err
	}
}

func writeThrottle(key string) func(file, hierarchy.Value) error {
	return func(f file, v hierarchy.Value) error {
		device, number, _ := strings.Cut(string(v.Canonical()), " ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil && n == 0 {
			number = "max"
		}
		return f.Write("io.max", device+" "+key+"="+number)
	}
}

// readServiced is a file of blkio.throttle: for each device its reads, writes and discards, and their sum. io.stat has
// those of all cgroups below, too; own takes theirs away.
func readServiced(own bool, read, write, discard string) func(file) (string, error) {
	return func(f file) (string, error) {
		names, values, err := devices(f, "io.stat")
		if err != nil {
			return "", err
		}
		var below []map[string]map[string]string
		if own {
			children, err := f.Below()
			if err != nil {
				return "", err
			}
			for _, child := range children {
				if _, k, err := devices(child, "io.stat"); err == nil {
					below = append(below, k)
				}
			}
		}
		number := func(name, key string) uint64 {
			n, _ := strconv.ParseUint(values[name][key], 10, 64)
			for _, k := range below {
				less, _ := strconv.ParseUint(k[name][key], 10, 64)
				n -= min(n, less)
			}
			return n
		}
		var b strings.Builder
		var all uint64
		for _, name := range names {
			r, w, d := number(name, read), number(name, write), number(name, discard)
			all += r + w + d
			fmt.Fprintf(&b, "%s Read %d\n%s Write %d\n%s Sync %d\n%s Async 0\n%s Discard %d\n%s Total %d\n",
				name, r, name, w, name, r+w, name, name, d, name, r+w+d)
		}
		fmt.Fprintf(&b, "Total %d\n", all)
		return b.String(), nil
	}
}

// The bounds of blkio.weight (BLKIO_WEIGHT_MIN and _MAX of old kernels) and blkio.bfq.weight (BFQ_MIN_WEIGHT).
const minIOWeight, maxIOWeight, standardIOWeight = 10, 1000, 500

// IOWeightOf returns the io.weight for blkio.weight, as container runtimes convert it: 10 is 1 and 1000 is 10000.
func IOWeightOf(blkio uint64) uint64 {
	return 1 + (min(max(blkio, minIOWeight), maxIOWeight)-minIOWeight)*(maxWeight-1)/(maxIOWeight-minIOWeight)
}

// BlkioWeightOf is the inverse, rounded up: IOWeightOf of it is at least the weight, and BlkioWeightOf(IOWeightOf(w))
// is w.
func BlkioWeightOf(weight uint64) uint64 {
	w := min(max(weight, minWeight), maxWeight)
	return minIOWeight + ((w-1)*(maxIOWeight-minIOWeight)+maxWeight-2)/(maxWeight-1)
}

// readIOWeight reads the default of io.weight, as in "default 100".
func readIOWeight(f file) (string, error) {
	k, err := keyedIn(f, "io.weight")
	if err != nil {
		return "", err
	}
	kept, err := f.Kept(f.name)
	if n, perr := strconv.ParseUint(kept, 10, 64); perr == nil && IOWeightOf(n) == k["default"] {
		return line(kept), nil
	}
	return line(decimal(BlkioWeightOf(k["default"]))), err
}

// writeIOWeight sets the default of io.weight. EINVAL out of bounds, and for the weight of one device.
func writeIOWeight(f file, v hierarchy.Value) error {
	n, err := hierarchy.ParseUint(strings.TrimSpace(string(v.Canonical())))
	switch {
	case err != nil:
		return unix.EINVAL
	case n < minIOWeight || n > maxIOWeight:
		return unix.ERANGE
	}
	return f.keepWith(decimal(n), "io.weight", decimal(IOWeightOf(n)))
}

// readHugeLimit reads a limit of huge pages. Without one v1 shows the most that a page counter can have, rounded down
// to pages of that size (hugetlb_cgroup_init, mm/hugetlb_cgroup.c).
func readHugeLimit(host string) func(file) (string, error) {
	return func(f file) (string, error) {
		a, err := amountIn(f, f.onHost(host))
		if a.unlimited {
			size := hugeSize(f.star)
			return line(decimal(unlimitedV1() / size * size)), err
		}
		return line(a.v1()), err
	}
}

// hugeSize is the size of a huge page by its name in a control file's, as in 2MB or 1GB.rsvd (mem_fmt,
// mm/hugetlb_cgroup.c). 1 for any other name.
func hugeSize(name string) uint64 {
	name = strings.TrimSuffix(name, ".rsvd")
	for unit, shift := range map[string]int{"KB": 10, "MB": 20, "GB": 30} {
		if text, ok := strings.CutSuffix(name, unit); ok {
			if n, err := strconv.ParseUint(text, 10, 32); err == nil && n > 0 {
				return n << shift
			}
		}
	}
	return 1
}

func writeLimit(host string) func(file, hierarchy.Value) error {
	return func(f file, v hierarchy.Value) error {
		return f.Write(f.onHost(host), pages(v).v2())
	}
}
