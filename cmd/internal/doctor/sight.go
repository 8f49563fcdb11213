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
)

// place is where programs look for cgroups.
const place = "/sys/fs/cgroup"

// SightOf says what a process finds at /sys/fs/cgroup. The error says that there is no such process.
func SightOf(pid int) (Sight, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	var mounts []*mountinfo.Info
	if err == nil {
		defer f.Close()
		mounts, err = mountinfo.GetMountsFromReader(f, nil)
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "", fmt.Errorf("cannot look at process %d: no such process", pid)
	}
	if err != nil {
		return "", fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	return sightIn(mounts), nil
}

// sightIn reads a mount table. Of several mounts at one place the last is on top: the table is in the order of their making, but for
// mounts that were made beneath others, which go before nobody sees them.
func sightIn(mounts []*mountinfo.Info) Sight {
	var at, below []string // types of what is mounted there, and below
	var v1Covered bool     // mounts of v1 hierarchies are under a later mount
	for _, m := range mounts {
		switch {
		case m.Mountpoint == place:
			at = append(at, m.FSType)
			v1Covered = v1Covered || slices.Contains(below, "cgroup")
			below = nil
		case strings.HasPrefix(m.Mountpoint, place+"/"):
			below = append(below, m.FSType)
		}
	}
	if len(at) == 0 {
		return None
	}
	under := at[:len(at)-1]
	switch top := at[len(at)-1]; {
	case top == "cgroup2":
		return V2
	case top == "tmpfs" && slices.Contains(below, "fuse.cgroup") && v1Covered:
		return StackedTmpfs
	case top == "tmpfs" && slices.Contains(below, "fuse.cgroup"):
		return Tmpfs
	case top == "tmpfs" && slices.Contains(below, "cgroup"):
		return V1
	case top == "fuse.cgroup2" && slices.Contains(under, "cgroup2"):
		return Stacked
	case top == "fuse.cgroup2":
		return View
	case top == "fuse.cgroup" && v1Covered:
		return StackedDirs
	case top == "fuse.cgroup":
		return Dirs
	}
	return None
}
