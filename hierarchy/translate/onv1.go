package translate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// The formulas of v2's files on a host with v1.

// sharesForWeight returns the shares that the kernel's v2 gives a weight, and weightForShares the weight that it shows
// for shares (sched_weight_from_cgroup and _to_cgroup, kernel/sched/sched.h). Unlike WeightOf they keep the proportions
// between cgroups, and every weight comes back.
func sharesForWeight(weight uint64) uint64 { return (weight*standardShares + 50) / 100 }

func weightForShares(shares uint64) uint64 {
	return min(max((shares*100+standardShares/2)/standardShares, minWeight), maxWeight)
}

func readWeight(f file) (string, error) {
	shares, err := numberIn(f, "cpu.shares")
	return line(decimal(weightForShares(shares))), err
}

func writeWeight(f file, v hierarchy.Value) error {
	n, _ := v.Number()
	if n < minWeight || n > maxWeight {
		return unix.ERANGE
	}
	return f.Write("cpu.shares", decimal(sharesForWeight(n)))
}

// niceShares are the shares of each nice value from -20 on (sched_prio_to_weight, kernel/sched/core.c).
var niceShares = []uint64{
	88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991,
	1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
}

// leastNice is the nice value of the first.
const leastNice = -20

// readNice shows the nearest nice value (cpu_weight_nice_read_s64).
func readNice(f file) (string, error) {
	shares, err := numberIn(f, "cpu.shares")
	best, least := 0, ^uint64(0)
	for i, s := range niceShares {
		distance := max(s, shares) - min(s, shares)
		if distance >= least {
			break
		}
		best, least = i, distance
	}
	return line(strconv.Itoa(best + leastNice)), err
}

func writeNice(f file, v hierarchy.Value) error {
	n, err := strconv.Atoi(string(v.Canonical()))
	if err != nil || n < leastNice || n >= leastNice+len(niceShares) {
		return unix.ERANGE
	}
	return f.Write("cpu.shares", decimal(niceShares[n-leastNice]))
}

// v1Bandwidth returns a quota and its period.
func v1Bandwidth(c Cgroup) (b bandwidth, err error) {
	s, err := c.Read("cpu.cfs_quota_us")
	if err != nil {
		return b, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return b, unix.EIO
	}
	b.quota = amount{uint64(max(n, 0)), n < 0}
	b.period, err = numberIn(c, "cpu.cfs_period_us")
	return b, err
}

