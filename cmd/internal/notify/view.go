package notify

import (
	"encoding/binary"
	"errors"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Part is one hierarchy of a view.
type Part struct {
	hierarchy.Hierarchy
	Boundary string // the path of the guest's boundary, from the root that the hierarchy has for this process
}

// View is a Guest that has a view. The view is mounted in a mount namespace that holds nothing else: so this process can make mounts of
// it whatever the guest does with its own, and before Linux 6.15 a mount that is attached nowhere cannot be copied.
type View struct {
	Root    int    // the view's root, O_PATH
	Mounts  int    // the mount namespace that it is mounted in; -1: this process's own
	Device  uint64 // of the view, as unix.Mkdev has it
	Several bool   // its top holds a directory for each hierarchy
	Parts   []Part
}

// TypeAttrs are the extended attributes by which a view tells a node's type, 4 bytes, little-endian: everybody may ask for the first.
var TypeAttrs = []string{"system.vcgroupfs.type", "trusted.vcgroupfs.type"}

// DeviceOf is the file system that a descriptor leads to. Its server is not asked.
func DeviceOf(fd int) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return 0, err
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), nil
}

// Type asks the view.
func (v *View) Type(fd int) uint32 {
	if device, err := DeviceOf(fd); err != nil || device != v.Device {
		return 0
	}
	return AskType(fd)
}

// AskType asks a view for the type of one of its nodes; 0 where it does not tell.
func AskType(fd int) uint32 {
	b := make([]byte, 4)
	for _, name := range TypeAttrs {
		// getxattr takes no O_PATH descriptor but by its link.
		if n, err := getxattr("/proc/self/fd/"+strconv.Itoa(fd), name, b); err == nil && n == len(b) {
			return binary.LittleEndian.Uint32(b)
		}
	}
	return 0
}

// Tree makes a mount of the caller's part of the view.
func (v *View) Tree(c *Caller, fstype, options string) (mount int, err error) {
	part, err := v.choose(fstype, options, c.Rights())
	if err != nil {
		return -1, err
	}
	below, err := c.Below(part)
	if err != nil {
		return -1, err
	}
	if v.Several {
		below = path.Join(part.Dir, below)
	}
	err = host.OnThread(func() error {
		if v.Mounts >= 0 {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Setns(v.Mounts, unix.CLONE_NEWNS); err != nil {
				return err
			}
		}
		mount, err = CloneBelow(v.Root, below)
		return err
	})
	if err != nil {
		return -1, err
	}
	return mount, nil
}

func (v *View) choose(fstype, options string, r Rights) (Part, error) {
	var has []hierarchy.Hierarchy
	for _, p := range v.Parts {
		has = append(has, p.Hierarchy)
	}
	h, err := Choose(fstype, options, has, r)
	if err != nil {
		return Part{}, err
	}
	for _, p := range v.Parts {
		if p.String() == h.String() {
			return p, nil
		}
	}
	return Part{}, unix.ENODEV
}

// CloneBelow makes a mount, attached nowhere, of a directory at or below one that is mounted in the thread's mount namespace. No link and
// no other mount leads anywhere else.
func CloneBelow(root int, below string) (int, error) {
	const how = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	if below = strings.Trim(below, "/"); below == "" {
		below = "."
	}
	dir, err := unix.Openat2(root, below, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: how})
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return unix.OpenTree(dir, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}

// Rights are the caller's. The host is the user namespace of this process.
func (c *Caller) Rights() Rights {
	return Rights{HostRoot: host.HasHostAdmin(int(c.Tid)), Cgroups: c.admin("ns/cgroup")}
}

// Below is where the root of the caller's cgroup namespace is in a hierarchy, as a path from the boundary of a view. A namespace that begins
// at the boundary or above shows all of the view. EPERM for one that begins elsewhere.
func (c *Caller) Below(p Part) (string, error) {
	ns, err := host.CgroupNamespaceOfThread(int(c.Tid))
	if errors.Is(err, host.ErrOwnNamespace) {
		return "/", nil
	}
	if err != nil {
		return "", err
	}
	root, err := ns.Root(p.Hierarchy)
	if err != nil {
		return "", unix.EPERM // it was moved out of its namespace
	}
	if !c.Waits() {
		return "", unix.ESRCH
	}
	return belowBoundary(root, p.Boundary)
}

func belowBoundary(root, boundary string) (string, error) {
	root, boundary = path.Clean("/"+root), path.Clean("/"+boundary)
	if isBelow(boundary, root) {
		return "/", nil
	}
	if !isBelow(root, boundary) {
		return "", unix.EPERM
	}
	below := path.Clean("/" + strings.TrimPrefix(root, boundary))
	// The leaf shows what the boundary does, and is the boundary to the guest.
	if leaf := "/" + hierarchy.LeafName; below == leaf || strings.HasPrefix(below, leaf+"/") {
		below = path.Clean("/" + strings.TrimPrefix(below, leaf))
	}
	return below, nil
}

// isBelow says whether a clean path is another one or below it.
func isBelow(at, above string) bool {
	return above == "/" || at == above || strings.HasPrefix(at, above+"/")
}
