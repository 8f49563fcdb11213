package notify

import (
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Which hierarchy a mount means, and what is wrong with its options, by the rules of cgroup1_parse_param, check_cgroupfs_options and
// cgroup1_root_to_use (kernel/cgroup/cgroup-v1.c) and of cgroup2_parse_param (kernel/cgroup/cgroup.c) for a cgroup namespace that is not
// the host's, where no hierarchy can be made.

// wanted is what the options of a v1 mount ask for.
type wanted struct {
	controllers []string
	name        string
	all, none   bool
	noprefix    bool
	agent       bool
}

// Options that have no value and no effect on a hierarchy that is there.
var (
	v1Flags = []string{"clone_children", "cpuset_v2_mode", "xattr", "favordynmods", "nofavordynmods"}
	v2Flags = []string{
		"nsdelegate", "favordynmods", "nofavordynmods", "memory_localevents", "memory_recursiveprot", "memory_hugetlb_accounting", "pids_localevents",
	}
	// Of every file system: vfs_parse_sb_flag, fs/fs_context.c. mount(2) has flags for them, too.
	superFlags = []string{"dirsync", "lazytime", "mand", "ro", "sync", "async", "nolazytime", "nomand", "rw"}
)

// maxName is MAX_CGROUP_ROOT_NAMELEN, with the end of the string.
const maxName = 64

var nameForm = regexp.MustCompile(`^[\w.-]+$`)

// Rights are what a caller may do beside mounting in its mount namespace.
type Rights struct {
	HostRoot bool // set release agents: it is the host's root
	Cgroups  bool // mount what its cgroup namespace shows (mount_capable)
}

// Choose finds the hierarchy that mount(2) of a type with options means among those that a guest has, v2's by Legacy. The error is the kernel's errno:
// EINVAL for options that make no sense or name a controller that there is not, EPERM without the right to mount cgroups and for what
// would be a new hierarchy, EBUSY for a name that belongs to other controllers, ENODEV for a v2 tree that the guest does not have.
func Choose(fstype, options string, has []hierarchy.Hierarchy, r Rights) (hierarchy.Hierarchy, error) {
	if fstype == typeV2 {
		return chooseV2(options, has, r)
	}
	w, err := parseV1(options, has, r.HostRoot)
	if err != nil {
		return hierarchy.Hierarchy{}, err
	}
	if !r.Cgroups {
		return hierarchy.Hierarchy{}, unix.EPERM
	}
	if err := w.check(has); err != nil {
		return hierarchy.Hierarchy{}, err
	}
	return w.find(has)
}

func chooseV2(options string, has []hierarchy.Hierarchy, r Rights) (hierarchy.Hierarchy, error) {
	for o := range strings.SplitSeq(options, ",") {
		if o != "" && !isSuperFlag(o) && !slices.Contains(v2Flags, o) {
			return hierarchy.Hierarchy{}, unix.EINVAL
		}
	}
	if !r.Cgroups {
		return hierarchy.Hierarchy{}, unix.EPERM
	}
	for _, h := range has {
		if h.Version == hierarchy.V2 {
			return h, nil
		}
	}
	return hierarchy.Hierarchy{}, unix.ENODEV
}

// isSuperFlag says whether an option is one of every file system, which may have a value that nobody looks at.
func isSuperFlag(option string) bool {
	key, _, _ := strings.Cut(option, "=")
	return slices.Contains(superFlags, key)
}

func parseV1(options string, has []hierarchy.Hierarchy, hostRoot bool) (w wanted, err error) {
	for o := range strings.SplitSeq(options, ",") {
		key, value, valued := strings.Cut(o, "=")
		flag := key == "all" || key == "none" || key == "noprefix" || slices.Contains(v1Flags, key)
		switch {
		case o == "" || isSuperFlag(o):
		case flag && valued:
			return w, unix.EINVAL
		case key == "all":
			w.all = true
		case key == "none":
			w.none = true
		case key == "noprefix":
			w.noprefix = true
		case flag:
		case key == "name":
			if w.name != "" || len(value) >= maxName || !nameForm.MatchString(value) {
				return w, unix.EINVAL
			}
			w.name = value
		case key == "release_agent":
			if w.agent || !valued || !hostRoot {
				return w, unix.EINVAL
			}
			w.agent = true
		case known(key, has): // with whatever value
			w.controllers = append(w.controllers, key)
		default:
			return w, unix.EINVAL
		}
	}
	return w, nil
}

// known says whether some hierarchy of a guest has a controller, by its name on v1.
func known(controller string, has []hierarchy.Hierarchy) bool {
	return slices.ContainsFunc(has, func(h hierarchy.Hierarchy) bool { return slices.Contains(h.Controllers, controller) })
}

// Legacy gives a hierarchy of v2 the controllers of which mount options can speak: those that a guest may know of, by their names on v1,
// and that the kernel has for v1. Others it does not know (CONFIG_MEMCG_V1, CONFIG_CPUSETS_V1).
func Legacy(h hierarchy.Hierarchy, has, permits func(controller string) bool) hierarchy.Hierarchy {
	var names []string
	for _, c := range h.Controllers {
		if permits(c) {
			names = append(names, hierarchy.LegacyNames(c)...)
		}
	}
	h.Controllers = slices.DeleteFunc(names, func(name string) bool { return !has(name) })
	return h
}

// PartOf is a part of the view of a guest that may know of the controllers for which permits holds.
func PartOf(h hierarchy.Hierarchy, boundary string, permits func(controller string) bool) Part {
	if h.Version == hierarchy.V2 {
		h = Legacy(h, KernelHas, permits)
	}
	return Part{Hierarchy: h, Boundary: boundary}
}

// KernelHas asks the kernel whether it has a controller for v1. /proc/cgroups does not tell: 6.12 lists memory without CONFIG_MEMCG_V1. A
// kernel that cannot be asked has it.
func KernelHas(controller string) bool {
	fs, err := unix.Fsopen(typeV1, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return true
	}
	defer unix.Close(fs)
	return unix.FsconfigSetFlag(fs, controller) == nil // cgroup1_parse_param; nothing is made
}

// check completes what is asked for, and says what does not go together.
func (w *wanted) check(has []hierarchy.Hierarchy) error {
	if w.all && len(w.controllers) > 0 {
		return unix.EINVAL
	}
	if w.all || len(w.controllers) == 0 && !w.none && w.name == "" {
		w.controllers = nil
		for _, h := range has {
			w.controllers = append(w.controllers, h.Controllers...)
		}
	}
	slices.Sort(w.controllers)
	w.controllers = slices.Compact(w.controllers)
	others := slices.ContainsFunc(w.controllers, func(c string) bool { return c != "cpuset" })
	if len(w.controllers) == 0 && w.name == "" || w.noprefix && others || w.none && len(w.controllers) > 0 {
		return unix.EINVAL
	}
	return nil
}

// find looks for a hierarchy of just this name and these controllers.
func (w *wanted) find(has []hierarchy.Hierarchy) (hierarchy.Hierarchy, error) {
	for _, h := range has {
		if h.Version != hierarchy.V1 || w.name != "" && w.name != h.Name {
			continue
		}
		if len(w.controllers) > 0 || w.none {
			theirs := slices.Sorted(slices.Values(h.Controllers))
			if !slices.Equal(theirs, w.controllers) {
				if w.name == "" {
					continue
				}
				return hierarchy.Hierarchy{}, unix.EBUSY
			}
		}
		return h, nil
	}
	if len(w.controllers) == 0 && !w.none {
		return hierarchy.Hierarchy{}, unix.EINVAL
	}
	return hierarchy.Hierarchy{}, unix.EPERM
}
