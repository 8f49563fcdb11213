package translate

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// v1 bounds memory, and memory with swap (memsw); v2 bounds memory and swap. So memsw is the sum of v2's limits, and a
// new limit of memory moves the limit of swap against it.
const (
	memoryMax = "memory.max"
	swapMax   = "memory.swap.max"
)

// memswOf returns the limits of memory, and of memory with swap.
func memswOf(c Cgroup) (memory, memsw amount, err error) {
	if memory, err = amountIn(c, memoryMax); err != nil {
		return memory, memsw, err
	}
	swap, err := amountIn(c, swapMax)
	if errors.Is(err, unix.ENOENT) {
		// Without swap accounting there is no swap to bound.
		return memory, amount{unlimited: true}, nil
	}
	return memory, memory.plus(swap), err
}

// writeMemoryLimit bounds memory. EINVAL above the limit of memory with swap; EBUSY below the usage, which v1 reclaims
// and never ends tasks for.
func writeMemoryLimit(f file, v hierarchy.Value) error {
	limit := pages(v)
	old, memsw, err := memswOf(f)
	if err != nil {
		return err
	}
	if from, err := f.begun(); err != nil {
		return err
	} else if from != "" {
		if memsw, err = parseAmount(from); err != nil {
			return err
		}
	}
	if limit.above(memsw) {
		return unix.EINVAL
	}
	if err := makeRoom(f, limit, usageOf); err != nil {
		return err
	}
	if memsw.unlimited {
		return f.Write(memoryMax, limit.v2())
	}
	changes := [][2]string{{memoryMax, limit.v2()}, {swapMax, memsw.minus(limit).v2()}}
	undo := [][2]string{{swapMax, memsw.minus(old).v2()}, {memoryMax, old.v2()}}
	if limit.above(old) {
		// The sum is never above what it was.
		slices.Reverse(changes)
		slices.Reverse(undo)
	}
	return f.together(memsw.v2(), changes, undo)
}

func readMemsw(f file) (string, error) {
	_, memsw, err := memswOf(f)
	return line(memsw.v1()), err
}

// writeMemsw bounds memory with swap. EINVAL below the limit of memory, EBUSY below the usage.
func writeMemsw(f file, v hierarchy.Value) error {
	limit := pages(v)
	memory, _, err := memswOf(f)
	switch {
	case err != nil:
		return err
	case memory.above(limit):
		return unix.EINVAL
	case limit.unlimited:
		return f.Write(swapMax, "max")
	}
	if err := makeRoom(f, limit, memswUsage); err != nil {
		return err
	}
	return f.Write(swapMax, limit.minus(memory).v2())
}

func usageOf(c Cgroup) (uint64, error) { return numberIn(c, "memory.current") }

func memswUsage(c Cgroup) (uint64, error) {
	memory, err := usageOf(c)
	if err != nil {
		return 0, err
	}
	swap, err := numberIn(c, "memory.swap.current")
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return memory + swap, err
}

// makeRoom reclaims until a usage fits into a limit. EBUSY if it does not; EINTR after a signal.
func makeRoom(c Cgroup, limit amount, usage func(Cgroup) (uint64, error)) error {
	for tried := false; ; tried = true {
		used, err := usage(c)
		switch {
		case err != nil || limit.unlimited || used <= limit.n:
			return err
		case tried:
			return unix.EBUSY
		}
		if err := reclaim(c, used-limit.n); err != nil {
			return err
		}
	}
}

// reclaim has the kernel reclaim a number of bytes, or as many as it can: it tries 16 times by itself
// (MAX_RECLAIM_RETRIES, mm/vmscan.c), and may sleep each time nothing was found.
func reclaim(c Cgroup, bytes uint64) error {
	k, err := keyedIn(c, "memory.stat")
	if err != nil {
		return err
	}
	bytes = min(bytes, k.sum([]string{"inactive_anon", "active_anon", "inactive_file", "active_file", "slab_reclaimable"}))
	if bytes == 0 {
		return nil
	}
	if err := c.Write("memory.reclaim", decimal(bytes)); err != nil && !errors.Is(err, unix.EAGAIN) {
		return err
	}
	return nil
}

