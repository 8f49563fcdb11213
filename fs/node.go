package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// A node id, from the top bit down: 6 bits hierarchy (1 and up), 10 bits control file (0: the directory itself), 6
// bits life (life.go), 42 bits kernfs id of the directory: 32 bits inode number and 10 bits generation, which grows
// each time that the numbers are used up. Node 1, fixed by FUSE, is the top. The id of a control file contains its
// directory's kernfs id rather than its own: open_by_handle_at of a file without a dentry returns a descriptor that
// knows neither name nor parent, and the verdict needs both.
const (
	hierarchyShift = 58
	fileShift      = 48
	lifeBits       = 6
	lifeShift      = fileShift - lifeBits
	lives          = 1 << lifeBits
	dirMask        = 1<<lifeShift - 1
	fileMask       = 1<<(hierarchyShift-fileShift) - 1

	maxHierarchies = 62
	linkHierarchy  = 63 // hierarchy number of the symbolic links at the top
)

// node is a decoded node id.
type node struct {
	top  bool
	link int            // 1 and up: number of a symbolic link at the top
	hier *viewHierarchy // of a directory or file
	dir  uint64         // kernfs id of the directory, or of the file's directory
	file string         // "" for a directory
	life uint64         // of a file; of a directory and of each file in it, where the directory is a bridge's
}

// node decodes a node id. ESTALE for one that no server gave out.
func (v *View) node(id uint64) (node, fuse.Status) {
	if id == fuse.FUSE_ROOT_ID {
		if v.layout == hierarchy.LayoutV2 {
			return node{hier: v.hierarchies[0], dir: v.hierarchies[0].boundary.ID()}, fuse.OK
		}
		return node{top: true}, fuse.OK
	}
	t := id >> hierarchyShift
	if t == linkHierarchy {
		n := int(id & dirMask)
		if n < 1 || n > len(v.links) {
			return node{}, fuse.Status(unix.ESTALE)
		}
		return node{link: n}, fuse.OK
	}
	if t < 1 || t > uint64(len(v.hierarchies)) {
		return node{}, fuse.Status(unix.ESTALE)
	}
	n := node{hier: v.hierarchies[t-1], dir: id & dirMask}
	if n.hier.bridge != nil {
		n.life = id >> lifeShift & (lives - 1)
	}
	if f := id >> fileShift & fileMask; f != 0 {
		name, ok := v.names.Name(f)
		if !ok {
			return node{}, fuse.Status(unix.ESTALE)
		}
		n.file, n.life = name, id>>lifeShift&(lives-1)
	}
	return n, fuse.OK
}

// dirNode returns the node id of a directory.
func (v *View) dirNode(hier *viewHierarchy, dir uint64) uint64 {
	if v.layout == hierarchy.LayoutV2 && dir == hier.boundary.ID() {
		return fuse.FUSE_ROOT_ID
	}
	return uint64(hier.index+1)<<hierarchyShift | dir
}

// lifeNode returns the node id of a directory of a bridge in one of its lives.
func (v *View) lifeNode(hier *viewHierarchy, dir, life uint64) uint64 {
	return v.dirNode(hier, dir) | life<<lifeShift
}

// fileNode returns the node id of a control file in one of its lives; 0 if the name table is full.
func (v *View) fileNode(hier *viewHierarchy, dir uint64, name string, life uint64) uint64 {
	n := v.names.NameNumber(name)
	if n == 0 || dir > dirMask {
		return 0
	}
	return uint64(hier.index+1)<<hierarchyShift | n<<fileShift | life<<lifeShift | dir
}

func linkNode(n int) uint64 { return linkHierarchy<<hierarchyShift | uint64(n) }

// place returns the place of a directory. The leaf, by the path in /proc/self/cgroup, is the boundary too.
func (hier *viewHierarchy) place(dir uint64) hierarchy.Place {
	if hier.isRoot(dir) {
		return hierarchy.Boundary
	}
	return hierarchy.Below
}

// acquire opens the directory of a node. The leaf's content is the boundary's.
func (hier *viewHierarchy) acquire(dir uint64) (*host.Dir, error) {
	if hier.isRoot(dir) {
		dir = hier.boundary.ID()
	}
	return hier.boundary.Acquire(dir)
}

// acquire opens the directory of a node. ENOENT if it is gone, from its hierarchy alone where that is a bridge's, too.
func (n node) acquire() (*host.Dir, error) {
	d, err := n.hier.acquire(n.dir)
	if err != nil || !n.hier.translates(n.file) {
		return d, err
	}
	if now, there := n.hier.lifeOf(d, n.file); !there || now != n.life {
		d.Release()
		return nil, unix.ENOENT
	}
	return d, nil
}

func (h *handle) acquire() (*host.Dir, error) { return h.node().acquire() }

// node is what the open is of.
func (h *handle) node() node { return node{hier: h.hier, dir: h.dir, file: h.file, life: h.life} }

// decide returns the policy's decision on a control file in a directory.
func (v *View) decide(hier *viewHierarchy, dir uint64, file string) policy.Decision {
	if hier.translates(file) {
		return v.decideBridged(hier, dir, file)
	}
	return v.policy.Decide(policy.Request{Version: hier.version, File: file, Place: hier.place(dir)})
}
