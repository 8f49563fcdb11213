package fs

import (
	"cmp"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Mkdir makes a cgroup. On the host it belongs to root; the guest's owner and mode are kept in attributes
// (owner.go).
func (r *rawFS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.hier == nil || n.hier.flat {
		v.deny(&in.InHeader, "mkdir", n, name, "no cgroups here")
		return errDenied
	}
	d, err := n.acquire()
	if err != nil {
		return status(err)
	}
	defer d.Release()
	if n.hier.bridge != nil {
		return v.mkdirBridged(n, d, name, in, out)
	}
	var changed, children uint64
	ch := v.begin("mkdir", &in.InHeader, func() (a, b, c uint64) {
		changed, children = v.statParent(n.hier, d, in.Unique)
		return changed, 0, children
	})
	switch {
	case ch.done:
	case ch.again && v.removedSince(ch, d, name, changed, children):
		ch.finish(fuse.OK)
	default:
		made, st := v.mkdir(n, d, name, in, ch)
		if ch.finish(st) == fuse.OK {
			defer made.Release()
			return v.answerMade(n.hier, d, made, in.Pid, out)
		}
	}
	return v.answerMkdir(n, d, name, in, ch, out)
}

// answerMade answers a mkdir by this server: it sets the mode of the new cgroup.
func (v *View) answerMade(hier *viewHierarchy, d, made *host.Dir, tid uint32, out *fuse.EntryOut) fuse.Status {
	if err := made.Chmod("", madeMode); err != nil {
		v.log.WithError(err).Warnf("cannot give a new cgroup its mode")
	}
	var st unix.Stat_t
	if err := made.Stat(&st); err != nil {
		return status(err)
	}
	return v.fillDir(hier, d, made, tid, &st, out)
}

// answerMkdir answers a mkdir that failed, or that the previous server finished: it sets the mode of the new cgroup,
// unless that has been done.
func (v *View) answerMkdir(n node, d *host.Dir, name string, in *fuse.MkdirIn, ch *change,
	out *fuse.EntryOut) fuse.Status {
	if st := ch.outcome(); !st.Ok() {
		return st
	}
	if err := setMadeMode(d, name); err != nil {
		v.log.WithError(err).Warnf("cannot give a new cgroup its mode")
	}
	if st := v.lookup(n.hier, d, name, in.Pid, out); st.Ok() {
		return st
	}
	// The mkdir succeeded, even if the host has removed the cgroup or replaced it since.
	out.NodeId = v.dirNode(n.hier, cmp.Or(ch.entry.B, goneDir))
	v.fillRemoved(node{hier: n.hier, dir: ch.entry.B}, &out.Attr)
	return fuse.OK
}

// statParent returns the state of the directory above a new cgroup: the time of the last creation or removal in it,
// and its link count. kernfs keeps that time only for a directory whose attributes were set once (kernfs_add_one,
// kernfs_remove), so statParent sets the present mode. It uses the modification time, because a chmod, this one by
// the next server included, changes the time of change.
func (v *View) statParent(hier *viewHierarchy, d *host.Dir, unique uint64) (changed, children uint64) {
	var st unix.Stat_t
	if v.holder == nil || d.Stat(&st) != nil {
		return 0, 0
	}
	if _, again := conn.Resent(unique); again {
		return uint64(st.Mtim.Nano()), uint64(st.Nlink)
	}
	if _, known := hier.timed.LoadOrStore(d.ID(), true); !known {
		if d.Chmod("", st.Mode&permMask) != nil || d.Stat(&st) != nil {
			return 0, 0
		}
	}
	return uint64(st.Mtim.Nano()), uint64(st.Nlink)
}

// removedSince reports that the previous server made the cgroup and the host has removed it: the name does not
// exist, the directory has changed, and its link count is the same as before.
func (v *View) removedSince(ch *change, d *host.Dir, name string, changed, children uint64) bool {
	var st unix.Stat_t
	return d.Lookup(name, &st) == unix.ENOENT && changed != ch.entry.A && children == ch.entry.C
}

// goneDir stands in for the kernfs id of a cgroup that was removed before its id was read. No cgroup has it.
const goneDir = dirMask

// makingMode is a cgroup's mode on the host until its creation is complete. By it a server recognizes the unfinished
// cgroup of a killed predecessor, because no other program makes a cgroup with this mode.
const (
	makingMode = 0o1000 // no permission bits, which a umask would clear
	madeMode   = 0o755
)

// mkdir makes a cgroup, stores its owner and returns it open.
func (v *View) mkdir(
	n node, d *host.Dir, name string, in *fuse.MkdirIn, ch *change,
) (made *host.Dir, code fuse.Status) {
	if st := v.mayName(n.hier, d, name); !st.Ok() {
		v.deny(&in.InHeader, "mkdir", n, name, "reserved name")
		return nil, st
	}
	defer n.hier.lent.hold()()
	var st unix.Stat_t
	own := ch.again && d.Lookup(name, &st) == nil && st.Mode == unix.S_IFDIR|makingMode
	if bound, st := n.hier.reserveCgroup(d, own); !st.Ok() {
		if st == errQuota {
			v.exceeded(&in.InHeader, "mkdir", n, name, bound)
		}
		return nil, st
	}
	var err error
	if n.hier.lent != nil {
		// What there is must not be touched.
		if err = unix.EEXIST; own || d.Lookup(name, &st) != nil {
			err = n.hier.lent.mkdir(d, name)
		}
		if err != nil {
			n.hier.quotaOf().free()
			return nil, status(err)
		}
	}
	n.hier.expected.add(d.ID(), name)
	made, err = makeDir(d, name, own)
	ch.made()
	if err != nil {
		if status(err) != errExists {
			n.hier.lent.rmdir(d, name)
		}
		n.hier.expected.remove(d.ID(), name)
		n.hier.quotaOf().free()
		return nil, status(err)
	}
	ch.entry.B = made.ID()
	if err = v.own(n.hier, d, made, in, own); err != nil {
		made.Release()
		_ = v.removeCounted(d, name, func() error { return d.Rmdir(name) })
		n.hier.lent.rmdir(d, name)
		n.hier.quotaOf().free()
		if isQuota(err) {
			v.exceeded(&in.InHeader, "mkdir", n, name, boundAttributes)
		}
		return nil, status(err)
	}
	return made, fuse.OK
}

// makeDir makes a cgroup with makingMode. own: one that is there is the previous server's, which died in Mkdir.
func makeDir(d *host.Dir, name string, own bool) (made *host.Dir, err error) {
	if made, err = d.Mkdir(name, makingMode); !own || status(err) != errExists {
		return made, err
	}
	if made, err = d.OpenDir(name); err != nil {
		return nil, err
	}
	if err = made.Silence(); err != nil {
		made.Release()
		return nil, err
	}
	return made, nil
}

// setMadeMode sets the final mode of a cgroup with makingMode.
func setMadeMode(d *host.Dir, name string) error {
	var st unix.Stat_t
	if err := d.Lookup(name, &st); err != nil || st.Mode != unix.S_IFDIR|makingMode {
		// Removed meanwhile, or complete already.
		return nil
	}
	return d.Chmod(name, madeMode)
}

// mayName refuses the names that no guest may make (rule 11). EEXIST for a name that exists.
func (v *View) mayName(hier *viewHierarchy, d *host.Dir, name string) fuse.Status {
	if len(name) > nameMax {
		return errTooLong
	}
	if !v.reserved(hier, d, name) {
		return fuse.OK
	}
	if hier.bridge != nil && name == hierarchy.LeafName {
		// Whether there is one is not the guest's to know.
		return errName
	}
	var st unix.Stat_t
	if d.Lookup(name, &st) != nil {
		return errName
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || v.decide(hier, d.ID(), name).Verdict != hierarchy.Hidden {
		return errExists
	}
	return errName
}

// Rmdir removes a cgroup. EBUSY for one with children or processes, from the host.
func (r *rawFS) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.hier == nil {
		// Natively a hierarchy is a mount point; a link is ENOTDIR in the kernel.
		return errBusy
	}
	d, err := n.acquire()
	if err != nil {
		return status(err)
	}
	defer d.Release()
	if n.hier.bridge != nil {
		return v.rmdirBridged(n, d, name, in)
	}
	if d.IsBoundary() && n.hier.v2() && name == hierarchy.LeafName {
		return errBusy
	}
	var info unix.Stat_t
	var found error
	ch := v.begin("rmdir", in, func() (a, b, c uint64) {
		found = d.Lookup(name, &info)
		return n.dir, info.Ino, 0
	})
	switch {
	case ch.done:
	case ch.again && ch.entry.B != 0 && (found != nil || info.Ino != ch.entry.B):
		// The cgroup is gone; another one may have its name by now.
		n.hier.lent.endRmdir(d, name)
		ch.finish(fuse.OK)
	default:
		// A cgroup with children stays (EBUSY).
		if found == nil && info.Nlink <= 2 {
			defer v.settling.begin(cancel, &ending{hier: n.hier, dir: info.Ino})()
		}
		ch.finish(v.rmdir(n.hier, d, name, ch))
	}
	return ch.outcome()
}

func (v *View) rmdir(hier *viewHierarchy, d *host.Dir, name string, ch *change) fuse.Status {
	defer hier.lent.hold()()
	hier.expected.add(d.ID(), name)
	err := v.removeCounted(d, name, func() error {
		defer ch.made()
		return d.Rmdir(name)
	})
	if err != nil {
		hier.expected.remove(d.ID(), name)
		return status(err)
	}
	hier.lent.rmdir(d, name)
	hier.timed.Delete(ch.entry.B)
	hier.quotaOf().free()
	return fuse.OK
}

// Rename renames a cgroup within its directory on v1. EPERM on v2.
func (r *rawFS) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	to, st := v.node(in.Newdir)
	if !st.Ok() {
		return st
	}
	if in.Flags != 0 {
		// kernfs_iop_rename.
		return fuse.EINVAL
	}
	if n.hier == nil || n.hier.v2() || n.hier.bridge != nil {
		// cgroup2 has no ->rename: EPERM from kernfs_iop_rename.
		return errDenied
	}
	d, err := n.acquire()
	if err != nil {
		return status(err)
	}
	defer d.Release()
	var info unix.Stat_t
	var found error
	ch := v.begin("rename", &in.InHeader, func() (a, b, c uint64) {
		found = d.Lookup(oldName, &info)
		return n.dir, info.Ino, 0
	})
	if !ch.done {
		ch.finish(v.rename(n, to, d, in, oldName, newName, found, info, ch))
	}
	return ch.outcome()
}

