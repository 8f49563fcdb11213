package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// fillAttr fills in the attributes of a directory, or of a file in it, from the host's stat.
func (v *View) fillAttr(hier *viewHierarchy, d *host.Dir, file string, st *unix.Stat_t, out *fuse.Attr) {
	r := v.ownerOf(hier, d, file, st.Mode)
	out.Ino = st.Ino
	out.Size, out.Blocks, out.Blksize = 0, 0, 4096
	out.Nlink = uint32(st.Nlink)
	out.Uid, out.Gid = r.uid, r.gid
	out.Mode = st.Mode&unix.S_IFMT | r.mode
	out.Atime, out.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	out.Mtime, out.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	out.Ctime, out.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	switch {
	case file != "":
		dec := v.decide(hier, d.ID(), file)
		out.Size = v.sizeOf(hier, d.ID(), dec.File)
		// cp takes a file with fewer blocks for a sparse one.
		out.Blocks = out.Size / 512
		if dec.Verdict == hierarchy.ReadOnly && out.Mode&0o444 != 0 {
			// A read-only file shows no write permission; a write-only file keeps its mode.
			out.Mode &^= 0o222
		}
	case hier.bridge != nil:
		out.Nlink = hier.bridge.linksOf(hier, d, out.Nlink)
	case d.IsBoundary() && hier.leafID.Load() != 0 && out.Nlink > 2:
		// The listing leaves the leaf out.
		out.Nlink--
	}
}

// fillTop fills in the attributes of the top of a view with several hierarchies.
func (v *View) fillTop(out *fuse.Attr) {
	nlink := uint32(2 + len(v.hierarchies))
	*out = fuse.Attr{Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR | 0o555, Nlink: nlink, Blksize: 4096}
	out.Uid, out.Gid = v.owner.UID, v.owner.GID
	out.SetTimes(&v.top, &v.top, &v.top)
}

// fillLink fills in the attributes of the symbolic link with this number.
func (v *View) fillLink(n int, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: uint64(n) + fuse.FUSE_ROOT_ID, Mode: unix.S_IFLNK | 0o777, Nlink: 1, Blksize: 4096,
		Size: uint64(len(v.links[n-1].target)),
	}
	out.Uid, out.Gid = v.owner.UID, v.owner.GID
	out.SetTimes(&v.top, &v.top, &v.top)
}

// attr finds the attributes of a node. A removed directory has attributes still, as fstat of an open one on kernfs.
func (v *View) attr(n node, out *fuse.Attr) fuse.Status {
	switch {
	case n.top:
		v.fillTop(out)
		return fuse.OK
	case n.link != 0:
		v.fillLink(n.link, out)
		return fuse.OK
	}
	d, err := n.acquire()
	if err != nil && n.file == "" && status(err) == fuse.ENOENT {
		v.fillRemoved(n, out)
		return fuse.OK
	}
	if err != nil {
		return status(err)
	}
	defer d.Release()
	st, code := v.stat(n, d)
	if !code.Ok() {
		return code
	}
	v.fillAttr(n.hier, d, n.file, &st, out)
	return fuse.OK
}

// stat returns the host's stat of the node: d itself or the file in it. ENOENT for a hidden file.
func (v *View) stat(n node, d *host.Dir) (st unix.Stat_t, code fuse.Status) {
	var err error
	switch {
	case n.file == "":
		err = d.Stat(&st)
	case v.decide(n.hier, n.dir, n.file).Verdict == hierarchy.Hidden:
		return st, errHidden
	case n.hier.translates(n.file):
		err = n.hier.stat(n, d, &st)
	default:
		err = d.Lookup(n.file, &st)
	}
	return st, status(err)
}

// fillRemoved fills in the attributes of a removed directory, for fstat by the programs that have it open.
func (v *View) fillRemoved(n node, out *fuse.Attr) {
	*out = fuse.Attr{Ino: n.dir, Mode: unix.S_IFDIR | 0o755, Nlink: 2, Blksize: 4096}
	out.Uid, out.Gid = v.owner.UID, v.owner.GID
}

// attrOpen finds the attributes of an open control file whose cgroup may have been removed.
func (v *View) attrOpen(h *handle, out *fuse.Attr) fuse.Status {
	if h.translated() {
		*out = fuse.Attr{Ino: h.node().inode(), Mode: unix.S_IFREG | h.decision.File.Mode, Nlink: 1, Blksize: 4096}
		out.Uid, out.Gid = v.owner.UID, v.owner.GID
		return fuse.OK
	}
	if h.inode == 0 && h.backing != nil {
		*out = fuse.Attr{Ino: h.backing.file, Mode: unix.S_IFREG | h.decision.File.Mode, Nlink: 1, Blksize: 4096}
		out.Uid, out.Gid = v.owner.UID, v.owner.GID
		return fuse.OK
	}
	fd, err := h.host()
	// Removed while no server ran.
	if err == unix.ENODEV {
		*out = fuse.Attr{Ino: h.inode, Mode: unix.S_IFREG | h.decision.File.Mode, Nlink: 1, Blksize: 4096}
		out.Uid, out.Gid = v.owner.UID, v.owner.GID
		return fuse.OK
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return status(err)
	}
	*out = fuse.Attr{Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), Blksize: 4096}
	out.Uid, out.Gid = v.owner.UID, v.owner.GID
	out.Mtime, out.Ctime, out.Atime = uint64(st.Mtim.Sec), uint64(st.Ctim.Sec), uint64(st.Atim.Sec)
	return fuse.OK
}

