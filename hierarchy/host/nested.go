package host

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Nesting: this host may itself be a guest. Then its hierarchies are what its own view shows, below the boundary that it was
// given, and all that is done to them goes through that view and its policy.

// viewPlace is where a guest has its view, and where alone one is looked for: a view that is mounted elsewhere is another's.
const viewMountpoint = "/sys/fs/cgroup"

// choose takes the mounts that paths lead to: real cgroups, or, where there is one in its place, the view of this guest.
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

// visible says whether a mount is what its path leads to: something else may cover it. True where the kernel does not tell
// (before Linux 5.8).
func visible(m hierarchy.Mount) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, m.Point, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	return err == nil && (st.Mask&unix.STATX_MNT_ID == 0 || st.Mnt_id == uint64(m.ID))
}

// partsOf is a view as the hierarchies that it shows.
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
		if e.IsDir { // the links name the same
			parts = append(parts, m.Part(filepath.Join(m.Point, e.Name), e.Name))
		}
	}
	return parts, nil
}

// checkView says whether paths in a hierarchy that is a view mean what /proc/<pid>/cgroup says: that counts from the root of the cgroup
// namespace, which is the boundary in a guest that was made with one.
func (hier *Hierarchy) checkView() error {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	at, ok := hier.pathIn(raw)
	if ok && hier.Exists(at) {
		return nil
	}
	return fmt.Errorf("this guest is in the cgroup %q there, which its view does not have: it was made without a cgroup namespace "+
		"of its own; give it one (a namespace of type cgroup in its configuration)", at)
}

// attrName is the full name of an extended attribute in which a view keeps what it must know of a cgroup. Nobody but the server may
// be able to set those, so they are trusted ones; but these take CAP_SYS_ADMIN over the whole host (xattr_permission), which a guest's
// root does not have. A view that stands on another uses user ones: the outer view keeps them in trusted ones of the real cgroup.
func (hier *Hierarchy) attrName(name string) string {
	if hier.View {
		return "user.vcgroupfs." + name
	}
	return "trusted.vcgroupfs." + name
}
