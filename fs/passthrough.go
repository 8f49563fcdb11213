package fs

import (
	"bytes"
	"container/list"
	"slices"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// served are the flags of an open whose data comes here, and nowhere else.
const served = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH

// ioMode chooses how the kernel does I/O on an open: flags of FOPEN_, and what backs it.
//
// A file whose bytes are the host's is read by the kernel itself (passthrough): each open gets a host file of its own, so
// what that keeps per open is kept. While one such open of a file exists, all must name the same backing
// (fuse_file_io_open, fs/fuse/iomode.c). Those that can write, and those that the server must answer, name it too, with
// direct I/O on top, which goes first (fuse_file_read_iter, fuse_file_write_iter, fuse_splice_write): their data comes here.
//
// False when the file's node is that of an earlier file which opens still use.
func (v *View) ioMode(node uint64, h *handle, d *host.Dir, out *fuse.OpenOut) bool {
	out.OpenFlags = served
	if !v.conn.PassthroughOK() || h.decision.File.Mode&0o444 == 0 {
		return true
	}
	file, err := v.behind(h, d)
	if err != nil {
		v.log.WithError(err).Debug("cannot open a backing file, reads go through the server")
	}
	b := v.back(node, file)
	if b == nil {
		return true
	}
	if renewed(h.hier, h.file) && b.file != h.inode {
		v.unuse(b)
		return false
	}
	h.backing, out.BackingID = b, b.id
	out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
	if h.reads && file != nil && b.file == file.ino {
		out.OpenFlags &^= fuse.FOPEN_DIRECT_IO
	}
	return true
}

// servedSize is the size that a file has which the server answers for. Since Linux 6.5 sendfile and splice look at the size before they
// read, through the page cache, what is not passed through (filemap_splice_read): of a file of size 0 they find nothing, in silence.
// So it has one, as files of sysfs have, and such a read is EINVAL (Read): the program then reads as programs do.
const servedSize = 4096

// sizeOf is the size of a control file.
func (v *View) sizeOf(hier *viewHierarchy, dir uint64, f hierarchy.ControlFile) uint64 {
	filtered := f.Filter != hierarchy.Raw && f.Filter != hierarchy.FilterMembers
	if f.Filter == hierarchy.FilterMembers && hier.isRoot(dir) && hier.leafID.Load() != 0 { // which may have members in two places
		filtered = true
	}
	if f.Mode&0o444 != 0 && (filtered || !v.conn.PassthroughOK()) && conn.KernelAtLeast(6, 5) {
		return servedSize
	}
	return 0
}

// back finds or registers the backing of a node; nil when there is none and file is not to be one. It closes file.
func (v *View) back(node uint64, file *hostFile) *backing {
	if file != nil {
		defer unix.Close(file.fd)
	}
	if file != nil {
		if old := v.backings.discard(node, file.ino); old != nil {
			v.closeBacking(old.id)
		}
	}
	b := v.backings.get(node)
	if b != nil || file == nil {
		return b
	}
	id, err := v.conn.OpenBacking(file.fd)
	if err != nil {
		v.log.WithError(err).Debug("cannot register a backing file, reads go through the server")
		return nil
	}
	v.state.SetLastBacking(id)
	b, spare := v.backings.put(node, file.ino, id)
	if spare {
		v.closeBacking(id)
	}
	return b
}

// hostFile is a control file of the host, open for reading.
type hostFile struct {
	fd  int
	ino uint64
}

func openHostFile(d *host.Dir, name string) (*hostFile, error) {
	fd, err := d.OpenFile(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &hostFile{fd, st.Ino}, nil
}

// behind opens the host's file that has what the guest is to read, nil when none has. A filter that leaves things as they
// are now passes too: what it is to hide comes and goes by the host's hand alone, and a later open sees to it.
func (v *View) behind(h *handle, d *host.Dir) (*hostFile, error) {
	switch h.decision.File.Filter {
	case hierarchy.Raw:
	case hierarchy.FilterMembers: // the kernel prints pids as the reader numbers them (cgroup_procs_show)
		if h.hier.v2() && h.hier.isRoot(h.dir) {
			return h.hier.rootMembers(h, d)
		}
	default:
		raw, err := d.ReadFile(h.file)
		if err != nil {
			return nil, err
		}
		if shown, err := v.filter(h, raw); err != nil || !bytes.Equal(raw, shown) {
			return nil, err
		}
	}
	return openHostFile(d, h.file)
}

// rootMembers opens the file that has all members of the root of a v2 view: the leaf's or the boundary's, nil when both
// have some.
func (hier *viewHierarchy) rootMembers(h *handle, d *host.Dir) (*hostFile, error) {
	leaf := hier.leafID.Load()
	if leaf == 0 {
		return openHostFile(d, h.file)
	}
	raw, err := d.ReadFile(h.file)
	if err != nil || len(raw) > 0 {
		return nil, err
	}
	l, err := hier.boundary.Acquire(leaf)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	return openHostFile(l, h.file)
}

// reopens says whether an open is a pure read of a host file that is registered already, and takes it into use.
func (v *View) reopens(node uint64, h *handle, d *host.Dir) bool {
	f := h.decision.File
	if !h.reads || f.Filter != hierarchy.Raw || f.Pollable {
		return false
	}
	b := v.backings.get(node)
	if b == nil {
		return false
	}
	var st unix.Stat_t
	if d.Lookup(h.file, &st) == nil && st.Ino == b.file {
		h.backing = b
		return true
	}
	v.unuse(b)
	return false
}

// backing is the one host file that the kernel reads by itself for a node, as long as a node's open uses it.
type backing struct {
	node, file uint64 // node id, and the host's inode number
	id         int32
	uses       int           // guarded by backingTable.mu
	idle       *list.Element // guarded by backingTable.mu; not nil when no open uses it
	kept       int           // guarded by backingTable.mu; where the state keeps it, -1 for nowhere
}

// backingTable has a connection's backings. Those in use are kept in the state with the opens that use them, those that are
// idle by themselves: at most state.MaxIdle. A host file that is only held open pins no removed cgroup.
type backingTable struct {
	state *state.Region // immutable

	mu     sync.Mutex
	byNode map[uint64]*backing // guarded by mu; made at its first use
	idle   list.List           // guarded by mu; of *backing, the one used last in front
	kept   []*backing          // guarded by mu; by place in the state, some nil
}

// adopt takes in a backing of an open that an earlier server made, with one use.
func (t *backingTable) adopt(node, file uint64, id int32) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	if b == nil {
		b = t.add(node, file, id)
	}
	b.uses++
	return b
}

// add makes a backing without a use. Called with mu held.
func (t *backingTable) add(node, file uint64, id int32) *backing {
	b := &backing{node: node, file: file, id: id, kept: -1}
	if t.byNode == nil {
		t.byNode = map[uint64]*backing{}
	}
	t.byNode[node] = b
	return b
}

// load takes in the backings that were idle, after those in use. What no open uses is idle.
func (t *backingTable) load() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.LastBacking() == 0 {
		return // none was ever made
	}
	t.kept = make([]*backing, state.MaxIdle)
	for i := range t.kept {
		rec := t.state.Idle(i)
		if rec.ID == 0 {
			continue
		}
		if t.byNode[rec.Node] != nil {
			t.state.SetIdle(i, state.Backing{})
			continue
		}
		b := t.add(rec.Node, rec.File, rec.ID)
		b.kept, t.kept[i] = i, b
		b.idle = t.idle.PushFront(b)
	}
}

