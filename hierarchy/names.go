package hierarchy

import (
	"slices"
	"strings"
)

// LeafName is the cgroup below a v2 boundary in which the guest's processes live while controllers are enabled
// there. No listing shows it to the guest, which cannot make it either. Further below it is an ordinary name: a
// guest of the guest has its leaf there.
const LeafName = ".vcgroupfs"

// controllers are the names of all controllers of kernels since 4.5 (include/linux/cgroup_subsys.h).
var controllers = []string{
	"cpu", "cpuacct", "cpuset", "memory", "pids", "io", "blkio", "hugetlb", "devices", "freezer", "net_cls", "net_prio",
	"perf_event", "rdma", "misc", "dmem", "debug",
}

// unifiedControllers are those of cgroup.subtree_control, in the order of include/linux/cgroup_subsys.h (the others
// have no dfl_cftypes and are inhibited on the default hierarchy, cgroup_init).
var unifiedControllers = []string{
	"cpuset", "cpu", "io", "memory", "perf_event", "hugetlb", "pids", "rdma", "misc", "dmem", "debug",
}

// KnownControllers lists the controllers of all kernels.
func KnownControllers() []string { return slices.Clone(controllers) }

// KnownController reports that some kernel has this controller.
func KnownController(name string) bool { return slices.Contains(controllers, name) }

// UnifiedController reports that a v2 hierarchy can have a controller of this name.
func UnifiedController(name string) bool { return slices.Contains(unifiedControllers, name) }

// ThreadedController reports a controller of v2 that can be enabled beside tasks (those with .threaded in their
// struct cgroup_subsys).
func ThreadedController(name string) bool {
	return slices.Contains([]string{"cpu", "cpuset", "pids", "perf_event"}, name)
}

// CompareUnified orders controllers as cgroup.controllers does.
func CompareUnified(a, b string) int {
	return slices.Index(unifiedControllers, a) - slices.Index(unifiedControllers, b)
}

// ControllerOf returns the controller in a control file's name, "" for the files of every cgroup and for names of no
// known controller. On v2 cpu.stat and the pressure files are in every cgroup, without any controller
// (cgroup_base_files and cgroup_psi_files, kernel/cgroup/cgroup.c).
func ControllerOf(file string) string {
	prefix, rest, ok := strings.Cut(file, ".")
	if !ok || rest == "pressure" || file == "cpu.stat" || file == "cpu.stat.local" ||
		!slices.Contains(controllers, prefix) {
		return ""
	}
	return prefix
}

// ReservedName reports that a guest may not make a cgroup of this name, because a control file has or could have it:
// the host could not enable that file's controller for any sibling (cgroup_addrm_files fails with EEXIST).
func ReservedName(name string) bool {
	switch name {
	case "tasks", "notify_on_release", "release_agent":
		return true
	}
	prefix, _, ok := strings.Cut(name, ".")
	return ok && (prefix == "cgroup" || prefix == "irq" || slices.Contains(controllers, prefix))
}

// LegacyNames returns the names of a v2 controller in /proc/cgroups and in mount options of v1.
func LegacyNames(controller string) []string {
	switch controller {
	case "io":
		return []string{"blkio"}
	case "cpu":
		return []string{"cpu", "cpuacct"}
	}
	return []string{controller}
}
