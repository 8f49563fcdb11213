package translate

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// The bounds of cpu.shares (MIN_SHARES and MAX_SHARES, kernel/sched/sched.h) and cpu.weight (linux/cgroup.h).
const (
	minShares, maxShares, standardShares = 2, 1 << 18, 1024
	minWeight, maxWeight                 = 1, 10000
)

// WeightOf returns the cpu.weight for cpu.shares, by the formula that container runtimes have used since 2025: 1024 is
// 100, and both ends meet. (opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value.)
func WeightOf(shares uint64) uint64 {
	switch {
	case shares <= minShares:
		return minWeight
	case shares >= maxShares:
		return maxWeight
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// SharesOf is the inverse: WeightOf(SharesOf(w)) is w for every weight.
func SharesOf(weight uint64) uint64 {
	w := math.Log10(float64(min(max(weight, minWeight), maxWeight)))
	shares := math.Floor(math.Pow(2, (-125+math.Sqrt(16129+2448*w))/2))
	return min(max(uint64(shares), minShares), maxShares)
}

// idleShares are the shares of a cgroup with cpu.idle (WEIGHT_IDLEPRIO, kernel/sched/sched.h), which v2 shows as the
// least weight.
const idleShares = 3

// readShares shows what was written as long as the host has the weight that it led to.
func readShares(f file) (string, error) {
	if idle, err := f.Read("cpu.idle"); err == nil && strings.TrimSpace(idle) == "1" {
		return line(decimal(idleShares)), nil
	}
	weight, err := numberIn(f, "cpu.weight")
	if err != nil {
		return "", err
	}
	kept, err := f.Kept(f.name)
	if n, perr := strconv.ParseUint(kept, 10, 64); perr == nil && WeightOf(n) == weight {
		return line(kept), nil
	}
	return line(decimal(SharesOf(weight))), err
}

func writeShares(f file, v hierarchy.Value) error {
	n, _ := v.Number()
	n = min(max(n, minShares), maxShares)
	return f.keepWith(decimal(n), "cpu.weight", decimal(WeightOf(n)))
}

// bandwidth is cpu.max, in microseconds.
type bandwidth struct {
	quota  amount
	period uint64
}

func bandwidthOf(c Cgroup) (b bandwidth, err error) {
	s, err := c.Read("cpu.max")
	if err != nil {
		return b, err
	}
	quota, period, ok := strings.Cut(strings.TrimSpace(s), " ")
	if b.quota, err = parseAmount(quota); err != nil || !ok {
		return b, unix.EIO
	}
	if b.period, err = strconv.ParseUint(period, 10, 64); err != nil {
		return b, unix.EIO
	}
	return b, nil
}

// ratio is the part of a processor, in units of 1/2^20, rounded down as the kernel's to_ratio does.
func (b bandwidth) ratio() uint64 {
	high, low := bits.Mul64(b.quota.n, 1<<20)
	if high >= b.period {
		return math.MaxUint64
	}
	ratio, _ := bits.Div64(high, low, b.period)
	return ratio
}

func (b bandwidth) String() string { return b.quota.v2() + " " + decimal(b.period) }

// The bounds of a period, in microseconds (kernel/sched/core.c: min_cfs_quota_period, max_cfs_quota_period).
const minPeriod, maxPeriod = 1000, 1000000

// set writes a bandwidth that v1 accepts: a cgroup's share is at most its parent's (tg_cfs_schedulable_down), which v2
// does not ask for. EINVAL for any other.
func (b bandwidth) set(f file) error {
	if b.period < minPeriod || b.period > maxPeriod {
		return unix.EINVAL
	}
	if !b.quota.unlimited {
		for c, ok := f.Above(); ok; c, ok = c.Above() {
			above, err := bandwidthOf(c)
			if err == nil && !above.quota.unlimited && b.ratio() > above.ratio() {
				return unix.EINVAL
			}
		}
		most, err := mostBelow(f)
		if err != nil {
			return err
		}
		if most > b.ratio() {
			return unix.EINVAL
		}
	}
	return f.Write("cpu.max", b.String())
}

// mostBelow returns the greatest ratio of a quota below a cgroup, 0 for none. A cgroup without the file has no quota.
func mostBelow(c Cgroup) (most uint64, err error) {
	children, err := c.Below()
	if err != nil {
		return 0, err
	}
	for _, child := range children {
		b, err := bandwidthOf(child)
		if err == nil && !b.quota.unlimited {
			most = max(most, b.ratio())
			continue
		}
		n, err := mostBelow(child)
		if err != nil {
			return 0, err
		}
		most = max(most, n)
	}
	return most, nil
}

func readQuota(f file) (string, error) {
	b, err := bandwidthOf(f)
	if b.quota.unlimited {
		return line("-1"), err
	}
	return line(decimal(b.quota.n)), err
}

func writeQuota(f file, v hierarchy.Value) error {
	b, err := bandwidthOf(f)
	if err != nil {
		return err
	}
	b.quota.n, b.quota.unlimited = v.Number()
	return b.set(f)
}

func readPeriod(f file) (string, error) {
	b, err := bandwidthOf(f)
	return line(decimal(b.period)), err
}

func writePeriod(f file, v hierarchy.Value) error {
	b, err := bandwidthOf(f)
	if err != nil {
		return err
	}
	b.period, _ = v.Number()
	return b.set(f)
}

// readCPUStat is cpu.stat of v1 (cpu_cfs_stat_show): times in nanoseconds.
func readCPUStat(f file) (string, error) {
	k, err := keyedIn(f, "cpu.stat")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("nr_periods %d\nnr_throttled %d\nthrottled_time %d\nnr_bursts %d\nburst_time %d\n",
		k["nr_periods"], k["nr_throttled"], k["throttled_usec"]*1000, k["nr_bursts"], k["burst_usec"]*1000), nil
}

func readCPUStatLocal(f file) (string, error) {
	k, err := keyedIn(f, "cpu.stat.local")
	return fmt.Sprintf("throttled_time %d\n", k["throttled_usec"]*1000), err
}

// cpuTimes are the times of a cgroup's tasks, in microseconds, since the guest set them back.
func cpuTimes(f file) (usage, user, system uint64, err error) {
	k, err := keyedIn(f, "cpu.stat")
	if err != nil {
		return 0, 0, 0, err
	}
	usage, user, system = k["usage_usec"], k["user_usec"], k["system_usec"]
	kept, err := f.Kept("cpuacct.usage")
	var was [3]uint64
	if n, _ := fmt.Sscan(kept, &was[0], &was[1], &was[2]); n == len(was) {
		usage, user, system = usage-min(usage, was[0]), user-min(user, was[1]), system-min(system, was[2])
	}
	return usage, user, system, err
}

func readUsage(f file) (string, error) {
	usage, _, _, err := cpuTimes(f)
	return line(decimal(usage * 1000)), err
}

func readUsageUser(f file) (string, error) {
	_, user, _, err := cpuTimes(f)
	return line(decimal(user * 1000)), err
}

func readUsageSystem(f file) (string, error) {
	_, _, system, err := cpuTimes(f)
	return line(decimal(system * 1000)), err
}

// writeUsage sets the times back; EINVAL for anything but 0 (cpuusage_write).
func writeUsage(f file, v hierarchy.Value) error {
	if n, _ := v.Number(); n != 0 {
		return unix.EINVAL
	}
	k, err := keyedIn(f, "cpu.stat")
	if err != nil {
		return err
	}
	return f.Keep(f.name, fmt.Sprint(k["usage_usec"], k["user_usec"], k["system_usec"]))
}

// ticks are the microseconds of one tick of USER_HZ.
const ticks = 10000

func readCPUAcctStat(f file) (string, error) {
	_, user, system, err := cpuTimes(f)
	return fmt.Sprintf("user %d\nsystem %d\n", user/ticks, system/ticks), err
}
