package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Open settles the authority of an open and opens the host's file with exactly that access. EPERM for write access
// under a read-only verdict; EINVAL for O_DIRECT, as from kernfs; ENFILE over the guest's bound.
func (r *rawFS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	v := r.view()
	unique := v.reopened(in.Unique)
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.hier == nil || n.file == "" {
		return fuse.Status(unix.EISDIR)
	}
	h := &handle{hier: n.hier, dir: n.dir, file: n.file, life: n.life, fd: -1, leaf: -1}
	h.decision = v.decide(n.hier, n.dir, n.file)
	h.opener = credentials{uid: in.Uid, gid: in.Gid, tid: int(in.Pid)}
	access := int(in.Flags) & unix.O_ACCMODE
	if st := v.authorise(h, access); !st.Ok() {
		if st == errDenied {
			v.deny(&in.InHeader, "open", n, "", h.decision.Rule)
		}
		return st
	}
	if in.Flags&unix.O_DIRECT != 0 {
		return fuse.EINVAL
	}
	d, err := n.acquire()
	if err != nil {
		return v.gone(in, status(err))
	}
	defer d.Release()
	h.reads = access == unix.O_RDONLY
	h.flags = access | int(in.Flags)&unix.O_NONBLOCK
	if h.translated() {
		return v.openBridged(h, d, in, unique, out)
	}
	failpoint("open-begun")
	if st := v.openAs(n, h, d, in, out); !st.Ok() {
		return st
	}
	failpoint("open-made")
	fh, ok := v.keepOpen(h, &in.InHeader, unique)
	if !ok {
		v.exceeded(&in.InHeader, "open", n, "", "open descriptors")
		return errTooMany
	}
	if !h.reads {
		h.held = true
		v.hold(fh, h.fd)
	}
	failpoint("open-done")
	out.Fh = fh
	return fuse.OK
}

// openAs opens the host's file, or leaves that to the kernel.
func (v *View) openAs(n node, h *handle, d *host.Dir, in *fuse.OpenIn, out *fuse.OpenOut) (st fuse.Status) {
	stays := !v.conn.PassthroughOK() || v.settling.admit(h)
	defer func() {
		if h.backing == nil {
			v.settling.settle(h)
		}
		if st.Ok() {
			v.stale.found(in.NodeId, in.Pid)
		} else {
			h.close()
		}
	}()
	// No I/O reaches the server, so no descriptor is needed.
	if stays && v.reopens(in.NodeId, h, d) {
		out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH|fuse.FOPEN_NOFLUSH, h.backing.id
		return fuse.OK
	}
	if st := h.open(d); !st.Ok() {
		return v.gone(in, st)
	}
	if !v.current(n, h.inode) {
		return v.stale.answer(in.NodeId, in.Pid)
	}
	if !stays {
		out.OpenFlags = served
		return fuse.OK
	}
	if !v.ioMode(in.NodeId, h, d, out) {
		return v.stale.answer(in.NodeId, in.Pid)
	}
	return fuse.OK
}

// gone returns the errno of an open whose file existed when the kernel looked it up, and is gone now.
func (v *View) gone(in *fuse.OpenIn, st fuse.Status) fuse.Status {
	if st == fuse.ENOENT {
		return v.stale.answer(in.NodeId, in.Pid)
	}
	return st
}

// open opens the host's file.
func (h *handle) open(d *host.Dir) fuse.Status {
	fd, err := d.OpenFile(h.file, h.flags)
	if err != nil {
		return status(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return status(err)
	}
	h.fd, h.inode = fd, st.Ino
	return fuse.OK
}

// keepOpen gives a new open its handle. At the bound of the guest, or of strangers, it ends the open instead.
func (v *View) keepOpen(h *handle, in *fuse.InHeader, unique uint64) (fh uint64, ok bool) {
	if h.counted, ok = v.admits(in.Pid); ok {
		fh, ok = v.handles.add(h, h.saved(in.NodeId, unique))
	}
	if !ok {
		v.endOpen(h)
	}
	return fh, ok
}

// saved returns the state's form of a new open.
func (h *handle) saved(node, unique uint64) state.Handle {
	rec := state.Handle{Node: node, Inode: h.inode, Unique: unique, UID: h.opener.uid, GID: h.opener.gid}
	set := func(on bool, flag uint32) {
		if on {
			rec.Flags |= flag
		}
	}
	access := h.flags & unix.O_ACCMODE
	set(access != unix.O_RDONLY, state.Writes)
	set(access != unix.O_WRONLY, state.Reads)
	set(h.flags&unix.O_NONBLOCK != 0, state.NonBlock)
	set(h.file == "", state.Dir)
	set(h.opener.admin, state.Admin)
	set(h.counted&state.Stranger != 0, state.Stranger)
	if h.backing != nil {
		rec.Backing, rec.File = h.backing.id, h.backing.file
	}
	return rec
}

// authorise decides on an open with this access: by the verdict, and by the checks of the opener that the kernel
// would make and cannot make of the server (rule 9).
func (v *View) authorise(h *handle, access int) fuse.Status {
	d := h.decision
	switch d.Verdict {
	case hierarchy.ReadOnly, hierarchy.ReadWrite, hierarchy.Guarded:
	default:
		return errHidden
	}
	if _, known := filters[d.File.Filter]; !known && access != unix.O_WRONLY {
		return errDenied
	}
	if access == unix.O_RDONLY {
		return fuse.OK
	}
	c, known := constraints[d.File.Constraint]
	// What guards the host's file behind a translated one is checked by each write of that.
	known = known || h.translated()
	if d.Verdict == hierarchy.ReadOnly || d.Verdict == hierarchy.Guarded && !known || c.allows != nil && !c.allows(h) {
		return errDenied
	}
	return fuse.OK
}

// Release ends an open.
func (r *rawFS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	failpoint("release-begun")
	r.view().release(in.Fh)
	failpoint("release-done")
}

// release ends an open. A second release is no error, since the kernel may send it again.
func (v *View) release(fh uint64) {
	h := v.handles.remove(fh)
	if h == nil {
		v.handles.forget(fh)
		return
	}
	v.endOpen(h)
	failpoint("release-made")
	v.handles.forget(fh)
}

// endOpen releases the resources of an open.
func (v *View) endOpen(h *handle) {
	h.mu.Lock()
	kh, fd, held, leaf := h.kh, h.fd, h.held, h.leaf
	h.mu.Unlock()
	if kh != 0 && fd >= 0 {
		v.poller.Remove(fd)
	}
	if h.backing != nil {
		v.unuse(h.backing)
		v.settling.settle(h)
	}
	h.close()
	if v.holder != nil && held {
		v.holder.Drop(h.fh)
	}
	if v.holder != nil && leaf >= 0 {
		v.holder.Drop(h.fh | leafKey)
	}
	v.triggers.release(h)
	v.admitted(h.counted)
}

// OpenDir opens a directory for listing.
func (r *rawFS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	v := r.view()
	unique := v.reopened(in.Unique)
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.file != "" || n.link != 0 {
		return errNotDir
	}
	h := &handle{hier: n.hier, dir: n.dir, life: n.life, fd: -1, leaf: -1}
	fh, ok := v.keepOpen(h, &in.InHeader, unique)
	if !ok {
		v.exceeded(&in.InHeader, "opendir", n, "", "open descriptors")
		return errTooMany
	}
	out.Fh = fh
	return fuse.OK
}

// ReleaseDir ends an open of a directory.
func (r *rawFS) ReleaseDir(in *fuse.ReleaseIn) { r.view().release(in.Fh) }
