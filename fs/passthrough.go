package fs

import (
	"bytes"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// served are the flags of an open that the server answers alone.
const served = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH

// ioMode chooses the flags (FOPEN_) of an open's I/O, and its backing.
//
// The kernel itself reads a file whose content is the host's (passthrough). Each open gets a host file of its own,
// so state that the kernel keeps per open is preserved. While one such open of a file exists, all opens must name
// the same backing (fuse_file_io_open, fs/fuse/iomode.c). An open that can write, or that the server must answer,
// names it too and adds direct I/O, which takes precedence (fuse_file_read_iter, fuse_file_write_iter,
// fuse_splice_write): its data reaches the server.
//
// False when opens still use an earlier file of the same node.
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

// servedSize is the size of a file that the server answers for. Since Linux 6.5 sendfile and splice read a file
// without passthrough through the page cache, up to its size (filemap_splice_read): from a file of size 0 they
// silently get nothing. With a size, as files of sysfs have, the read is EINVAL (Read), and programs fall back to
// read(2).
const servedSize = 4096

// sizeOf returns the size of a control file.
func (v *View) sizeOf(hier *viewHierarchy, dir uint64, f hierarchy.ControlFile) uint64 {
	filtered := hier.translates(f.Name) || f.Filter != hierarchy.Raw && f.Filter != hierarchy.FilterMembers
	// The root may have members in the boundary and in the leaf.
	if f.Filter == hierarchy.FilterMembers && hier.isRoot(dir) && hier.leafID.Load() != 0 {
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

// behind opens the host file whose bytes the guest is to read, or returns nil. A filter that changes nothing now
// passes too: only the host adds or removes the lines that it hides, and a later open filters again.
func (v *View) behind(h *handle, d *host.Dir) (*hostFile, error) {
	switch h.decision.File.Filter {
	case hierarchy.Raw:
		if h.reads && !h.decision.File.Pollable {
			return h.handOver(), nil
		}
	case hierarchy.FilterMembers:
		// The kernel prints pids in the reader's numbers (cgroup_procs_show).
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

// handOver gives up the descriptor of a new open: no I/O reaches the server. If it does after all, host opens the file
// again.
func (h *handle) handOver() *hostFile {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := &hostFile{h.fd, h.inode}
	h.fd = -1
	return f
}

// rootMembers opens the file with all members of the root of a v2 view: the leaf's or the boundary's, nil if both
// have members.
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

// reopens reports that an open only reads a host file with a backing, and uses that backing.
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
