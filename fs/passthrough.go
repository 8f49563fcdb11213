package fs

import (
	"bytes"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
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
