package translate

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// standards are what a new cgroup of v2 has in the files that stand for settings of a v1 controller, in an order in
// which the kernel accepts them. '*' stands for all files of one kind, and a value with '$' is for each key of the
// file.
var standards = map[string][][2]string{
	"cpu": {
		{"cpu.idle", "0"}, {"cpu.weight", "100"}, {"cpu.max.burst", "0"}, {"cpu.max", "max 100000"},
		{"cpu.uclamp.min", "0"}, {"cpu.uclamp.max", "max"},
	},
	"cpuset": {{"cpuset.cpus", "\n"}, {"cpuset.mems", "\n"}},
	"memory": {{memoryMax, "max"}, {swapMax, "max"}},
	"blkio": {
		{"io.max", "$ rbps=max wbps=max riops=max wiops=max"}, {"io.weight", "100"}, {"io.bfq.weight", "100"},
		{"io.prio.class", "no-change"},
	},
	"pids":    {{"pids.max", "max"}},
	"hugetlb": {{"hugetlb.*.max", "max"}},
	"freezer": {{"cgroup.freeze", "0"}},
	"rdma":    {{"rdma.max", "$ hca_handle=max hca_object=max"}},
	"misc":    {{"misc.max", "$ max"}},
	"dmem":    {{"dmem.max", "$ max"}, {"dmem.low", "$ 0"}, {"dmem.min", "$ 0"}},
}

// Reset gives a host's cgroup of v2 what a new one has, of a v1 controller that no longer has the cgroup. files are the
// names of its control files. A file that is not there, or that the host cannot set, is left.
func Reset(c Cgroup, controller string, files []string) error {
	return reset(controller, files, c.Read, c.Write)
}

// ResetShown is Reset for a cgroup of v1 hosts that no longer has a controller of v2. files are those that are shown.
func ResetShown(c Cgroup, controller string, files []string) error {
	read := func(name string) (string, error) {
		r, ok := Lookup(hierarchy.V2, name)
		if !ok {
			return "", unix.ENOENT
		}
		raw, err := r.Read(c, name)
		return string(raw), err
	}
	return reset(controller, files, read, func(name, value string) error {
		r, ok := Lookup(hierarchy.V2, name)
		if !ok {
			return unix.ENOENT
		}
		return r.Write(c, name, []byte(value))
	})
}

func reset(
	controller string, files []string, read func(string) (string, error), write func(string, string) error,
) error {
	for _, s := range standards[controller] {
		for _, file := range files {
			before, after, family := strings.Cut(s[0], "*")
			if file != s[0] && !(family && strings.HasPrefix(file, before) && strings.HasSuffix(file, after)) {
				continue
			}
			if err := setStandard(file, s[1], read, write); err != nil {
				return err
			}
		}
	}
	return nil
}

func setStandard(
	file, value string, read func(string) (string, error), write func(string, string) error,
) error {
	values := []string{value}
	if rest, keyed := strings.CutPrefix(value, "$"); keyed {
		text, err := read(file)
		if err != nil {
			return unlessAbsent(err)
		}
		values = nil
		for line := range strings.Lines(text) {
			if key, _, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
				values = append(values, key+rest)
			}
		}
	}
	for _, v := range values {
		if err := write(file, v); err != nil {
			return unlessAbsent(err)
		}
	}
	return nil
}

func unlessAbsent(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// counters are files of v1 that a new cgroup has at 0 and that a write sets back.
var counters = map[string][]string{
	"cpuacct": {"cpuacct.usage"},
	"memory":  {"memory.failcnt", "memory.memsw.failcnt", "memory.max_usage_in_bytes"},
}

// Begin sets the counters of a v1 controller to 0 in a cgroup that the host has had before the controller did.
func Begin(c Cgroup, controller string) error {
	for _, name := range counters[controller] {
		r, ok := Lookup(hierarchy.V1, name)
		if !ok {
			continue
		}
		if now, err := r.Read(c, name); err != nil || string(now) == "0\n" {
			continue
		}
		if err := r.Write(c, name, []byte("0")); err != nil {
			return unlessAbsent(err)
		}
	}
	return nil
}
