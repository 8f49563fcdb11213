package fs

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Real cgroups stay owned by root on the host (rule 3). An attribute of the real cgroup keeps the owner and mode
// that the guest sees. A directory has two: its own, and the one that its control files inherit, because the files
// of a cgroup belong to its maker. A file gets its own with the first chown or chmod. Without an attribute the
// guest's root is the owner.
const (
	attrOwn  = "owner" // of a directory or a file itself
	attrMade = "maker" // of a directory, for the files in it

	fuseNoData = fuse.Status(unix.ENODATA)
)

// permMask selects the mode bits that kernfs keeps of a cgroup directory or file.
const permMask = 0o7777

// ownership is an owner and, unless mode is noMode, a mode.
type ownership struct {
	uid, gid uint32
	mode     uint32
}

const noMode = ^uint32(0)

func (r ownership) String() string {
	if r.mode == noMode {
		return fmt.Sprintf("%d %d", r.uid, r.gid)
	}
	return fmt.Sprintf("%d %d %o", r.uid, r.gid, r.mode)
}

// parseOwnership is the inverse of String. False for any other form, which counts as no attribute.
func parseOwnership(raw []byte) (ownership, bool) {
	r := ownership{mode: noMode}
	n, _ := fmt.Sscanf(string(raw), "%d %d %o", &r.uid, &r.gid, &r.mode)
	if n == 3 {
		r.mode &= permMask
	}
	return r, n >= 2
}

func readOwnership(at host.Node, attr string) (ownership, bool) {
	var buf [64]byte
	n, err := at.GetXattr(attr, buf[:])
	if err != nil {
		return ownership{}, false
	}
	return parseOwnership(buf[:n])
}

// allows reports that the mode grants a permission (4 read, 2 write). The server does not know supplementary groups:
// a group permission counts for the primary group.
func (r ownership) allows(c credentials, want uint32) bool {
	switch {
	case c.uid == r.uid:
		return r.mode>>6&want == want
	case c.gid == r.gid:
		return r.mode>>3&want == want
	}
	return r.mode&want == want
}

// ownerOf returns the guest's owner and mode of a directory (file "") or a file in it; hostMode is the host's mode.
// The boundary's are fixed.
func (v *View) ownerOf(hier *viewHierarchy, d *host.Dir, file string, hostMode uint32) ownership {
	if d.IsBoundary() {
		return v.shownOwner(ownership{}, false, hostMode)
	}
	at, err := hier.node(d, file)
	if err != nil {
		own, ok := readOwnership(hier.self(d), attrMade)
		return v.shownOwner(own, ok, hostMode)
	}
	defer at.Close()
	own, ok := storedOwner(at)
	return v.shownOwner(own, ok, hostMode)
}

// storedOwner reads the attribute of a directory or a file, or for a file that its directory has for all of them.
func storedOwner(at host.Node) (ownership, bool) {
	own, ok := readOwnership(at, attrOwn)
	if home := at.Home(); !ok && at != home {
		return readOwnership(home, attrMade)
	}
	return own, ok
}

// shownOwner returns what the guest sees for what is stored.
func (v *View) shownOwner(stored ownership, ok bool, hostMode uint32) ownership {
	if !ok {
		stored = ownership{uid: v.owner.UID, gid: v.owner.GID, mode: noMode}
	}
	if stored.mode == noMode {
		stored.mode = hostMode & permMask
	}
	return stored
}

// changeOwner stores a new owner or mode. Setting the access time to its present value makes the kernel update the
// time of change, and no other.
func (v *View) changeOwner(at host.Node, st *unix.Stat_t, in *fuse.SetAttrIn) error {
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	mode, setMode := in.GetMode()
	if !setUID && !setGID && !setMode {
		return nil
	}
	own, ok := storedOwner(at)
	r := v.shownOwner(own, ok, st.Mode)
	if setUID {
		r.uid = uid
	}
	if setGID {
		r.gid = gid
	}
	if setMode {
		r.mode = mode & permMask
	}
	_, again := conn.Resent(in.Unique)
	if err := v.setAttrs(at, viewsAttr, again, attrChange{stored: attrOwn, data: []byte(r.String())}); err != nil {
		return err
	}
	return at.SetTimes(st.Atim, unix.Timespec{Nsec: unix.UTIME_OMIT})
}

// own stores the maker of a new cgroup as its owner. kernfs gives a child the maker's fsuid and fsgid, or the
// parent's gid below a setgid directory, and mode & 01777 (kernfs_iop_mkdir, vfs_prepare_mode). again: the previous
// server may have begun to.
func (v *View) own(hier *viewHierarchy, d, child *host.Dir, in *fuse.MkdirIn, again bool) error {
	rec := ownership{uid: in.Uid, gid: in.Gid, mode: in.Mode & 0o1777}
	parent := v.ownerOf(hier, d, "", 0o755)
	if parent.mode&unix.S_ISGID != 0 {
		rec.gid = parent.gid
		rec.mode |= unix.S_ISGID
	}
	copied := hier.copied(d)
	if rec == (ownership{uid: v.owner.UID, gid: v.owner.GID, mode: 0o755}) && len(copied) == 0 {
		// No attribute means the same.
		return nil
	}
	changes := []attrChange{
		{stored: attrMade, data: []byte(ownership{uid: rec.uid, gid: rec.gid, mode: noMode}.String())},
		{stored: attrOwn, data: []byte(rec.String())},
	}
	return v.setAttrs(hier.self(child), viewsAttr, again, append(changes, copied...)...)
}

// copied are the flags of a v1 cgroup that its children begin with (cgroup_create, kernel/cgroup/cgroup.c), of those
// that attributes keep.
func (hier *viewHierarchy) copied(d *host.Dir) (all []attrChange) {
	if hier.v2() {
		return nil
	}
	flags := []string{attrFake}
	if hier.bridge != nil {
		flags = append(flags, attrKept+"cgroup.clone_children")
	}
	for _, flag := range flags {
		if hier.flagSet(d, flag) {
			all = append(all, attrChange{stored: flag, data: []byte("1")})
		}
	}
	return all
}