// rename renames a cgroup of v1. found and info are the result of looking up the old name.
func (v *View) rename(
	n, to node, d *host.Dir, in *fuse.RenameIn, oldName, newName string, found error, info unix.Stat_t, ch *change,
) fuse.Status {
	var there unix.Stat_t
	if ch.again && ch.entry.B != 0 && d.Lookup(newName, &there) == nil && there.Ino == ch.entry.B {
		// The previous server renamed it.
		return fuse.OK
	}
	if ch.again && ch.entry.B != 0 && (found != nil || info.Ino != ch.entry.B) {
		// Renamed by the previous server, then changed by the host.
		return fuse.OK
	}
	if found != nil {
		return status(found)
	}
	if info.Mode&unix.S_IFMT != unix.S_IFDIR {
		// cgroup1_rename: only directories.
		return errNotDir
	}
	if to.hier != n.hier || to.dir != n.dir {
		// cgroup1_rename: not to another parent.
		return fuse.EIO
	}
	if st := v.mayName(n.hier, d, newName); !st.Ok() {
		v.deny(&in.InHeader, "rename", n, newName, "reserved name")
		return st
	}
	n.hier.expected.add(d.ID(), oldName)
	n.hier.expected.add(d.ID(), newName)
	err := d.Rename(oldName, newName)
	ch.made()
	if err != nil {
		n.hier.expected.remove(d.ID(), oldName)
		n.hier.expected.remove(d.ID(), newName)
	}
	return status(err)
}

// reserved reports that a guest may not make this name in a directory: the leaf's name, or the name of a control
// file that a controller of ours or of this host has or could have. On v2 the names of files that every v1 cgroup
// has, such as tasks, are free, unless v1 hierarchies have the same directories.
func (v *View) reserved(hier *viewHierarchy, d *host.Dir, name string) bool {
	prefix, _, dotted := strings.Cut(name, ".")
	return hierarchy.ReservedName(name) && (dotted || !hier.v2() || hier.lent != nil) ||
		(d.IsBoundary() || hier.bridge != nil) && name == hierarchy.LeafName ||
		strings.ContainsRune(name, '\n') ||
		dotted && v.host.Hierarchy(prefix) != nil
}
