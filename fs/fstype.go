package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Types is the file-system type (f_type of statfs) of each node of a view, as the kernel's own mounts have it there. The
// index is the hierarchy number of the node's id: id>>TypeShift, which is 0 for node 1.
type Types [1 << (64 - TypeShift)]uint32

// TypeShift takes a node id to its index in Types.
const TypeShift = hierarchyShift

// The extended attributes by which is asked what Types says of a node: 4 bytes, little-endian. They are listed nowhere, and tell a guest
// nothing that its path does not. The kernel lets the first through for the host's root alone, the second for everybody
// (xattr_permission, fs/xattr.c): a guest that answers its own programs' statfs asks, too.
const (
	typeAttr     = "trusted.vcgroupfs.type"
	openTypeAttr = "system.vcgroupfs.type"
)

// Types says which type each node of the view has on a host: cgroup2's in a v2 hierarchy, cgroup's in a v1 hierarchy, and tmpfs's at the
// top of a view with several hierarchies, where hosts have a tmpfs.
func (v *View) Types() (all Types) {
	all[0] = unix.TMPFS_MAGIC
	if v.layout == hierarchy.LayoutV2 {
		all[0] = typeOf(v.hierarchies[0])
	}
	for i, hier := range v.hierarchies {
		all[i+1] = typeOf(hier)
	}
	return all
}

func typeOf(hier *viewHierarchy) uint32 {
	if hier.v2() {
		return unix.CGROUP2_SUPER_MAGIC
	}
	return unix.CGROUP_SUPER_MAGIC
}

// Cgroup is the id of the boundary in the v2 hierarchy, 0 where the view has none.
func (v *View) Cgroup() uint64 {
	for _, hier := range v.hierarchies {
		if hier.v2() {
			return hier.boundary.ID()
		}
	}
	return 0
}

// getType answers typeAttr and openTypeAttr. ERANGE where dest is too small; with no room at all the size is asked for.
func (v *View) getType(node uint64, dest []byte) (uint32, fuse.Status) {
	const size = 4
	if len(dest) < size {
		return size, fuse.ERANGE
	}
	binary.LittleEndian.PutUint32(dest, v.Types()[node>>TypeShift])
	return size, fuse.OK
}
