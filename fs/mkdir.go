package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

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
	if n.tree == nil || n.tree.flat {
		return errDenied
	}
	d, err := n.tree.acquire(n.dir)
	if err != nil {
		return status(err)
	}
	defer d.Release()
	if st := v.mayName(n.tree, d, name); !st.Ok() {
		return st
	}
	if st := n.tree.takeQuota(d); !st.Ok() {
		return st
	}
	n.tree.expected.add(d.ID(), name)
	if err := d.Mkdir(name, 0o755); err != nil {
		n.tree.expected.take(d.ID(), name)
		n.tree.quota.give()
		return status(err)
	}
	if err := v.own(n.tree, d, name, in); err != nil {
		d.Rmdir(name)
		n.tree.quota.give()
		return status(err)
	}
	return v.lookup(n.tree, d, name, out)
}

// mayName refuses the names that no guest may make (rule 11). One that exists is the host's EEXIST to say.
func (v *View) mayName(t *tree, d *host.Dir, name string) fuse.Status {
	if len(name) > nameMax {
		return errTooLong
	}
	if !v.reserved(name) {
		return fuse.OK
	}
	var st unix.Stat_t
	if d.Lookup(name, &st) == nil && (st.Mode&unix.S_IFMT == unix.S_IFDIR || v.decide(t, d.ID(), name).Verdict != hierarchy.Hidden) {
		return errExists
	}
	return errName
}

// takeQuota reserves one cgroup below d, or says EAGAIN, as the kernel does at cgroup.max.depth and
// cgroup.max.descendants.
func (t *tree) takeQuota(d *host.Dir) fuse.Status {
	if t.quota.bound.Depth > 0 {
		depth, err := d.Depth()
		if err != nil {
			return status(err)
		}
		if depth >= t.quota.bound.Depth {
			return errQuota
		}
	}
	ok, err := t.quota.take(t.boundary.CountCgroups)
	if err != nil {
		return status(err)
	}
	if !ok {
		return errQuota
	}
	return fuse.OK
}

// own records who made a cgroup. kernfs gives a child the maker's fsuid and fsgid, or the parent's gid below a setgid
// directory, and mode & 01777 (kernfs_iop_mkdir, vfs_prepare_mode).
func (v *View) own(t *tree, d *host.Dir, name string, in *fuse.MkdirIn) error {
	rec := record{uid: in.Uid, gid: in.Gid, mode: in.Mode & 0o1777}
	parent := v.ownerOf(t, d, "", 0o755)
	if parent.mode&unix.S_ISGID != 0 {
		rec.gid = parent.gid
		rec.mode |= unix.S_ISGID
	}
	inherit := !t.v2() && fakeSet(d)
	if rec == (record{uid: v.owner.UID, gid: v.owner.GID, mode: 0o755}) && !inherit {
		return nil // what no record means
	}
	child, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	defer child.Release()
	if inherit {
		if err := child.SetXattr("", attrFake, []byte("1"), 0); err != nil {
			return err
		}
	}
	if err := child.SetXattr("", attrMade, []byte(record{uid: rec.uid, gid: rec.gid, mode: noMode}.String()), 0); err != nil {
		return err
	}
	return child.SetXattr("", attrOwn, []byte(rec.String()), 0)
}

// Rmdir removes a cgroup: EBUSY while it has children or processes, as the host says.
func (r *rawFS) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	v := r.view()
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if n.tree == nil {
		return errDenied
	}
	d, err := n.tree.acquire(n.dir)
	if err != nil {
		return status(err)
	}
	defer d.Release()
	if d.IsBoundary() && n.tree.v2() && name == hierarchy.LeafName {
		return errBusy
	}
	n.tree.expected.add(d.ID(), name)
	if err := d.Rmdir(name); err != nil {
		n.tree.expected.take(d.ID(), name)
		return status(err)
	}
	n.tree.quota.give()
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
	if n.tree == nil || n.tree.v2() {
		return errDenied // cgroup2 has no ->rename: kernfs_iop_rename says EPERM
	}
	d, err := n.tree.acquire(n.dir)
	if err != nil {
		return status(err)
	}
	defer d.Release()
	var info unix.Stat_t
	if err := d.Lookup(oldName, &info); err != nil {
		return status(err)
	}
	if info.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errNotDir // cgroup1_rename: only directories
	}
	if to.tree != n.tree || to.dir != n.dir {
		return fuse.EIO // cgroup1_rename: not to another parent
	}
	if st := v.mayName(n.tree, d, newName); !st.Ok() {
		return st
	}
	n.tree.expected.add(d.ID(), oldName)
	n.tree.expected.add(d.ID(), newName)
	err = d.Rename(oldName, newName)
	if err != nil {
		n.tree.expected.take(d.ID(), oldName)
		n.tree.expected.take(d.ID(), newName)
	}
	return status(err)
}
