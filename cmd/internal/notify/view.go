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
	Host     hierarchy.Hierarchy // the host's: itself, or the v2 hierarchy that it stands for
	Boundary string              // path of the guest's boundary, from the hierarchy's root as this process sees it
}

// translated reports that the hierarchy stands for the host's v2 hierarchy. Not all cgroups of the host are directories
// of it.
func (p Part) translated() bool { return p.Version != p.Host.Version }

// View is a Guest with a view. The view is mounted in a mount namespace with nothing else: so this process can make
// mounts of it whatever the guest does with its own mounts. Before Linux 6.15 a detached mount cannot be copied.
type View struct {
	Root    int    // the view's root, O_PATH
	Mounts  int    // its mount namespace; -1: this process's own
	Device  uint64 // of the view, as by unix.Mkdev
	Several bool   // the top holds a directory for each hierarchy
	Parts   []Part
}

// TypeAttrs are the extended attributes with a node's type in a view, 4 bytes, little-endian. Any user may read the
// first.
var TypeAttrs = []string{"system.vcgroupfs.type", "trusted.vcgroupfs.type"}

// DeviceOf returns the device of a descriptor's file system. It sends no request to the file system's server. The error
// is the errno of statx.
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

// AskType asks a view for the type of one of its nodes; 0 if the view does not tell.
func AskType(fd int) uint32 {
	b := make([]byte, 4)
	for _, name := range TypeAttrs {
		// getxattr takes an O_PATH descriptor only by its link in /proc.
		if n, err := getxattr("/proc/self/fd/"+strconv.Itoa(fd), name, b); err == nil && n == len(b) {
			return binary.LittleEndian.Uint32(b)
		}
	}
	return 0
}

// Tree makes a mount of the caller's part of the view. The error is the kernel's errno.
func (v *View) Tree(c *Caller, fstype, options string) (mount int, err error) {
	part, err := v.choose(fstype, options, c.Rights())
	if err != nil {
		return -1, err
	}
	below, err := c.Below(part)
	if err == nil {
		below, err = v.within(part, below)
	}
	if err != nil {
		return -1, err
	}
	below = v.pathOf(part, below)
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

// CloneBelow makes a detached mount of a directory at or below root, which is mounted in the thread's mount namespace.
// It follows no link and crosses no mount. The error is the kernel's errno.
func CloneBelow(root int, below string) (int, error) {
	dir, err := openBelow(root, below)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return unix.OpenTree(dir, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}

// openBelow opens a directory at or below root, O_PATH. It follows no link and crosses no mount.
func openBelow(root int, below string) (dir int, err error) {
	const how = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	if below = strings.Trim(below, "/"); below == "" {
		below = "."
	}
	return unix.Openat2(root, below,
		&unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: how})
}

// pathOf returns the path in the view of a directory of a part.
func (v *View) pathOf(p Part, below string) string {
	if v.Several {
		return path.Join(p.Dir, below)
	}
	return below
}

// within returns the deepest directory of a part at or above a cgroup of the host, given as a path from the boundary.
// It looks in the view, which hides the cgroups that are not in the hierarchy.
func (v *View) within(p Part, below string) (string, error) {
	if !p.translated() {
		return below, nil
	}
	for below != "/" {
		fd, err := openBelow(v.Root, v.pathOf(p, below))
		switch {
		case err == nil:
			unix.Close(fd)
			return below, nil
		case errors.Is(err, unix.ENOENT):
			below = path.Dir(below)
		case !errors.Is(err, unix.EINTR):
			return "", err
		}
	}
	return below, nil
}

// Rights returns the caller's rights. The host is this process's user namespace.
func (c *Caller) Rights() Rights {
	return Rights{HostRoot: host.HasHostAdmin(int(c.Tid)), Cgroups: c.admin("ns/cgroup")}
}

// Below returns the root of the caller's cgroup namespace in a hierarchy, as a path from the view's boundary. A
// namespace rooted at the boundary or above shows the whole view. EPERM for one rooted elsewhere.
func (c *Caller) Below(p Part) (string, error) {
	ns, err := c.cgroups()
	if err != nil {
		return "", err
	}
	return c.belowIn(ns, p)
}

// cgroups returns the caller's cgroup namespace; nil for this process's own.
func (c *Caller) cgroups() (*host.CgroupNamespace, error) {
	ns, err := host.CgroupNamespaceOfThread(int(c.Tid))
	if errors.Is(err, host.ErrOwnNamespace) {
		return nil, nil
	}
	return ns, err
}

// belowIn returns the root of a cgroup namespace of the caller's.
func (c *Caller) belowIn(ns *host.CgroupNamespace, p Part) (string, error) {
	if ns == nil {
		return "/", nil
	}
	root, err := ns.Root(p.Host)
	if err != nil {
		// The caller was moved out of its namespace.
		return "", unix.EPERM
	}
	if !c.Waits() {
		return "", unix.ESRCH
	}
	return p.belowBoundary(root)
}

func (p Part) belowBoundary(root string) (string, error) {
	root, boundary := path.Clean("/"+root), path.Clean("/"+p.Boundary)
	if isBelow(boundary, root) {
		return "/", nil
	}
	if !isBelow(root, boundary) {
		return "", unix.EPERM
	}
	return p.visible(strings.TrimPrefix(root, boundary)), nil
}

// visible returns the directory that a guest sees of a cgroup, given as a path from the boundary. The boundary's leaf
// shows the boundary's content, and is the boundary to the guest. Where the hierarchy stands for v2, every cgroup may
// have a leaf.
func (p Part) visible(below string) string {
	below = path.Clean("/" + below)
	leaf := "/" + hierarchy.LeafName
	if p.translated() {
		above, _, _ := strings.Cut(below+"/", leaf+"/")
		return path.Clean("/" + above)
	}
	if p.Version == hierarchy.V2 && isBelow(below, leaf) {
		below = path.Clean("/" + strings.TrimPrefix(below, leaf))
	}
	return below
}

// isBelow reports that a clean path equals another one or lies below it.
func isBelow(at, above string) bool {
	return above == "/" || at == above || strings.HasPrefix(at, above+"/")
}
