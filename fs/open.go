package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Open settles what this open may do and opens the host's file with just that. EPERM when it may write and the verdict is
// read-only; EINVAL for O_DIRECT, as kernfs.
func (r *rawFS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.tree == nil || n.file == "" {
		return fuse.Status(unix.EISDIR)
	}
	h := &handle{tree: n.tree, dir: n.dir, file: n.file, decision: v.decide(n.tree, n.dir, n.file), fd: -1}
	h.opener = credentials{uid: in.Uid, gid: in.Gid, tid: int(in.Pid)}
	access := int(in.Flags) & unix.O_ACCMODE
	if st := v.authorise(h, access); !st.Ok() {
		return st
	}
	if in.Flags&unix.O_DIRECT != 0 {
		return fuse.EINVAL
	}
	d, err := n.tree.acquire(n.dir)
	if err != nil {
		return status(err)
	}
	defer d.Release()
	h.reads = access == unix.O_RDONLY
	if v.reopens(in.NodeId, h, d) { // nothing of it comes here: no descriptor is needed
		out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH|fuse.FOPEN_NOFLUSH, h.backing.id
		out.Fh = v.handles.add(h)
		return fuse.OK
	}
	h.fd, err = d.OpenFile(n.file, access|int(in.Flags)&unix.O_NONBLOCK)
	if err != nil {
		return status(err)
	}
	out.OpenFlags = v.ioMode(in.NodeId, h, d, out)
	out.Fh = v.handles.add(h)
	return fuse.OK
}

// authorise decides whether an open with this access may be, by the verdict and by what the kernel would have asked of
// the opener and cannot ask of the server (rule 9).
func (v *View) authorise(h *handle, access int) fuse.Status {
	d := h.decision
	if d.Verdict == hierarchy.Hidden {
		return errHidden
	}
	if access == unix.O_RDONLY {
		return fuse.OK
	}
	if d.Verdict != hierarchy.ReadWrite && d.Verdict != hierarchy.Guarded {
		return errDenied
	}
	if d.File.Constraint == hierarchy.DeviceRule {
		h.opener.admin = host.HasHostAdmin(h.opener.tid)
		if !h.opener.admin {
			return errDenied // devcgroup_access_write: capable(CAP_SYS_ADMIN)
		}
	}
	return fuse.OK
}

func (v *View) closeBacking(id int32) {
	if err := v.conn.CloseBacking(id); err != nil {
		v.log.WithError(err).Debug("cannot close a backing file")
	}
}

// Release ends an open.
func (r *rawFS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	v := r.view()
	h := v.handles.remove(in.Fh)
	if h == nil {
		return
	}
	if kh := h.pollKey(); kh != 0 {
		v.poller.Remove(kh)
	}
	if h.backing != nil {
		if old := v.backings.drop(h.backing); old != nil {
			v.closeBacking(old.id)
		}
	}
	if h.fd >= 0 {
		unix.Close(h.fd)
	}
	v.triggers.release(h)
}

// OpenDir opens a directory for listing.
func (r *rawFS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.file != "" || n.link != 0 {
		return errNotDir
	}
	out.Fh = v.handles.add(&handle{tree: n.tree, dir: n.dir, fd: -1})
	return fuse.OK
}

// ReleaseDir ends an open of a directory.
func (r *rawFS) ReleaseDir(in *fuse.ReleaseIn) { r.view().handles.remove(in.Fh) }
