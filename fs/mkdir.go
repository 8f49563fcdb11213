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

// Mkdir makes a cgroup. The real one belongs to root on the host; who made it, and with what mode, is its record.
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
	d, err := n.hier.acquire(n.dir)
	if err != nil {
		return status(err)
	}
	defer d.Release()
	changed, children := v.statParent(n.hier, d, in.Unique)
	ch := v.begin("mkdir", &in.InHeader, changed, 0, children)
	switch {
	case ch.done:
	case ch.again && v.removedSince(ch, d, name, changed, children):
		ch.finish(fuse.OK)
	default:
		ch.finish(v.mkdir(n, d, name, in, ch))
	}
	if st := ch.outcome(); !st.Ok() {
		return st
	}
	if err := setMadeMode(d, name); err != nil {
		v.log.WithError(err).Warnf("cannot give a new cgroup its mode")
	}
	if st := v.lookup(n.hier, d, name, in.Pid, out); st.Ok() {
		return st
	}
	// The host was quick to remove it again, or another has taken its place: made it was.
	out.NodeId = v.dirNode(n.hier, cmp.Or(ch.entry.B, goneDir))
	v.fillRemoved(node{hier: n.hier, dir: ch.entry.B}, &out.Attr)
	return fuse.OK
}

// look tells a directory's state: when a child was last made or removed there, and how many there are. kernfs keeps the time
// only of a directory whose attributes were changed once (kernfs_add_one, kernfs_remove): so it is given the mode that it has.
// It is the time of modification, since that of change also tells of a chmod, also of this one by the next server.
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

// removedSince says whether the server before made a cgroup and the host has removed it since: it is not there, something was
// made or removed beside it, and there are as many as before.
func (v *View) removedSince(ch *change, d *host.Dir, name string, changed, children uint64) bool {
	var st unix.Stat_t
	return d.Lookup(name, &st) == unix.ENOENT && changed != ch.entry.A && children == ch.entry.C
}

// goneDir is the kernfs id of a cgroup that was removed before anybody knew its id: none is found by it.
const goneDir = dirMask

// makingMode is the mode of a cgroup on the host while the view makes it. A server that was killed in between knows by it
// that a cgroup is its own, for nobody else makes one of that mode.
const (
	makingMode = 0o1000 // no permission: a umask takes nothing of it
	madeMode   = 0o755
)

// mkdir makes a cgroup and notes whose it is.
func (v *View) mkdir(n node, d *host.Dir, name string, in *fuse.MkdirIn, ch *change) fuse.Status {
	if st := v.mayName(n.hier, d, name); !st.Ok() {
		v.deny(&in.InHeader, "mkdir", n, name, "reserved name")
		return st
	}
	var st unix.Stat_t
	own := ch.again && d.Lookup(name, &st) == nil && st.Mode == unix.S_IFDIR|makingMode
	if bound, st := n.hier.reserveCgroup(d, own); !st.Ok() {
		if st == errQuota {
			v.exceeded(&in.InHeader, "mkdir", n, name, bound)
		}
		return st
	}
	n.hier.expected.add(d.ID(), name)
	err := d.Mkdir(name, makingMode)
	if own && status(err) == errExists {
		err = d.Silence(name) // the server before died in Mkdir
	}
	ch.made()
	if err != nil {
		n.hier.expected.remove(d.ID(), name)
		n.hier.quota.free()
		return status(err)
	}
	if err = d.Lookup(name, &st); err == nil {
		ch.entry.B = st.Ino
		err = v.own(n.hier, d, name, in, own)
	}
	if err != nil {
		_ = v.removeCounted(d, name, func() error { return d.Rmdir(name) })
		n.hier.quota.free()
		if isQuota(err) {
			v.exceeded(&in.InHeader, "mkdir", n, name, boundAttributes)
		}
		return status(err)
	}
	return fuse.OK
}

// settle gives a cgroup that the view has made its mode.
func setMadeMode(d *host.Dir, name string) error {
	var st unix.Stat_t
	if err := d.Lookup(name, &st); err != nil || st.Mode != unix.S_IFDIR|makingMode {
		return nil // removed meanwhile, or settled before
	}
	return d.Chmod(name, madeMode)
}

