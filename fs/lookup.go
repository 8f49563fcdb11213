package fs

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Lookup finds a name in a directory. The kernel must not cache a miss: the host may make the name at any time.
func (r *rawFS) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.top {
		return v.lookupTop(name, out)
	}
	if n.hier == nil || n.file != "" {
		return errNotDir
	}
	if len(name) > nameMax {
		// kernfs has no longest name, and the view shows none above NAME_MAX.
		return fuse.ENOENT
	}
	d, err := n.acquire()
	if err != nil {
		return status(err)
	}
	defer d.Release()
	return v.lookup(n.hier, d, name, in.Pid, out)
}

// lookup fills in the entry of a name in a directory of a hierarchy, for the caller tid.
func (v *View) lookup(hier *viewHierarchy, d *host.Dir, name string, tid uint32, out *fuse.EntryOut) fuse.Status {
	if hier.bridge != nil {
		return v.lookupBridged(hier, d, name, tid, out)
	}
	if hier.lends(name) {
		return v.lookupFile(hier, d, name, tid, out)
	}
	var st unix.Stat_t
	if err := d.Lookup(name, &st); err != nil {
		return status(err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return v.enterDir(hier, d, name, tid, &st, out)
	case unix.S_IFREG:
		decision := v.decide(hier, d.ID(), name)
		if decision.Verdict == hierarchy.Hidden {
			return errHidden
		}
		if decision.File.Pollable {
			v.watchFileFor(hier, d, name, tid)
		}
		out.NodeId = v.fileNode(hier, d.ID(), name, v.lifeOf(hier, d.ID(), name, st.Ino))
	}
	if out.NodeId == 0 {
		return errHidden
	}
	v.watchFor(hier, d, tid)
	v.fillAttr(hier, d, name, &st, &out.Attr)
	v.cacheEntry(out)
	return fuse.OK
}

// enterDir fills in the entry of a child cgroup.
func (v *View) enterDir(
	hier *viewHierarchy, d *host.Dir, name string, tid uint32, st *unix.Stat_t, out *fuse.EntryOut,
) fuse.Status {
	child, err := hier.open(d, name, st)
	if err != nil {
		return status(err)
	}
	defer child.Release()
	// The leaf: the root under another inode number.
	if child.IsBoundary() {
		var root unix.Stat_t
		if err := child.Stat(&root); err != nil {
			return status(err)
		}
		root.Ino = st.Ino
		*st = root
	}
	return v.fillDir(hier, d, child, tid, st, out)
}

// fillDir fills in the entry of a child cgroup of d that is open.
func (v *View) fillDir(
	hier *viewHierarchy, d, child *host.Dir, tid uint32, st *unix.Stat_t, out *fuse.EntryOut,
) fuse.Status {
	if st.Ino > dirMask {
		return fuse.Status(unix.EOVERFLOW)
	}
	out.NodeId = v.dirNode(hier, st.Ino)
	v.watchFor(hier, d, tid)
	v.fillAttr(hier, child, "", st, &out.Attr)
	v.cacheEntry(out)
	return fuse.OK
}

// open opens a child cgroup, of which st is the stat. The leaf's content is the boundary's. If another cgroup has the
// name since, st is that one's.
func (hier *viewHierarchy) open(d *host.Dir, name string, st *unix.Stat_t) (*host.Dir, error) {
	if hier.isRoot(st.Ino) {
		return hier.boundary.Root()
	}
	child, err := d.Child(name, st.Ino)
	if err == nil && child.ID() != st.Ino {
		err = child.Stat(st)
	}
	return child, err
}

func (v *View) cacheEntry(out *fuse.EntryOut) {
	if !v.alone {
		out.SetEntryTimeout(cacheTimeout)
	}
	out.SetAttrTimeout(cacheTimeout)
}

// lookupTop finds a hierarchy or a link at the top of a v1 or hybrid view. The top never changes.
func (v *View) lookupTop(name string, out *fuse.EntryOut) fuse.Status {
	for _, hier := range v.hierarchies {
		if hier.name == name {
			out.NodeId = v.dirNode(hier, hier.boundary.ID())
			if st := v.attr(node{hier: hier, dir: hier.boundary.ID()}, &out.Attr); !st.Ok() {
				return st
			}
			v.cacheEntry(out)
			return fuse.OK
		}
	}
	for i, l := range v.links {
		if l.name == name {
			out.NodeId = linkNode(i + 1)
			v.fillLink(i+1, &out.Attr)
			v.cacheEntry(out)
			return fuse.OK
		}
	}
	return fuse.ENOENT
}

// Readlink reads a link at the top.
func (r *rawFS) Readlink(cancel <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	if n.link == 0 {
		return nil, fuse.EINVAL
	}
	return []byte(v.links[n.link-1].target), fuse.OK
}

// dirEntry is one line of a listing.
type dirEntry struct {
	name string
	ino  uint64
	mode uint32
	off  uint64 // position of the line in the listing
}

// ReadDir lists a directory.
func (r *rawFS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	v := r.view()
	h := v.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	return v.eachFrom(h, in.Offset, func(e dirEntry) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.mode, Off: e.off})
	})
}

// maxPlus bounds the cgroups in one answer of ReadDirPlus. Each takes some microseconds of the serving goroutine; the
// kernel asks for the rest.
const maxPlus = 128