func (b bandwidth) writeV1(c Cgroup) error {
	quota := "-1"
	if !b.quota.unlimited {
		quota = decimal(b.quota.n)
	}
	// Without a quota any period is accepted.
	for _, s := range [][2]string{
		{"cpu.cfs_quota_us", "-1"}, {"cpu.cfs_period_us", decimal(b.period)}, {"cpu.cfs_quota_us", quota},
	} {
		if err := c.Write(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

func readCPUMax(f file) (string, error) {
	b, err := v1Bandwidth(f)
	return line(b.String()), err
}

// moving is the name under which the present value is kept while several files change.
const moving = ".moving"

// writeCPUMax sets quota and period. The host's v1 refuses more than the parent's share with EINVAL; then all is as it
// was.
func writeCPUMax(f file, v hierarchy.Value) error {
	old, err := v1Bandwidth(f)
	if err != nil {
		return err
	}
	if kept, err := f.Kept(f.name + moving); err != nil {
		return err
	} else if kept != "" {
		// This write was begun before.
		if old, err = parseBandwidth(kept); err != nil {
			return err
		}
	}
	b := bandwidth{period: old.period}
	b.quota.n, b.quota.unlimited = v.Number()
	if _, period, ok := strings.Cut(string(v.Canonical()), " "); ok {
		if b.period, err = strconv.ParseUint(period, 10, 64); err != nil {
			return unix.EINVAL
		}
	}
	if b.period < minPeriod || b.period > maxPeriod || !b.quota.unlimited && b.quota.n < minPeriod {
		return unix.EINVAL
	}
	if err := f.Keep(f.name+moving, old.String()); err != nil {
		return err
	}
	if err := b.writeV1(f); err != nil {
		return errors.Join(err, old.writeV1(f), f.Keep(f.name+moving, ""))
	}
	return f.Keep(f.name+moving, "")
}

func parseBandwidth(s string) (b bandwidth, err error) {
	quota, period, _ := strings.Cut(s, " ")
	if b.quota, err = parseAmount(quota); err != nil {
		return b, err
	}
	if b.period, err = strconv.ParseUint(period, 10, 64); err != nil {
		return b, unix.EIO
	}
	return b, nil
}

// readCPUStatV2 is cpu.stat of v2: the times, and with a cpu controller what its quota did.
func readCPUStatV2(f file) (string, error) {
	var times [3]uint64
	for i, name := range []string{"cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"} {
		n, err := numberIn(f, name)
		if err != nil {
			return "", err
		}
		times[i] = n / 1000
	}
	s := fmt.Sprintf("usage_usec %d\nuser_usec %d\nsystem_usec %d\n", times[0], times[1], times[2])
	k, err := keyedIn(f, "cpu.stat")
	if errors.Is(err, unix.ENOENT) {
		return s, nil
	}
	return s + fmt.Sprintf("nr_periods %d\nnr_throttled %d\nthrottled_usec %d\nnr_bursts %d\nburst_usec %d\n",
		k["nr_periods"], k["nr_throttled"], k["throttled_time"]/1000, k["nr_bursts"], k["burst_time"]/1000), err
}

func readCPUStatLocalV2(f file) (string, error) {
	k, err := keyedIn(f, "cpu.stat.local")
	return fmt.Sprintf("throttled_usec %d\n", k["throttled_time"]/1000), err
}

// v1Limits returns the limits of memory and of swap.
func v1Limits(c Cgroup) (memory, swap amount, err error) {
	if memory, err = amountIn(c, "memory.limit_in_bytes"); err != nil {
		return memory, swap, err
	}
	memsw, err := amountIn(c, "memory.memsw.limit_in_bytes")
	if err != nil || memsw.unlimited {
		return memory, amount{unlimited: true}, err
	}
	return memory, memsw.minus(memory), nil
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
	if errors.Is(err, unix.ENOENT) && !old.unlimited {
		return f.Write("memory.limit_in_bytes", pages(v).onV1())
	}
	if err != nil {
		return err
	}
	if kept, err := f.Kept(f.name + moving); err != nil {
		return err
	} else if kept != "" {
		if swap, err = parseAmount(kept); err != nil {
			return err
		}
	}
	limit := pages(v)
	if swap.unlimited {
		return f.Write("memory.limit_in_bytes", limit.onV1())
	}
	if err := f.Keep(f.name+moving, swap.v2()); err != nil {
		return err
	}
	steps := [][2]string{{"memory.limit_in_bytes", limit.onV1()}, {"memory.memsw.limit_in_bytes", limit.plus(swap).onV1()}}
	if limit.above(old) {
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, s := range steps {
		if err := f.Write(s[0], s[1]); err != nil {
			return errors.Join(err, f.Keep(f.name+moving, ""))
		}
	}
	return f.Keep(f.name+moving, "")
}

// writeSwapMax bounds swap. Where memory has no limit v1 has none for both.
func writeSwapMax(f file, v hierarchy.Value) error {
	memory, _, err := v1Limits(f)
	if err != nil {
		return err
	}
	swap := pages(v)
	if memory.unlimited && !swap.unlimited {
		return unix.EOPNOTSUPP
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

func readFreeze(f file) (string, error) {
	return f.Read("freezer.self_freezing")
}

func writeFreeze(f file, v hierarchy.Value) error {
	switch n, _ := v.Number(); n {
	case 0:
		return f.Write("freezer.state", "THAWED")
	case 1:
		return f.Write("freezer.state", "FROZEN")
	}
	return unix.ERANGE
}

// throttles are the keys of io.max and v1's files for them.
var throttles = []struct{ key, file string }{
	{"rbps", "blkio.throttle.read_bps_device"}, {"wbps", "blkio.throttle.write_bps_device"},
	{"riops", "blkio.throttle.read_iops_device"}, {"wiops", "blkio.throttle.write_iops_device"},
}

func readIOMax(f file) (string, error) {
	values := map[string]map[string]string{}
	var names []string
	for _, t := range throttles {
		s, err := f.Read(t.file)
		if err != nil {
			return "", err
		}
		for text := range strings.Lines(s) {
			name, value, _ := strings.Cut(strings.TrimSpace(text), " ")
			if values[name] == nil {
				values[name], names = map[string]string{}, append(names, name)
			}
			values[name][t.key] = value
		}
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name)
		for _, t := range throttles {
			value := values[name][t.key]
			if value == "" {
				value = "max"
			}
			b.WriteString(" " + t.key + "=" + value)
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// writeIOMax sets limits of one device, after all of them were read. EINVAL for another form. EOPNOTSUPP where there
// are cgroups below, which v1's limits do not hold.
func writeIOMax(f file, v hierarchy.Value) error {
	fields := strings.Fields(string(v.Canonical()))
	if len(fields) < 2 {
		return unix.EINVAL
	}
	type change struct{ file, value string }
	var changes []change
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		if value == "max" {
			value = "0"
		} else if n, err := strconv.ParseUint(value, 10, 64); err != nil || n == 0 {
			return unix.EINVAL
		}
		found := false
		for _, t := range throttles {
			if t.key == key {
				changes, found = append(changes, change{t.file, value}), true
			}
		}
		if !found {
			return unix.EINVAL
		}
	}
	if below, err := f.Below(); err != nil || len(below) > 0 {
		return errors.Join(err, unix.EOPNOTSUPP)
	}
	for _, c := range changes {
		if err := f.Write(c.file, fields[0]+" "+c.value); err != nil {
			return err
		}
	}
	return nil
}

// readIOStat is io.stat, from v1's counts of bytes and of operations.
func readIOStat(f file) (string, error) {
	type counts map[string]uint64
	values := map[string]counts{}
	var names []string
	for _, of := range []struct{ file, read, write, discard string }{
		{"blkio.throttle.io_service_bytes_recursive", "rbytes", "wbytes", "dbytes"},
		{"blkio.throttle.io_serviced_recursive", "rios", "wios", "dios"},
	} {
		s, err := f.Read(of.file)
		if err != nil {
			return "", err
		}
		for text := range strings.Lines(s) {
			fields := strings.Fields(text)
			if len(fields) != 3 {
				continue
			}
			key := map[string]string{"Read": of.read, "Write": of.write, "Discard": of.discard}[fields[1]]
			if key == "" {
				continue
			}
			if values[fields[0]] == nil {
				values[fields[0]], names = counts{}, append(names, fields[0])
			}
			values[fields[0]][key], _ = strconv.ParseUint(fields[2], 10, 64)
		}
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name)
		for _, key := range []string{"rbytes", "wbytes", "rios", "wios", "dbytes", "dios"} {
			fmt.Fprintf(&b, " %s=%d", key, values[name][key])
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// readMax and writeMaxOfStar are limits of v1 as v2 shows them.

func readMax(host string) func(file) (string, error) {
	return func(f file) (string, error) {
		a, err := amountIn(f, strings.Replace(host, "*", f.star, 1))
		return line(a.v2()), err
	}
}

func writeMaxOfStar(host string) func(file, hierarchy.Value) error {
	return func(f file, v hierarchy.Value) error {
		return f.Write(strings.Replace(host, "*", f.star, 1), pages(v).onV1())
	}
}

func readHugeEvents(host string) func(file) (string, error) {
	return func(f file) (string, error) {
		n, err := numberIn(f, strings.Replace(host, "*", f.star, 1))
		return fmt.Sprintf("max %d\n", n), err
	}
}

// noLimit accepts the value that stands for none, of a limit that v1 does not have.
func noLimit(none string) func(file, hierarchy.Value) error {
	return func(_ file, v hierarchy.Value) error {
		if n, unlimited := v.Number(); unlimited && none == "max" || !unlimited && n == 0 && none == "0" {
			return nil
		}
		return unix.EOPNOTSUPP
	}
}

// noGroup accepts 0 for memory.oom.group; EINVAL for what is no flag.
func noGroup(_ file, v hierarchy.Value) error {
	switch n, _ := v.Number(); n {
	case 0:
		return nil
	case 1:
		return unix.EOPNOTSUPP
	}
	return unix.EINVAL
}

// refused is for what v1 cannot do for one reader alone.
func refused(file, hierarchy.Value) error { return unix.EOPNOTSUPP }
