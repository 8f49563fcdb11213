package host

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Nesting: this host may itself be a guest. Its hierarchies are then those of its own view, below its boundary, and
// every access to them passes that view and its policy.

// viewMountpoint is the only place for a guest's view: a view mounted elsewhere belongs to another guest.
const viewMountpoint = "/sys/fs/cgroup"

// choose selects the mounts at the end of their paths: real cgroups, or this guest's view in their place.
func choose(mounts []hierarchy.Mount) ([]hierarchy.Mount, error) {
	var real, views []hierarchy.Mount
	for _, m := range mounts {
		switch {
		case !m.View:
			if visible(m) {
				real = append(real, m)
			}
		case m.Point == viewMountpoint || filepath.Dir(m.Point) == viewMountpoint:
			if !visible(m) {
				continue
			}
			parts, err := partsOf(m)
			if err != nil {
				return nil, err
			}
			views = append(views, parts...)
		}
	}
	if len(views) > 0 {
		return views, nil
	}
	return real, nil
}

// visible reports that the path of a mount leads to it: another mount may cover it. True if the kernel cannot tell
// (before Linux 5.8).
func visible(m hierarchy.Mount) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, m.Point, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	return err == nil && (st.Mask&unix.STATX_MNT_ID == 0 || st.Mnt_id == uint64(m.ID))
}

// partsOf returns the hierarchies in a view.
func partsOf(m hierarchy.Mount) ([]hierarchy.Mount, error) {
	if !m.Several {
		return []hierarchy.Mount{m}, nil
	}
	if m.Dir != "" {
		return []hierarchy.Mount{m.Part(m.Point, m.Dir)}, nil
	}
	top, err := unix.Open(m.Point, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError("open", m.Point, err)
	}
	defer unix.Close(top)
	entries, err := listFD(top)
	if err != nil {
		return nil, pathError("read", m.Point, err)
	}
	var parts []hierarchy.Mount
	for _, e := range entries {
		// The links name the same hierarchies.
		if e.IsDir {
			parts = append(parts, m.Part(filepath.Join(m.Point, e.Name), e.Name))
		}
	}
	return parts, nil
}

// checkView checks that paths in a view mean the same as in /proc/<pid>/cgroup. Those start at the root of the
// cgroup namespace, which is the boundary in a guest with its own.
func (hier *Hierarchy) checkView() error {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	at, ok := hier.pathIn(raw)
	if ok && hier.Exists(at) {
		return nil
	}
	return fmt.Errorf("this guest is in the cgroup %q there, which its view does not have: "+
		"it was made without a cgroup namespace "+
		"of its own; give it one (a namespace of type cgroup in its configuration)", at)
}

// attrName returns the full name of an extended attribute of the view's own. Only the server may set those, so they
// are trusted.*, which needs CAP_SYS_ADMIN over the whole host (xattr_permission); a guest's root lacks it. A view
// on top of another uses user.*: the outer view stores them as trusted.* of the real cgroup.
func (hier *Hierarchy) attrName(name string) string {
	if hier.View {
		return "user.vcgroupfs." + name
	}
	return "trusted.vcgroupfs." + name
}
