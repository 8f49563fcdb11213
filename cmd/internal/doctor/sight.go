package doctor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// place is where programs look for cgroups.
const place = "/sys/fs/cgroup"

// SightOf says what a process finds at /sys/fs/cgroup. The error says that there is no such process.
func SightOf(pid int) (Sight, error) {
	var mounts []*mountinfo.Info
	err := host.OnThread(func() error {
		proc := "/proc/" + strconv.Itoa(pid)
		// The roots of cgroup mounts are shown by the cgroup namespace of who reads. Where it may not be entered they are as here.
		if ns, err := unix.Open(proc+"/ns/cgroup", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Setns(ns, unix.CLONE_NEWCGROUP)
			unix.Close(ns)
		}
		var err error
		mounts, err = host.MountTable(proc+"/mountinfo", nil)
		return err
	})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "", fmt.Errorf("cannot look at process %d: no such process", pid)
	}
	if err != nil {
		return "", fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	return sightIn(mounts), nil
}

// sightIn reads a mount table. Of several mounts at one place that is on top which no other is mounted on: the table's order says
// nothing of that. A mount of the kernel's that begins above the process's cgroup namespace ("/..") is no use to those who look for one.
func sightIn(mounts []*mountinfo.Info) Sight {
	at := map[int]*mountinfo.Info{} // what is mounted at the place
	for _, m := range mounts {
		if m.Mountpoint == place {
			at[m.ID] = m
		}
	}
	covered := map[int]bool{}
	for _, m := range at {
		covered[m.Parent] = true
	}
	var top *mountinfo.Info
	for _, m := range at {
		if !covered[m.ID] {
			top = m
		}
	}
	if top == nil {
		return None
	}
	var seen []string           // types of what is mounted on the top one
	own := map[string]bool{}    // by type: it covers mounts of the process's own cgroups
	others := map[string]bool{} // by type: it covers others
	for _, m := range mounts {
		switch inside := strings.HasPrefix(m.Mountpoint, place+"/"); {
		case inside && m.Parent == top.ID:
			seen = append(seen, m.FSType)
		case m != top && (inside || m.Mountpoint == place) && strings.HasPrefix(m.Root, "/.."):
			others[m.FSType] = true
		case m != top && (inside || m.Mountpoint == place):
			own[m.FSType] = true
		}
	}
	stacked := func(kind string, yes, no Sight) Sight {
		if own[kind] && !others[kind] {
			return yes
		}
		return no
	}
	switch {
	case top.FSType == "cgroup2":
		return V2
	case top.FSType == "tmpfs" && slices.Contains(seen, "fuse.cgroup"):
		return stacked("cgroup", StackedTmpfs, Tmpfs)
	case top.FSType == "tmpfs" && slices.Contains(seen, "cgroup"):
		return V1
	case top.FSType == "fuse.cgroup2":
		return stacked("cgroup2", Stacked, View)
	case top.FSType == "fuse.cgroup":
		return stacked("cgroup", StackedDirs, Dirs)
	}
	return None
}