// mayName refuses the names that no guest may make (rule 11). One that exists is the host's EEXIST to say.
func (v *View) mayName(hier *viewHierarchy, d *host.Dir, name string) fuse.Status {
	if len(name) > nameMax {
		return errTooLong
	}
	if !v.reserved(hier, d, name) {
		return fuse.OK
	}
	var st unix.Stat_t
	if d.Lookup(name, &st) == nil && (st.Mode&unix.S_IFMT == unix.S_IFDIR || v.decide(hier, d.ID(), name).Verdict != hierarchy.Hidden) {
		return errExists
	}
	return errName
}

// Rmdir removes a cgroup: EBUSY while it has children or processes, as the host says.
func (r *rawFS) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.hier == nil {
		return errBusy // natively a hierarchy at the top is a mount point; a link is ENOTDIR before it comes here
	}
	d, err := n.hier.acquire(n.dir)
	if err != nil {
		return status(err)
	}
	defer d.Release()
	if d.IsBoundary() && n.hier.v2() && name == hierarchy.LeafName {
		return errBusy
	}
	var info unix.Stat_t
	found := d.Lookup(name, &info)
	ch := v.begin("rmdir", in, n.dir, info.Ino, 0)
	switch {
	case ch.done:
	case ch.again && ch.entry.B != 0 && (found != nil || info.Ino != ch.entry.B):
		ch.finish(fuse.OK) // the cgroup that was to go is gone, and what has its name now is another
	default:
		if found == nil && info.Nlink <= 2 { // a cgroup with children stays: EBUSY
			defer v.settling.begin(cancel, &ending{hier: n.hier, dir: info.Ino})()
		}
		ch.finish(v.rmdir(n.hier, d, name, ch))
	}
	return ch.outcome()
}

func (v *View) rmdir(hier *viewHierarchy, d *host.Dir, name string, ch *change) fuse.Status {
	hier.expected.add(d.ID(), name)
	err := v.removeCounted(d, name, func() error {
		defer ch.made()
		return d.Rmdir(name)
	})
	if err != nil {
		hier.expected.remove(d.ID(), name)
		return status(err)
	}
	hier.timed.Delete(ch.entry.B)
	hier.quota.free()
	return fuse.OK
}

// Rename renames a cgroup within its directory on v1; v2 has no rename (EPERM).
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
		return fuse.EINVAL // kernfs_iop_rename
	}
	if n.hier == nil || n.hier.v2() {
		return errDenied // cgroup2 has no ->rename: kernfs_iop_rename says EPERM
	}
	d, err := n.hier.acquire(n.dir)
	if err != nil {
		return status(err)
	}
	defer d.Release()
	var info unix.Stat_t
	found := d.Lookup(oldName, &info)
	ch := v.begin("rename", &in.InHeader, n.dir, info.Ino, 0)
	if !ch.done {
		ch.finish(v.rename(n, to, d, in, oldName, newName, found, info, ch))
	}
	return ch.outcome()
}

// rename renames a cgroup of v1. found and info are what is at the old name.
func (v *View) rename(n, to node, d *host.Dir, in *fuse.RenameIn, oldName, newName string, found error, info unix.Stat_t, ch *change) fuse.Status {
	var there unix.Stat_t
	if ch.again && ch.entry.B != 0 && d.Lookup(newName, &there) == nil && there.Ino == ch.entry.B {
		return fuse.OK // the server before has done it
	}
	if ch.again && ch.entry.B != 0 && (found != nil || info.Ino != ch.entry.B) {
		return fuse.OK // it was renamed, and the host has done more with it since
	}
	if found != nil {
		return status(found)
	}
	if info.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errNotDir // cgroup1_rename: only directories
	}
	if to.hier != n.hier || to.dir != n.dir {
		return fuse.EIO // cgroup1_rename: not to another parent
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

// reserved says whether a guest may not make this name in a directory: it is, or could be, a control file's of a controller that we
// or this host know, or it is the leaf's. What v1
// alone has in every cgroup, such as tasks, is a name like others on v2.
func (v *View) reserved(hier *viewHierarchy, d *host.Dir, name string) bool {
	prefix, _, dotted := strings.Cut(name, ".")
	return hierarchy.ReservedName(name) && (dotted || !hier.v2()) || d.IsBoundary() && name == hierarchy.LeafName || strings.ContainsRune(name, '\n') || dotted && v.host.Hierarchy(prefix) != nil
}