// readLimit reads a limit of v2 as v1 shows it.
func readLimit(host string) func(file) (string, error) {
	return func(f file) (string, error) {
		a, err := amountIn(f, f.onHost(host))
		return line(a.v1()), err
	}
}

func readMemswUsage(f file) (string, error) {
	n, err := memswUsage(f)
	return line(decimal(n)), err
}

// readPeak reads the greatest usage. After a reset it is that since then, if it is above all before; otherwise the
// usage at the reset or now, whichever is greater.
func readPeak(f file) (string, error) {
	now, err := usageOf(f)
	if err != nil {
		return "", err
	}
	peak, err := numberIn(f, "memory.peak")
	if err != nil {
		return "", err
	}
	kept, err := f.Kept(f.name)
	var before, used uint64
	if n, _ := fmt.Sscan(kept, &before, &used); n == 2 && peak <= before {
		peak = max(used, now)
	}
	return line(decimal(peak)), err
}

func resetPeak(f file, _ hierarchy.Value) error {
	now, err := usageOf(f)
	if err != nil {
		return err
	}
	peak, err := numberIn(f, "memory.peak")
	if err != nil {
		return err
	}
	return f.Keep(f.name, fmt.Sprint(peak, now))
}

// readEvent reads one key of a file that counts events, since resetEvent has set it back.
func readEvent(host, key string) func(file) (string, error) {
	return func(f file) (string, error) {
		k, err := keyedIn(f, f.onHost(host))
		if err != nil {
			return "", err
		}
		n, err := f.countAbove(k[key])
		return line(decimal(n)), err
	}
}

func resetEvent(host, key string) func(file, hierarchy.Value) error {
	return func(f file, _ hierarchy.Value) error {
		k, err := keyedIn(f, f.onHost(host))
		if err != nil {
			return err
		}
		return f.Keep(f.name, decimal(k[key]))
	}
}

// readStat reads one key of memory.stat.
func readStat(key string) func(file) (string, error) {
	return func(f file) (string, error) {
		k, err := keyedIn(f, "memory.stat")
		return line(decimal(k[key])), err
	}
}

func readSoftLimit(f file) (string, error) { return readKept(decimal(unlimitedV1()))(f) }

func keepSoftLimit(f file, v hierarchy.Value) error {
	a := pages(v)
	if a.unlimited {
		return f.Keep(f.name, "")
	}
	return f.Keep(f.name, decimal(a.n))
}

// standardSwappiness is what a new cgroup has where nobody has changed vm.swappiness.
const standardSwappiness = "60"

// readSwappiness reads what the guest has written here or, since v1 copies it by mkdir, above.
func readSwappiness(f file) (string, error) {
	for c, ok := f.Cgroup, true; ok; c, ok = c.Above() {
		if s, err := c.Kept(f.name); err != nil || s != "" {
			return line(s), err
		}
	}
	return line(standardSwappiness), nil
}

func keepSwappiness(f file, v hierarchy.Value) error {
	n, _ := v.Number()
	if n > 200 {
		return unix.EINVAL
	}
	return f.Keep(f.name, decimal(n))
}

func readOOMControl(f file) (string, error) {
	k, err := keyedIn(f, "memory.events")
	return fmt.Sprintf("oom_kill_disable 0\nunder_oom 0\noom_kill %d\n", k["oom_kill"]), err
}

// writeOOMControl accepts 0, the state that v2 always has.
func writeOOMControl(_ file, v hierarchy.Value) error {
	switch n, _ := v.Number(); n {
	case 0:
		return nil
	case 1:
		return unix.EOPNOTSUPP
	}
	return unix.EINVAL
}

// forceEmpty reclaims all that it can, and succeeds with less (mem_cgroup_force_empty).
func forceEmpty(f file, _ hierarchy.Value) error {
	used, err := usageOf(f)
	if err != nil {
		return err
	}
	return reclaim(f, used)
}

// onlyUnlimited accepts -1 for a limit that v2 does not have.
func onlyUnlimited(_ file, v hierarchy.Value) error {
	if pages(v).unlimited {
		return nil
	}
	return unix.EOPNOTSUPP
}
