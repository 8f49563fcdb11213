package doctor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// place is where programs look for cgroups.
const place = "/sys/fs/cgroup"

// SightOf says what a process finds at /sys/fs/cgroup. The error says that there is no such process.
func SightOf(pid int) (Sight, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "", fmt.Errorf("cannot look at process %d: no such process", pid)
	}
	if err != nil {
		return "", fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	return sightIn(string(raw)), nil
}

// sightIn reads a mountinfo. Of several mounts at one place the last is on top: the file is in the order of their making, but for
// mounts that were made beneath others, which go before nobody sees them.
func sightIn(mountinfo string) Sight {
	var at, below []string // types of what is mounted there, and below
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, of := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(of) < 1 {
			continue
		}
		switch {
		case fields[4] == place:
			at = append(at, of[0])
			below = nil // covered
		case strings.HasPrefix(fields[4], place+"/"):
			below = append(below, of[0])
		}
	}
	if len(at) == 0 {
		return None
	}
	under := at[:len(at)-1]
	switch top := at[len(at)-1]; {
	case top == "cgroup2":
		return V2
	case top == "tmpfs" && slices.Contains(below, "fuse.cgroup"):
		return Tmpfs
	case top == "tmpfs" && slices.Contains(below, "cgroup"):
		return V1
	case top == "fuse.cgroup2" && slices.Contains(under, "cgroup2"):
		return Stacked
	case top == "fuse.cgroup2":
		return View
	case top == "fuse.cgroup":
		return Dirs
	}
	return None
}
