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

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// place is the path at which programs look for cgroups.
const place = "/sys/fs/cgroup"

// SightOf finds a process's sight at /sys/fs/cgroup. The error reports a process that does not exist.
func SightOf(pid int) (Sight, error) {
	var mounts []*mountinfo.Info
	err := host.OnThread(func() error {
		proc := "/proc/" + strconv.Itoa(pid)
		// The kernel shows the roots of cgroup mounts relative to the reader's cgroup namespace. Without permission to enter
		// the process's namespace they are relative to this process's.
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
	lines, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	return besideV1(sightIn(mounts), string(lines)), nil
}

// besideV1 returns the sight of a process whose /proc/PID/cgroup may have lines of v1 hierarchies that lend
// controllers. A host with v2 can have others beside it, such as those of a name or devices.
func besideV1(s Sight, lines string) Sight {
	lent, ok := map[Sight]Sight{View: Lent, Stacked: StackedLent}[s]
	if !ok {
		return s
	}
	for line := range strings.Lines(lines) {
		_, rest, _ := strings.Cut(line, ":")
		controllers, _, _ := strings.Cut(rest, ":")
		h := hierarchy.Hierarchy{Version: hierarchy.V1, Controllers: strings.Split(controllers, ",")}
		if len(h.Lends()) > 0 {
			return lent
		}
	}
	return s
}

// sightIn reads a mount table. The top one of several mounts at the place is the one without another mount on it; the
// table's order does not tell. A mount of the kernel's that begins above the process's cgroup namespace ("/..") is
// useless to programs that look for one.
func sightIn(mounts []*mountinfo.Info) Sight {
	// The mounts at the place.
	at := map[int]*mountinfo.Info{}
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
	// The types of the mounts on the top one.
	var seen []string
	// By type: the top one covers mounts of the process's own cgroups.
	own := map[string]bool{}
	// By type: it covers others.
	others := map[string]bool{}
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
