package run

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// kernelMount is a mount of the kernel's cgroups that "run" makes below its view, as a runtime would.
type kernelMount struct {
	Dir     string // directory of the view; "" for the view itself
	Type    string
	Options string
}

// kernelMounts returns those mounts for the hierarchies of a view; nil in a guest, whose hierarchies are views
// themselves.
func kernelMounts(shown []*host.Hierarchy, layout hierarchy.Layout) (all []kernelMount) {
	for _, t := range shown {
		m := kernelMount{Dir: t.Dir, Type: "cgroup2"}
		switch {
		case t.View || layout.Translates(t.Hierarchy):
			return nil
		case layout == hierarchy.LayoutV2 && t.Version == hierarchy.V1:
			continue
		case layout == hierarchy.LayoutV2:
			m.Dir = ""
		case t.Version == hierarchy.V1:
			m.Type = "cgroup"
			if m.Options = strings.Join(t.Controllers, ","); t.Name != "" {
				m.Options = strings.Join(append(slices.Clone(t.Controllers), "name="+t.Name), ",")
			}
			if len(t.Controllers) == 0 {
				m.Options = "none," + m.Options
			}
		}
		all = append(all, m)
	}
	return all
}

// mountBelow makes the mounts, read-only, with the root of this process's cgroup namespace as their root. In the host's
// namespace a mount of cgroup2 without nsdelegate would remove the option for the whole host (apply_cgroup_root_flags
// in kernel/cgroup/cgroup.c). If one fails it makes none: they are a convenience for programs that read mountinfo.
func mountBelow(all []kernelMount) {
	if len(all) == 0 {
		return
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// Mounts at the place.
	made := 0
	undo := func() {
		for ; made > 0; made-- {
			_ = unix.Unmount(viewPath, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	if all[0].Dir != "" {
		if unix.Mount("tmpfs", viewPath, "tmpfs", flags, "mode=755,size=64k") != nil {
			return
		}
		made++
	}
	for _, m := range all {
		at := filepath.Join(viewPath, m.Dir)
		var err error
		if m.Dir != "" {
			err = os.Mkdir(at, 0o755)
		}
		if err == nil {
			err = unix.Mount(m.Type, at, m.Type, flags, m.Options)
		}
		if err == nil && m.Dir == "" {
			made++
		}
		if err == nil {
			// This makes the mount read-only, not the file system, which is the host's, too.
			err = unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|flags, "")
		}
		if err != nil {
			undo()
			return
		}
	}
}
