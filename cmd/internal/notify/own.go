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

// Own is the guest that this process is in, with what it can see and do itself. Its views are those that root has mounted and the mount
// table calls so. Root in the guest can make a file system that claims to be one, and lies to this guest alone, which asks nobody else.
type Own struct {
	mu    sync.Mutex
	known map[uint64]kind // guarded by mu; file systems by device
}

// kind is what the mount table says of a file system.
type kind struct {
	fstype string // "" for no view
	at     time.Time
}

// Bounds of what is remembered of file systems: a number may be another's later.
const (
	maxKnown  = 256
	knownTime = time.Second
)

// Type asks the view. One that does not tell, of an older server, is known by the mount table where it has one hierarchy.
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

// fstype is the type of a view's mounts by its device, "" for what is none.
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
		rooted := slices.Contains(strings.Split(m.VFSOptions, ","), "user_id=0") // anybody may mount one with fusermount
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

// Tree makes a mount of the caller's part of the view at /sys/fs/cgroup, with the rights that this process has.
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
	below, err := c.Below(Part{Hierarchy: found, Boundary: "/"})
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
