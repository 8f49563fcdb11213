package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Types is the file-system type (f_type of statfs) of each node of a view, as the kernel's own mounts have it there. The
// index is the tree number of the node's id: id>>TypeShift, which is 0 for node 1.
type Types [1 << (64 - TypeShift)]uint32

// TypeShift takes a node id to its index in Types.
const TypeShift = treeShift

// typeAttr is the extended attribute by which the host's own programs ask what Types says of a node: 4 bytes, little-endian. It
// is listed nowhere, and tells a guest nothing that its path does not.
const typeAttr = "trusted.vcgroupfs.type"

// Types says which type each node of the view has on a host: cgroup2's in a v2 tree, cgroup's in a v1 hierarchy, and tmpfs's at the
// top of a view with several hierarchies, where hosts have a tmpfs.
func (v *View) Types() (all Types) {
	all[0] = unix.TMPFS_MAGIC
	if v.layout == hierarchy.LayoutV2 {
		all[0] = typeOf(v.trees[0])
	}
	for i, t := range v.trees {
		all[i+1] = typeOf(t)
	}
	return all
}

func typeOf(t *tree) uint32 {
	if t.v2() {
		return unix.CGROUP2_SUPER_MAGIC
	}
	return unix.CGROUP_SUPER_MAGIC
}

// getType answers typeAttr. ERANGE where dest is too small; with no room at all the size is asked for.
func (v *View) getType(node uint64, dest []byte) (uint32, fuse.Status) {
	const size = 4
	if len(dest) < size {
		return size, fuse.ERANGE
	}
	binary.LittleEndian.PutUint32(dest, v.Types()[node>>TypeShift])
	return size, fuse.OK
}
