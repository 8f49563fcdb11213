package notify

import (
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// The choice of a mount's hierarchy, and the errors in its options, follow cgroup1_parse_param, check_cgroupfs_options
// and cgroup1_root_to_use (kernel/cgroup/cgroup-v1.c) and cgroup2_parse_param (kernel/cgroup/cgroup.c), for a cgroup
// namespace other than the host's, which cannot make a hierarchy.

// wanted are the parsed options of a v1 mount.
type wanted struct {
	controllers []string
	name        string
	all, none   bool
	noprefix    bool
	agent       bool
}

// Options without a value that do not affect an existing hierarchy.
var (
	v1Flags = []string{"clone_children", "cpuset_v2_mode", "xattr", "favordynmods", "nofavordynmods"}
	v2Flags = []string{
		"nsdelegate", "favordynmods", "nofavordynmods", "memory_localevents", "memory_recursiveprot",
		"memory_hugetlb_accounting", "pids_localevents",
	}
	// Options of every file system: vfs_parse_sb_flag, fs/fs_context.c. mount(2) has flags for them too.
	superFlags = []string{"dirsync", "lazytime", "mand", "ro", "sync", "async", "nolazytime", "nomand", "rw"}
)

// maxName is MAX_CGROUP_ROOT_NAMELEN, with the terminator.
const maxName = 64

var nameForm = regexp.MustCompile(`^[\w.-]+$`)

// Rights are a caller's, beyond mounting in its mount namespace.
type Rights struct {
	HostRoot bool // may set release agents, as the host's root
	Cgroups  bool // may mount its cgroup namespace's tree (mount_capable)
}

// Choose finds the hierarchy of mount(2) by type and options among the guest's; v2's has the controllers of Legacy. The
// error is the kernel's errno: EINVAL for inconsistent options or an unknown controller, EPERM without the right to
// mount cgroups and for a hierarchy that would be new, EBUSY for a name in use with other controllers, ENODEV for a v2
// tree that the guest does not have.
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

// isSuperFlag reports an option of every file system. Its value, if any, is ignored.
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
		case known(key, has):
			// With any value.
			w.controllers = append(w.controllers, key)
		default:
			return w, unix.EINVAL
		}
	}
	return w, nil
}

// known reports that a hierarchy of the guest has a controller, by its v1 name.
func known(controller string, has []hierarchy.Hierarchy) bool {
	return slices.ContainsFunc(has, func(h hierarchy.Hierarchy) bool { return slices.Contains(h.Controllers, controller) })
}

// Legacy gives a v2 hierarchy the controllers that mount options can name: those permitted to the guest, by their v1
// names, if the kernel has them for v1. Mount options do not know others (CONFIG_MEMCG_V1, CONFIG_CPUSETS_V1).
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

// PartOf returns the part of a view for a guest with the controllers for which permits holds: a hierarchy of the host,
// or one that stands for it.
func PartOf(h, of hierarchy.Hierarchy, boundary string, permits func(controller string) bool) Part {
	if h.Version == hierarchy.V2 {
		h = Legacy(h, KernelHas, permits)
	}
	return Part{Hierarchy: h, Host: of, Boundary: boundary}
}

// KernelHas asks the kernel for a v1 controller. /proc/cgroups does not tell: 6.12 lists memory without
// CONFIG_MEMCG_V1. True if the kernel cannot be asked.
func KernelHas(controller string) bool {
	fs, err := unix.Fsopen(typeV1, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return true
	}
	defer unix.Close(fs)
	// cgroup1_parse_param; this makes nothing.
	return unix.FsconfigSetFlag(fs, controller) == nil
}

// check completes the options, and returns EINVAL for a wrong combination.
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

// find finds the hierarchy of exactly this name and these controllers.
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
