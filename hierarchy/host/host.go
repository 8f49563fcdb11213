// Package host is all access to the host: its hierarchies, the cgroups below a boundary, tasks and their pid
// namespaces, and events of the host.
//
// # Words
//
// A Host is the result of opening the host's cgroups. A Hierarchy is one hierarchy of it, addressed by paths from
// its root, to set up a guest. A view works in a Boundary: it and a Dir, one cgroup at or below it, are descriptors.
// A path is text for messages and comparisons, never authority.
//
// # What always holds
//
// Every access of a Boundary and its Dirs is by descriptor and of a single name, or by openat2 with RESOLVE_BENEATH,
// RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS and RESOLVE_NO_XDEV (openBelow). A cgroup found by its kernfs id is
// opened again by such a path from the boundary before any use. The package never mounts anything.
//
// Locks: pidNamespaces.mu, Boundary.mu, watchHub.mu, polling.mu and Poller.mu are leaves: none is held while another
// is taken. Watcher.mu is taken before watchHub.mu. None is held across a call that can block, or while a sink runs;
// a sink runs under Watcher.telling, which is taken when no other is held.
package host

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Features are the capabilities of the host's kernel.
type Features struct {
	Handles    bool // open_by_handle_at on cgroupfs: needs CAP_DAC_READ_SEARCH over the host
	PidnsIoctl bool // translation of pids by ioctl (Linux 6.11)
}

// Host is the host's cgroups at the time of Open. It may be used by many goroutines.
type Host struct {
	hierarchies []*Hierarchy
	features    Features
	listed      []byte // immutable: /proc/cgroups
	pidns       pidNamespaces
	watches     watchHub
	polling     polling

	maxDirs  atomic.Int64 // bound of the directories that all Boundaries keep open, 0 for none
	openDirs atomic.Int64 // their number
}

// SetMaxDirs bounds the unused directories that all Boundaries of the host keep open: beyond it each keeps one.
// Directories are opened again when they are needed.
func (h *Host) SetMaxDirs(n int) { h.maxDirs.Store(int64(n)) }

// crowded reports more open directories than the bound.
func (h *Host) crowded() bool {
	most := h.maxDirs.Load()
	return most > 0 && h.openDirs.Load() > most
}

// Open finds the host's hierarchies. The error names the cause: no cgroup file system is mounted as a whole, a mount
// differs from the mount table, or the kernel is older than Linux 5.6 (openat2).
func Open() (*Host, error) {
	found, err := discover()
	if err != nil {
		return nil, err
	}
	h := &Host{}
	for _, x := range found {
		hier, err := openHierarchy(h, x)
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("cannot open the hierarchy %s at %s: %w", x, x.Mountpoint, err)
		}
		h.hierarchies = append(h.hierarchies, hier)
	}
	if len(h.hierarchies) == 0 {
		return nil, errors.New("cannot find a cgroup hierarchy: mount cgroup2 at /sys/fs/cgroup, " +
			"or run this outside a container; a guest " +
			"of vcgroupfs needs its view at " + viewMountpoint)
	}
	h.probe()
	return h, nil
}

// discover reads mounts and hierarchies from the kernel.
func discover() ([]hierarchy.Hierarchy, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	mounts, err := hierarchy.ParseMounts(table)
	if err != nil {
		return nil, fmt.Errorf("cannot read /proc/self/mountinfo: %w", err)
	}
	if mounts, err = choose(mounts); err != nil {
		return nil, err
	}
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	unified := ""
	for _, m := range mounts {
		if m.Version == hierarchy.V2 && m.Whole {
			raw, err := os.ReadFile(m.Point + "/cgroup.controllers")
			if err != nil {
				return nil, err
			}
			unified = string(raw)
			break
		}
	}
	return hierarchy.Assemble(mounts, cgroups, unified), nil
}

// probe tests the kernel's features.
func (h *Host) probe() {
	h.listed, _ = os.ReadFile("/proc/cgroups")
	h.features.Handles = true
	for _, hier := range h.hierarchies {
		if !hier.handlesWork() {
			h.features.Handles = false
		}
	}
	if fd, err := unix.Open("/proc/self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		_, errno := pidnsIoctl(uintptr(fd), unix.NS_GET_TGID_IN_PIDNS, os.Getpid())
		h.features.PidnsIoctl = errno == 0
		unix.Close(fd)
	}
	h.pidns.scan = !h.features.PidnsIoctl
}

// Features reports which optional features of cgroups and pids work here.
func (h *Host) Features() Features { return h.features }

// Knows reports that the kernel has a controller of v2, in any hierarchy. cgroup.subtree_control knows no controller
// that the kernel was built or started without. In a guest /proc/cgroups may be filtered, so Knows asks the view of
// v2: disabling an absent controller has no effect, and is EINVAL only for one that the kernel lacks. True if
// neither source knows.
func (h *Host) Knows(controller string) bool {
	if h.Hierarchy(controller) != nil {
		return true
	}
	if slices.ContainsFunc(h.hierarchies, func(hier *Hierarchy) bool { return hier.View }) {
		unified := h.Hierarchy(hierarchy.Unified)
		if unified == nil || !unified.View {
			return true
		}
		err := unified.WriteFile("/", "cgroup.subtree_control", "-"+controller)
		return !errors.Is(err, unix.EINVAL)
	}
	if len(h.listed) == 0 {
		return true
	}
	for line := range strings.Lines(string(h.listed)) {
		// The fields: name, hierarchy, number of cgroups, enabled.
		f := strings.Fields(line)
		if len(f) == 4 && f[3] == "1" && slices.Contains(hierarchy.LegacyNames(controller), f[0]) {
			return true
		}
	}
	return false
}

// Hierarchies lists the hierarchies, v1 before v2.
func (h *Host) Hierarchies() []*Hierarchy { return h.hierarchies }

// Hierarchy finds a hierarchy by one of its controllers, as "name=systemd" for a named one, or as "unified" for v2.
// Nil if the host has no such hierarchy.
func (h *Host) Hierarchy(name string) *Hierarchy {
	for _, hier := range h.hierarchies {
		if hier.Holds(name) {
			return hier
		}
	}
	return nil
}

// Close closes the descriptors of the host, and ends the reports of its Watchers and its Poller. Boundaries are
// closed separately.
func (h *Host) Close() error {
	h.watches.close()
	h.polling.close()
	h.pidns.close()
	for _, hier := range h.hierarchies {
		hier.close()
	}
	return nil
}
