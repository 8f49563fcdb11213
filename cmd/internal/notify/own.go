package notify

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Own is the guest of this process, with the process's own sight and rights. Its views are those mounted by root and
// typed as views in the mount table. Root in the guest can fake a view, but deceives this guest alone, the only one to
// ask.
type Own struct {
	mu    sync.Mutex
	known map[uint64]kind // guarded by mu; by device
}

// kind is the mount table's entry for a file system.
type kind struct {
	fstype string // "" for no view
	at     time.Time
}

// Bounds of the cache of file systems: a device number may be reused.
const (
	maxKnown  = 256
	knownTime = time.Second
)

// Type asks the view. The mount table answers for the view of an older server with one hierarchy, which does not tell
// its type.
func (o *Own) Type(fd int) uint32 {
	device, err := DeviceOf(fd)
	if err != nil {
		return 0
	}
	fstype := o.fstype(device)
	if fstype == "" {
		return 0
	}
	if t := AskType(fd); t != 0 || fstype == "fuse.cgroup" {
		return t
	}
	return unix.CGROUP2_SUPER_MAGIC
}

// fstype returns the type of a view's mounts by its device, "" for anything but a view.
func (o *Own) fstype(device uint64) string {
	o.mu.Lock()
	k, ok := o.known[device]
	o.mu.Unlock()
	if ok && time.Since(k.at) < knownTime {
		return k.fstype
	}
	k = kind{fstype: viewType(device), at: time.Now()}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil || len(o.known) >= maxKnown {
		o.known = map[uint64]kind{}
	}
	o.known[device] = k
	return k.fstype
}

// viewType looks a device up in the mount table.
func viewType(device uint64) (fstype string) {
	_, err := host.MountTable(host.OwnMounts, func(m *mountinfo.Info) (skip, stop bool) {
		if unix.Mkdev(uint32(m.Major), uint32(m.Minor)) != device {
			return true, false
		}
		// Any user may mount one with fusermount.
		rooted := slices.Contains(strings.Split(m.VFSOptions, ","), "user_id=0")
		if rooted && (m.FSType == "fuse.cgroup" || m.FSType == "fuse.cgroup2") {
			fstype = m.FSType
		}
		return true, true
	})
	if err != nil {
		return ""
	}
	return fstype
}

// Tree makes a mount of the caller's part of the view at /sys/fs/cgroup, with this process's rights. The error is the
// kernel's errno, or ErrPassOn without a view there.
func (o *Own) Tree(c *Caller, fstype, options string) (mount int, err error) {
	h, err := host.Open()
	if err != nil {
		return -1, ErrPassOn
	}
	defer h.Close()
	var has []hierarchy.Hierarchy
	for _, t := range h.Hierarchies() {
		switch {
		case !t.View:
		case t.Version == hierarchy.V2:
			has = append(has, Legacy(t.Hierarchy, KernelHas, func(string) bool { return true }))
		default:
			has = append(has, t.Hierarchy)
		}
	}
	if len(has) == 0 {
		return -1, ErrPassOn
	}
	found, err := Choose(fstype, options, has, Rights{Cgroups: c.admin("ns/cgroup")})
	if err != nil {
		return -1, err
	}
	below, err := c.Below(Part{Hierarchy: found, Host: found, Boundary: "/"})
	if err != nil {
		return -1, err
	}
	root, err := unix.Open(found.Mountpoint, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return CloneBelow(root, below)
}