// keep finds a place in the state for a backing that becomes idle. A place whose backing is in use again is free: an open
// has that. It answers with an idle backing that had to go. Called with mu held.
func (t *backingTable) keep(b *backing) (gone *backing) {
	if t.kept == nil {
		t.kept = make([]*backing, state.MaxIdle)
	}
	if b.kept < 0 {
		i := slices.IndexFunc(t.kept, func(k *backing) bool { return k == nil || k.uses > 0 })
		if i < 0 {
			gone = t.forget(t.idle.Back().Value.(*backing))
			i = slices.Index(t.kept, nil)
		}
		if old := t.kept[i]; old != nil {
			old.kept = -1
		}
		b.kept, t.kept[i] = i, b
		t.state.SetIdle(i, state.Backing{Node: b.node, File: b.file, ID: b.id})
	}
	return gone
}

// get is the backing of a node with one use more, or nil.
func (t *backingTable) get(node uint64) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	if b != nil {
		t.use(b)
	}
	return b
}

// use adds one use. Called with mu held.
func (t *backingTable) use(b *backing) {
	b.uses++
	if b.idle != nil {
		t.idle.Remove(b.idle)
		b.idle = nil
	}
}

// put takes in a backing made for a node. When another open was quicker, that one is used and the caller's is spare, to be
// closed.
func (t *backingTable) put(node, file uint64, id int32) (b *backing, spare bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b = t.byNode[node]; b != nil {
		t.use(b)
		return b, true
	}
	b = t.add(node, file, id)
	b.uses = 1
	return b, false
}

// drop takes one use back. It answers with a backing that is of no more use, to be closed, or nil.
func (t *backingTable) drop(b *backing) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	b.uses--
	if b.uses > 0 {
		return nil
	}
	gone := t.keep(b)
	b.idle = t.idle.PushFront(b)
	return gone
}

// forget takes out a backing that no open uses. Called with mu held.
func (t *backingTable) forget(b *backing) *backing {
	t.idle.Remove(b.idle)
	delete(t.byNode, b.node)
	if b.kept >= 0 {
		t.state.SetIdle(b.kept, state.Backing{})
		t.kept[b.kept] = nil
		b.kept = -1
	}
	return b
}

// conflict reports that opens of a node use another host file than this one.
func (t *backingTable) conflict(node, file uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	return b != nil && b.uses > 0 && b.file != file
}

// used reports that opens of a node use its backing.
func (t *backingTable) used(node uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	return b != nil && b.uses > 0
}

// discard takes out the backing of a node if no open uses it: it is to have another. It answers with what is to be closed.
func (t *backingTable) discard(node, file uint64) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.byNode[node]; b != nil && b.idle != nil && b.file != file {
		return t.forget(b)
	}
	return nil
}