// ReadDirPlus lists a directory, with what a lookup of each child cgroup would find: who lists cgroups enters them.
// Control files are left to lookups, because few of them are used.
func (r *rawFS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	v := r.view()
	h := v.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	var d *host.Dir
	if h.hier != nil {
		if at, err := h.acquire(); err == nil {
			defer at.Release()
			d = at
		}
	}
	found := 0
	return v.eachFrom(h, in.Offset, func(e dirEntry) bool {
		if found == maxPlus {
			return false
		}
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.mode, Off: e.off})
		if entry == nil {
			return false
		}
		if d != nil && e.mode == unix.S_IFDIR && e.name != "." && e.name != ".." {
			found++
			if !v.lookup(h.hier, d, e.name, in.Pid, entry).Ok() {
				// Removed since. Without a node id the kernel takes the name alone.
				*entry = fuse.EntryOut{}
			}
		}
		return true
	})
}

// eachFrom calls add with the entries after an offset until it returns false. They are of the listing made at offset
// 0, so a reader that pauses sees each name once.
func (v *View) eachFrom(h *handle, offset uint64, add func(dirEntry) bool) fuse.Status {
	h.mu.Lock()
	entries := h.entries
	h.mu.Unlock()
	if offset == 0 || entries == nil {
		var err error
		if entries, err = v.list(h); err != nil {
			return status(err)
		}
		h.mu.Lock()
		h.entries = entries
		h.mu.Unlock()
	}
	after, _ := slices.BinarySearchFunc(entries, offset+1, func(e dirEntry, off uint64) int {
		return cmp.Compare(e.off, off)
	})
	for _, e := range entries[after:] {
		if !add(e) {
			break
		}
	}
	return fuse.OK
}

// order sets each entry's offset and sorts by it. The offset is a hash of the name, so a reader continues at the
// right entry of a listing made by another server.
func order(entries []dirEntry) []dirEntry {
	for i := range entries {
		switch e := &entries[i]; e.name {
		case ".":
			e.off = 1
		case "..":
			e.off = 2
		default:
			h := fnv.New64a()
			h.Write([]byte(e.name))
			// Positive, and never small.
			e.off = h.Sum64()>>2 | 1<<61
		}
	}
	slices.SortFunc(entries, func(a, b dirEntry) int {
		return cmp.Or(cmp.Compare(a.off, b.off), strings.Compare(a.name, b.name))
	})
	for i := 1; i < len(entries); i++ {
		// Two names with one hash.
		if entries[i].off <= entries[i-1].off {
			entries[i].off = entries[i-1].off + 1
		}
	}
	return entries
}

// list returns the entries of a directory. A removed directory has none, as on kernfs.
func (v *View) list(h *handle) ([]dirEntry, error) {
	hier, dir := h.hier, h.dir
	if hier == nil {
		return v.listTop(), nil
	}
	d, err := h.acquire()
	if err != nil {
		return []dirEntry{}, nil
	}
	defer d.Release()
	found, err := d.ReadDir()
	if err != nil {
		return nil, err
	}
	out := make([]dirEntry, 0, len(found)+2)
	out = append(out, dirEntry{name: ".", ino: d.ID(), mode: unix.S_IFDIR},
		dirEntry{name: "..", ino: v.above(d), mode: unix.S_IFDIR})
	if hier.bridge != nil {
		return order(append(out, v.listBridged(hier, d, found)...)), nil
	}
	for _, e := range found {
		if e.IsDir {
			if len(e.Name) <= nameMax && !hier.isRoot(e.ID) && !(d.IsBoundary() && e.Name == hierarchy.LeafName) {
				out = append(out, dirEntry{name: e.Name, ino: e.ID, mode: unix.S_IFDIR})
			}
			continue
		}
		if v.decide(hier, dir, e.Name).Verdict != hierarchy.Hidden {
			out = append(out, dirEntry{name: e.Name, ino: e.ID, mode: unix.S_IFREG})
		}
	}
	if hier.lent != nil {
		out = append(out, v.listLent(hier, d)...)
	}
	return order(out), nil
}

// above returns the inode number of "..": the parent's, or the directory's own at the top.
func (v *View) above(d *host.Dir) uint64 {
	if d.IsBoundary() {
		if v.layout == hierarchy.LayoutV2 {
			return d.ID()
		}
		return fuse.FUSE_ROOT_ID
	}
	up, err := d.Parent()
	if err != nil {
		// Removal under way.
		return d.ID()
	}
	defer up.Release()
	return up.ID()
}

func (v *View) listTop() []dirEntry {
	out := []dirEntry{
		{name: ".", ino: fuse.FUSE_ROOT_ID, mode: unix.S_IFDIR},
		{name: "..", ino: fuse.FUSE_ROOT_ID, mode: unix.S_IFDIR},
	}
	for _, hier := range v.hierarchies {
		out = append(out, dirEntry{name: hier.name, ino: hier.boundary.ID(), mode: unix.S_IFDIR})
	}
	for i, l := range v.links {
		out = append(out, dirEntry{name: l.name, ino: uint64(i+1) + fuse.FUSE_ROOT_ID, mode: unix.S_IFLNK})
	}
	return order(out)
}
