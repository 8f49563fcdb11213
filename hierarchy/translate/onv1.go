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

// onV1 are the changes of v1's files that set a bandwidth. Without a quota any period is accepted.
func (b bandwidth) onV1() [][2]string {
	return [][2]string{
		{"cpu.cfs_quota_us", "-1"}, {"cpu.cfs_period_us", decimal(b.period)}, {"cpu.cfs_quota_us", b.quota.onV1()},
	}
}

func readCPUMax(f file) (string, error) {
	b, err := v1Bandwidth(f)
	return line(b.String()), err
}

// writeCPUMax sets quota and period. The host's v1 refuses more than the parent's share with EINVAL; then all is as it
// was.
func writeCPUMax(f file, v hierarchy.Value) error {
	old, err := v1Bandwidth(f)
	if err != nil {
		return err
	}
	if from, err := f.begun(); err != nil {
		return err
	} else if from != "" {
		if old, err = parseBandwidth(from); err != nil {
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
	return f.together(old.String(), b.onV1(), old.onV1())
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
	quota, err := Throttled(f)
	if errors.Is(err, unix.ENOENT) {
		return s, nil
	}
	return s + quota, err
}

// Throttled returns the lines of v2's cpu.stat that tell what the quota did, for a cgroup of v1.
func Throttled(c Cgroup) (string, error) {
	k, err := keyedIn(c, "cpu.stat")
	return fmt.Sprintf("nr_periods %d\nnr_throttled %d\nthrottled_usec %d\nnr_bursts %d\nburst_usec %d\n",
		k["nr_periods"], k["nr_throttled"], k["throttled_time"]/1000, k["nr_bursts"], k["burst_time"]/1000), err
}

func readCPUStatLocalV2(f file) (string, error) {
	k, err := keyedIn(f, "cpu.stat.local")
	return fmt.Sprintf("throttled_usec %d\n", k["throttled_time"]/1000), err
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

// readMax and writeLimitV1 are limits of v1 as v2 shows them.

func readMax(host string) func(file) (string, error) {
	return func(f file) (string, error) {
		a, err := amountIn(f, f.onHost(host))
		return line(a.v2()), err
	}
}

func writeLimitV1(host string) func(file, hierarchy.Value) error {
	return func(f file, v hierarchy.Value) error {
		return f.Write(f.onHost(host), pages(v).onV1())
	}
}

func readHugeEvents(host string) func(file) (string, error) {
	return func(f file) (string, error) {
		n, err := numberIn(f, f.onHost(host))
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
