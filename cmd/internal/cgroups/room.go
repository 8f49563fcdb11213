package cgroups

import (
	"fmt"
	"math/bits"
	"strconv"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// makeRoom lowers values below a v1 boundary that keep it from a new value, and reports that there were any. v2 accepts
// any value, and the smallest one on the way to the root applies. v1 checks these against each other (measured on Linux
// 6.18):
//
//	cpuset.cpus, cpuset.mems                     EBUSY while a child has more
//	cpuset.cpu_exclusive, cpuset.mem_exclusive   EBUSY for 0 while a child has 1
//	cpu.cfs_quota_us, cpu.cfs_period_us          EINVAL while a child's ratio is larger, or the own burst than the quota
//	cpu.rt_runtime_us, cpu.rt_period_us          EINVAL while the children's ratios are larger together
//	memory.memsw.limit_in_bytes                  EINVAL while memory.limit_in_bytes is larger
//
// It checks no other file: a child's memory or pids limit may exceed its parent's. Writes go from the deepest cgroup
// up, so that each is valid when it is made.
func (s *setting) makeRoom(j *journal) (made bool, err error) {
	if s.row.Version != hierarchy.V1 {
		return false, nil
	}
	root, err := s.boundary.Root()
	if err != nil {
		return false, err
	}
	defer root.Release()
	r := room{j, s.boundary, s.file, maxCgroups}
	before := len(j.writes)
	switch s.file {
	case "cpuset.cpus", "cpuset.mems":
		if want, ok := parseSet(s.value); ok {
			err = r.fitSets(root, want, 0)
		}
	case "cpuset.cpu_exclusive", "cpuset.mem_exclusive":
		if s.value == "0" {
			err = r.clear(root, 0)
		}
	case "cpu.cfs_quota_us":
		err = r.fitQuota(root, share{amount(s.value), number(root, "cpu.cfs_period_us")})
	case "cpu.cfs_period_us":
		err = r.fitQuota(root, share{number(root, "cpu.cfs_quota_us"), amount(s.value)})
	case "cpu.rt_runtime_us":
		err = r.fitRealtime(root, share{amount(s.value), number(root, "cpu.rt_period_us")}.ratio(), 0)
	case "cpu.rt_period_us":
		err = r.fitRealtime(root, share{number(root, "cpu.rt_runtime_us"), amount(s.value)}.ratio(), 0)
	case "memory.memsw.limit_in_bytes":
		if limit, want := number(root, "memory.limit_in_bytes"), amount(s.value); want >= 0 && (limit < 0 || limit > want) {
			err = r.write(root, "memory.limit_in_bytes", s.value)
		}
	}
	return len(j.writes) > before, err
}

// room lowers one control file below a boundary.
type room struct {
	j    *journal
	b    *host.Boundary
	file string
	left int // cgroups that may still be visited
}

func (r *room) write(d *host.Dir, file, value string) error { return r.j.write(r.b, d, file, value) }

func (r *room) writeNumber(d *host.Dir, file string, n int64) error {
	return r.write(d, file, strconv.FormatInt(n, 10))
}

// each calls f for the children of a cgroup. It skips removed ones.
func (r *room) each(d *host.Dir, depth int, f func(child *host.Dir) error) error {
	names, err := children(d)
	if err != nil {
		return err
	}
	if len(names) > 0 && depth >= maxDepth {
		return fmt.Errorf("its cgroups are nested more than %d levels deep: remove the deepest", maxDepth)
	}
	for _, name := range names {
		if r.left == 0 {
			return fmt.Errorf("it has more than %d cgroups: remove some", maxCgroups)
		}
		r.left--
		child, err := d.OpenDir(name)
		if err == nil {
			err = f(child)
			child.Release()
		}
		if err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// clear clears a flag in all cgroups below.
func (r *room) clear(d *host.Dir, depth int) error {
	return r.each(d, depth, func(child *host.Dir) error {
		if number(child, r.file) != 1 {
			// Then none below can have it.
			return nil
		}
		if err := r.clear(child, depth+1); err != nil {
			return err
		}
		return r.write(child, r.file, "0")
	})
}

// share is a runtime in each period; a runtime below 0 is no limit.
type share struct {
	runtimeUsec, periodUsec int64
}

// ratio returns the share as the kernel compares it, in units of 2^-20 (to_ratio, kernel/sched/core.c); -1 for no
// limit.
func (s share) ratio() int64 {
	if s.runtimeUsec < 0 || s.periodUsec <= 0 {
		return -1
	}
	return scale(s.runtimeUsec, 1<<20, s.periodUsec)
}

// scale returns n*by/of, rounded down, for by at most of or a result that fits.
func scale(n, by, of int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(by))
	if hi >= uint64(of) {
		return unlimited
	}
	q, _ := bits.Div64(hi, lo, uint64(of))
	return int64(min(q, unlimited))
}

// minQuotaUsec is the smallest quota and period (min_cfs_quota_period, kernel/sched/core.c).
const minQuotaUsec = 1000

// fitQuota lowers the boundary's own burst, and all shares below, to fit a share. tg_cfs_schedulable_down compares the
// largest child with the parent, through children without a limit too.
func (r *room) fitQuota(root *host.Dir, want share) error {
	if want.ratio() < 0 {
		return nil
	}
	if err := r.fitBelow(root, want, 0); err != nil {
		return err
	}
	return r.fitBurst(root, want.runtimeUsec)
}

func (r *room) fitBelow(d *host.Dir, want share, depth int) error {
	return r.each(d, depth, func(child *host.Dir) error {
		have := share{number(child, "cpu.cfs_quota_us"), number(child, "cpu.cfs_period_us")}
		if have.runtimeUsec < 0 {
			return r.fitBelow(child, want, depth+1)
		}
		if have.ratio() <= want.ratio() {
			// Then all shares below fit too.
			return nil
		}
		less := share{scale(have.periodUsec, want.runtimeUsec, want.periodUsec), have.periodUsec}
		// The period is too short for so small a share.
		if less.runtimeUsec < minQuotaUsec {
			less = share{minQuotaUsec, scale(minQuotaUsec, want.periodUsec, want.runtimeUsec) + 1}
		}
		if err := r.fitBelow(child, less, depth+1); err != nil {
			return err
		}
		return r.lowerQuota(child, have, less)
	})
}

// lowerQuota writes a smaller share so that each write lowers it.
func (r *room) lowerQuota(d *host.Dir, have, less share) error {
	if err := r.fitBurst(d, less.runtimeUsec); err != nil {
		return err
	}
	if less.periodUsec != have.periodUsec {
		if err := r.writeNumber(d, "cpu.cfs_period_us", less.periodUsec); err != nil {
			return err
		}
	}
	return r.writeNumber(d, "cpu.cfs_quota_us", less.runtimeUsec)
}

// fitBurst lowers a cgroup's burst to a quota: more is EINVAL (tg_set_cfs_bandwidth). Linux before 5.14 has no burst.
func (r *room) fitBurst(d *host.Dir, quotaUsec int64) error {
	if number(d, "cpu.cfs_burst_us") <= quotaUsec {
		return nil
	}
	return r.writeNumber(d, "cpu.cfs_burst_us", quotaUsec)
}

// fitRealtime lowers the children's ratios by a common factor until their sum fits a ratio (tg_rt_schedulable).
func (r *room) fitRealtime(d *host.Dir, ratio int64, depth int) error {
	if ratio < 0 {
		return nil
	}
	var sum int64
	err := r.each(d, depth, func(child *host.Dir) error {
		sum += max(realtime(child).ratio(), 0)
		return nil
	})
	if err != nil || sum <= ratio {
		return err
	}
	return r.each(d, depth, func(child *host.Dir) error {
		have := realtime(child)
		if have.ratio() <= 0 {
			return nil
		}
		less := share{scale(have.runtimeUsec, ratio, sum), have.periodUsec}
		if err := r.fitRealtime(child, less.ratio(), depth+1); err != nil {
			return err
		}
		return r.writeNumber(child, "cpu.rt_runtime_us", less.runtimeUsec)
	})
}

func realtime(d *host.Dir) share {
	return share{number(d, "cpu.rt_runtime_us"), number(d, "cpu.rt_period_us")}
}
