package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Types is the file-system type (f_type of statfs) of each node of a view on a native host. The index is the
// hierarchy number of the node id, id>>TypeShift: 0 for node 1.
type Types [1 << (64 - TypeShift)]uint32

// TypeShift maps a node id to its index in Types.
const TypeShift = hierarchyShift

// Extended attributes with the entry of a node in Types: 4 bytes, little-endian. No listing shows them, and they
// tell a guest nothing beyond its path. The kernel admits only the host's root to the first, and everybody to the
// second (xattr_permission, fs/xattr.c), which a guest needs that answers statfs for its own programs.
const (
	typeAttr     = "trusted.vcgroupfs.type"
	openTypeAttr = "system.vcgroupfs.type"
)

// Types returns the type of each node as on a host: cgroup2's in the v2 hierarchy, cgroup's in a v1 hierarchy,
// tmpfs's at the top of a view with several hierarchies.
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

// Cgroup returns the id of the boundary in the v2 hierarchy, 0 if the view has none.
func (v *View) Cgroup() uint64 {
	for _, hier := range v.hierarchies {
		if hier.v2() || hier.bridge != nil {
			return hier.boundary.ID()
		}
	}
	return 0
}

// getType answers typeAttr and openTypeAttr. ERANGE if dest is too small; an empty dest asks for the size.
func (v *View) getType(node uint64, dest []byte) (uint32, fuse.Status) {
	const size = 4
	if len(dest) < size {
		return size, fuse.ERANGE
	}
	binary.LittleEndian.PutUint32(dest, v.Types()[node>>TypeShift])
	return size, fuse.OK
}
