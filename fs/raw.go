package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// rawFS is a View in go-fuse's terms. The methods of *rawFS are the operations of the view; those that cgroupfs
// lacks are in this file.
type rawFS View

func (r *rawFS) view() *View { return (*View)(r) }

// slow reports that a request may block in the host and must leave the serving goroutine: requests that make or remove
// cgroups; writes that reclaim, migrate or hold the host's cgroup lock for long; changes of attributes, which run one
// at a time in a guest and may count all of them (attrbudget.go); and, where control files are translated, what looks
// at many cgroups.
func (v *View) slow(in *fuse.InHeader, body []byte) bool {
	switch in.Opcode {
	case conn.OpMkdir, conn.OpRmdir, conn.OpRename, conn.OpRename2, conn.OpSetxattr, conn.OpRemovexattr:
		return true
	case conn.OpSetattr:
		valid := setattrValid(body)
		return valid&attrChanges != 0 && valid&fuse.FATTR_SIZE == 0
	case conn.OpRead, conn.OpReaddir, conn.OpReaddirplus:
		h := v.handles.get(handleIn(body))
		return h != nil && h.slowToRead(readOffset(body))
	case conn.OpWrite:
		h := v.handles.get(handleIn(body))
		return h != nil && (h.slowBridged() || h.decision.File.Blocks || h.decision.File.Constraint == hierarchy.Fake)
	}
	return false
}

// String names the file system in go-fuse's messages.
func (r *rawFS) String() string { return "vcgroupfs" }

// SetDebug does nothing: requests are traced by the log level.
func (r *rawFS) SetDebug(bool) {}

// Init is never called: package conn answers FUSE_INIT.
func (r *rawFS) Init(*fuse.Server) {}

// OnUnmount does nothing: Serve returns.
func (r *rawFS) OnUnmount() {}

// Forget does nothing: node ids need no table.
func (r *rawFS) Forget(nodeid, nlookup uint64) {}

// Access is answered by the kernel (default_permissions).
func (r *rawFS) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// Create refuses with EACCES: kernfs has no ->create, so open(O_CREAT) of a missing name fails for every user
// (lookup_open).
func (r *rawFS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return errNoCreate
}

// Mknod refuses a regular file as Create does, because the kernel sends MKNOD where CREATE is not implemented, and
// other types as vfs_mknod does.
func (r *rawFS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&unix.S_IFMT == unix.S_IFREG {
		return errNoCreate
	}
	return errDenied
}

// Symlink is EPERM (vfs_symlink without ->symlink).
func (r *rawFS) Symlink(
	cancel <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut,
) fuse.Status {
	return errDenied
}

// Link is EPERM (vfs_link without ->link).
func (r *rawFS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return errDenied
}

// Unlink is EPERM (vfs_unlink without ->unlink).
func (r *rawFS) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return errDenied
}

// Tmpfile is EOPNOTSUPP (vfs_tmpfile without ->tmpfile).
func (r *rawFS) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	return errNoOp
}

// Flush has nothing to do.
func (r *rawFS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync succeeds (kernfs uses noop_fsync).
func (r *rawFS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fuse.OK }

// FsyncDir is EINVAL: kernfs directories have no ->fsync.
func (r *rawFS) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fuse.EINVAL }

// Fallocate is EOPNOTSUPP: kernfs has no ->fallocate.
func (r *rawFS) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status { return errNoOp }

// Ioctl is ENOTTY: kernfs files of cgroups have no ->ioctl.
func (r *rawFS) Ioctl(
	cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte,
) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}

// CopyFileRange is left to the kernel's own copy.
func (r *rawFS) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, errNoOp
}

// GetLk is the kernel's: locks are not negotiated.
func (r *rawFS) GetLk(cancel <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	return fuse.ENOSYS
}

// SetLk is the kernel's, as GetLk.
func (r *rawFS) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status { return fuse.ENOSYS }

// SetLkw is the kernel's, as GetLk.
func (r *rawFS) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status { return fuse.ENOSYS }

// Statx is not implemented: the kernel then uses GETATTR.
func (r *rawFS) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	return fuse.ENOSYS
}

// handleIn returns the file handle in the body of a READ, READDIR or WRITE (struct fuse_read_in and fuse_write_in begin
// with fh).
func handleIn(body []byte) uint64 {
	if len(body) < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(body)
}

// readOffset returns the offset in the body of a READ or READDIR (struct fuse_read_in, after fh).
func readOffset(body []byte) uint64 {
	if len(body) < 16 {
		return 0
	}
	return binary.NativeEndian.Uint64(body[8:])
}

// setattrValid returns the bits of changed attributes in the body of a SETATTR (struct fuse_setattr_in begins with
// valid).
func setattrValid(body []byte) uint32 {
	if len(body) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(body)
}
