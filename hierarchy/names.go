package hierarchy

import (
	"slices"
	"strings"
)

// LeafName is the cgroup below a v2 boundary in which the guest's processes live when controllers are enabled there. A
// guest sees it nowhere listed and cannot make it. Further below it is a name like any other: a guest of the guest has its leaf there.
const LeafName = ".vcgroupfs"

// controllers are the names of every controller that a kernel since 4.5 has had (include/linux/cgroup_subsys.h).
var controllers = []string{
	"cpu", "cpuacct", "cpuset", "memory", "pids", "io", "blkio", "hugetlb", "devices", "freezer", "net_cls", "net_prio",
	"perf_event", "rdma", "misc", "dmem", "debug",
}

// unifiedControllers are those that cgroup.subtree_control takes (the others have no dfl_cftypes and are inhibited on the
// default hierarchy, cgroup_init).
var unifiedControllers = []string{
	"cpu", "cpuset", "memory", "pids", "io", "hugetlb", "perf_event", "rdma", "misc", "dmem", "debug",
}

// KnownControllers lists the controllers of all kernels.
func KnownControllers() []string { return slices.Clone(controllers) }

// KnownController says whether some kernel has this controller.
func KnownController(name string) bool { return slices.Contains(controllers, name) }

// UnifiedController says whether a v2 hierarchy can have a controller of this name.
func UnifiedController(name string) bool { return slices.Contains(unifiedControllers, name) }

// ControllerOf is the controller that a control file belongs to by its name, "" for the files that every cgroup has and
// for names of no known controller. On v2 cpu.stat and the pressure files are in every cgroup, whatever is enabled
// (cgroup_base_files and cgroup_psi_files, kernel/cgroup/cgroup.c).
func ControllerOf(file string) string {
	prefix, rest, ok := strings.Cut(file, ".")
	if !ok || rest == "pressure" || file == "cpu.stat" || file == "cpu.stat.local" || !slices.Contains(controllers, prefix) {
		return ""
	}
	return prefix
}

// ReservedName says whether a guest may not make a cgroup of this name: it is, or could become, a control file's, and the
// host could then not enable that file's controller for any cgroup beside it (cgroup_addrm_files fails with EEXIST).
func ReservedName(name string) bool {
	switch name {
	case "tasks", "notify_on_release", "release_agent":
		return true
	}
	prefix, _, ok := strings.Cut(name, ".")
	return ok && (prefix == "cgroup" || prefix == "irq" || slices.Contains(controllers, prefix))
}

// LegacyNames are the names by which /proc/cgroups and mount options of v1 speak of a controller of v2.
func LegacyNames(controller string) []string {
	switch controller {
	case "io":
		return []string{"blkio"}
	case "cpu":
		return []string{"cpu", "cpuacct"}
	}
	return []string{controller}
}