// GetAttr answers stat.
func (r *rawFS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	st = v.attr(n, &out.Attr)
	if !st.Ok() && n.file != "" {
		// fstat: GETATTR comes without a handle.
		if h := v.handles.of(n); h != nil {
			st = v.attrOpen(h, &out.Attr)
		}
	}
	out.SetTimeout(cacheTimeout)
	return st
}

// SetAttr answers chmod, chown, utimes and truncate. The guest changes nothing at the boundary. The kernel has
// checked the caller, its capabilities included, against the attributes that GETATTR gave (default_permissions).
func (r *rawFS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if st := v.setAttr(n, in); !st.Ok() {
		if st == errDenied {
			v.deny(&in.InHeader, "setattr", n, "", "the boundary's attributes are the host's")
		}
		return st
	}
	if st := v.attr(n, &out.Attr); !st.Ok() {
		h := v.handles.of(n)
		if h == nil {
			return st
		}
		if st = v.attrOpen(h, &out.Attr); !st.Ok() {
			return st
		}
	}
	out.SetTimeout(cacheTimeout)
	return fuse.OK
}

// attrChanges are the bits of a SETATTR beyond a truncate.
const attrChanges = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME

func (v *View) setAttr(n node, in *fuse.SetAttrIn) fuse.Status {
	if n.hier == nil {
		return errDenied
	}
	truncate := in.Valid&fuse.FATTR_SIZE != 0
	if truncate {
		if st := v.truncate(n, in); !st.Ok() {
			return st
		}
	}
	if in.Valid&attrChanges == 0 || (truncate && in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_MODE) == 0) {
		// A truncate sets times too, which a control file ignores.
		return fuse.OK
	}
	if n.hier.isRoot(n.dir) {
		return errDenied
	}
	d, done, err := n.change()
	if err != nil {
		return v.unlessOpen(n, status(err))
	}
	defer done()
	st, code := v.stat(n, d)
	if !code.Ok() {
		return v.unlessOpen(n, code)
	}
	at, err := n.hier.node(d, n.file)
	if err != nil {
		return v.unlessOpen(n, status(err))
	}
	defer at.Close()
	if err := v.changeOwner(at, &st, in); err != nil {
		return v.noRoom(n, in, err)
	}
	return v.noRoom(n, in, v.changeTimes(at, in))
}

// unlessOpen answers a change to the attributes of a removed file or directory: OK if the guest has it open, since
// kernfs accepts the change and no path shows it.
func (v *View) unlessOpen(n node, st fuse.Status) fuse.Status {
	if st == fuse.ENOENT && (n.file == "" || v.handles.of(n) != nil) {
		return fuse.OK
	}
	return st
}

// noRoom turns the error of an attribute change into an errno, and reports one that exceeded the guest's budget.
func (v *View) noRoom(n node, in *fuse.SetAttrIn, err error) fuse.Status {
	if isQuota(err) {
		v.exceeded(&in.InHeader, "setattr", n, "", boundAttributes)
	}
	return status(err)
}

// truncate has no effect and succeeds where the guest may write, as on kernfs. The server's own truncate fires the
// guest's inotify watches (poke in events.go).
func (v *View) truncate(n node, in *fuse.SetAttrIn) fuse.Status {
	if n.file == "" {
		return fuse.Status(unix.EISDIR)
	}
	switch v.decide(n.hier, n.dir, n.file).Verdict {
	case hierarchy.Hidden:
		return errHidden
	case hierarchy.ReadOnly:
		if !v.pokes(in) {
			return errDenied
		}
	}
	return fuse.OK
}

// pokes reports that a truncate is a poke: by this server, or by the previous one, whose request the kernel sends
// again. The thread of the previous one has exited or waits in the kernel, so nothing identifies it beyond uid 0
// outside the guest. A truncate changes nothing, so a mistake is harmless.
func (v *View) pokes(in *fuse.SetAttrIn) bool {
	if host.OwnThread(int(in.Pid)) {
		failpoint("poke-begun")
		return true
	}
	_, again := conn.Resent(in.Unique)
	return again && in.Uid == 0 && v.isOutside(in.Pid)
}

// changeTimes sets times on the host's file or directory: the host ignores them, and natively they persist. The
// first call also sets a mark that charges the guest for the kernel memory behind them.
func (v *View) changeTimes(at host.Node, in *fuse.SetAttrIn) error {
	atime, setA := in.GetATime()
	mtime, setM := in.GetMTime()
	if !setA && !setM || at.Shared() {
		return nil
	}
	if _, err := at.GetXattr(attrTimes, nil); err != nil {
		_, again := conn.Resent(in.Unique)
		if err := v.setAttrs(at, guestsAttr, again, attrChange{stored: attrTimes}); err != nil {
			return err
		}
	}
	return at.SetTimes(timespec(atime, setA), timespec(mtime, setM))
}

func timespec(t time.Time, set bool) unix.Timespec {
	if !set {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.NsecToTimespec(t.UnixNano())
}

// StatFs reports zero counts, as cgroupfs does (simple_statfs). The kernel fills in FUSE's type.
func (r *rawFS) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: nameMax}
	return fuse.OK
}
