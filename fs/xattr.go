package fs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// A guest's extended attributes are kept under a prefix of their own on the real cgroup: real ones would speak to the
// host. systemd-oomd, for one, obeys user.oomd_omit on cgroups that root owns, and all of a guest's are root's there.
//
// The prefix makes some names longer than the kernel takes. Those stand under a digest of the name: the value with one
// prefix, the name itself with another. The name is set first and removed last, and without a value it counts for nothing.
const (
	attrGuest    = "x."
	attrLong     = "l."
	attrLongName = "n."
)

// attrKey is where an attribute of the guest is stored: its value, and its name where that is too long for the former.
type attrKey struct{ value, name string }

// keyOf finds where an attribute is stored.
func keyOf(d *host.Dir, attr string) attrKey {
	if d.FitsXattr(attrGuest + attr) {
		return attrKey{value: attrGuest + attr}
	}
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(attr)))
	return attrKey{value: attrLong + digest, name: attrLongName + digest}
}

// What a cgroup takes of user.* attributes (KERNFS_MAX_USER_XATTRS, KERNFS_USER_XATTR_SIZE_LIMIT in fs/kernfs); here it
// bounds all that a guest stores on one cgroup.
const (
	maxXattrName  = 255 // XATTR_NAME_MAX
	maxXattrs     = 128
	maxXattrBytes = 128 << 10
)

// guestAttr says whether the view keeps attributes of this name: user.*, and trusted.* which only CAP_SYS_ADMIN over the
// host gets through the kernel's own check (xattr_permission).
func guestAttr(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// checkAttr answers for names of no attribute that the view keeps: EINVAL for a prefix with nothing after it
// (xattr_resolve_name), EOPNOTSUPP for the others.
func checkAttr(name string) fuse.Status {
	switch {
	case name == "user." || name == "trusted." || name == "security.":
		return fuse.EINVAL
	case !guestAttr(name):
		return errNoOp
	}
	return fuse.OK
}

// openNode opens the directory of a directory or file node for its attributes.
func (v *View) openNode(id uint64) (node, *host.Dir, fuse.Status) {
	n, st := v.node(id)
	if !st.Ok() {
		return n, nil, st
	}
	if n.hier == nil {
		return n, nil, errNoOp
	}
	if n.file != "" && v.decide(n.hier, n.dir, n.file).Verdict == hierarchy.Hidden {
		return n, nil, errHidden
	}
	d, err := n.hier.acquire(n.dir)
	return n, d, status(err)
}

// openToChange is openNode for what the guest may change, which the boundary's attributes are not.
func (v *View) openToChange(in *fuse.InHeader) (node, *host.Dir, fuse.Status) {
	n, d, st := v.openNode(in.NodeId)
	if st.Ok() && d.IsBoundary() {
		d.Release()
		v.deny(in, "setattr", n, "", "the boundary's attributes are the host's")
		return n, nil, errDenied
	}
	return n, d, st
}

// GetXAttr reads an attribute that the guest has set, typeAttr or openTypeAttr. ENODATA for any other.
func (r *rawFS) GetXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if attr == typeAttr || attr == openTypeAttr {
		return r.view().getType(in.NodeId, dest)
	}
	if st := checkAttr(attr); !st.Ok() {
		if st == errNoOp && strings.HasPrefix(attr, "security.") {
			st = fuseNoData
		}
		return 0, st
	}
	n, d, st := r.view().openNode(in.NodeId)
	if !st.Ok() {
		return 0, st
	}
	defer d.Release()
	size, err := d.GetXattr(n.file, keyOf(d, attr).value, dest)
	return uint32(size), status(err)
}

// ListXAttr lists what the guest has set: trusted.* for who has CAP_SYS_ADMIN over the host alone (simple_xattr_list).
func (r *rawFS) ListXAttr(cancel <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, d, st := r.view().openNode(in.NodeId)
	if st == errNoOp {
		return 0, fuse.OK
	}
	if !st.Ok() {
		return 0, st
	}
	defer d.Release()
	attrs, err := guestAttrs(d, n.file)
	if err != nil {
		return 0, status(err)
	}
	admin := sync.OnceValue(func() bool { return host.HasHostAdmin(int(in.Pid)) })
	var list bytes.Buffer
	for _, a := range attrs {
		if strings.HasPrefix(a.name, "trusted.") && !admin() {
			continue
		}
		list.WriteString(a.name)
		list.WriteByte(0)
	}
	if list.Len() > len(dest) {
		return uint32(list.Len()), fuse.ERANGE
	}
	return uint32(copy(dest, list.Bytes())), fuse.OK
}

// storedAttr is an attribute of the guest: its name, and where its value is stored.
type storedAttr struct{ name, value string }

// guestAttrs are the attributes that the guest has set on a directory (file "") or a file.
func guestAttrs(d *host.Dir, file string) ([]storedAttr, error) {
	all, err := d.ListXattr(file)
	if err != nil {
		return nil, err
	}
	var attrs []storedAttr
	for _, stored := range all {
		if name, ok := strings.CutPrefix(stored, attrGuest); ok {
			attrs = append(attrs, storedAttr{name, stored})
			continue
		}
		if digest, ok := strings.CutPrefix(stored, attrLong); ok {
			var name [maxXattrName]byte
			if n, err := d.GetXattr(file, attrLongName+digest, name[:]); err == nil {
				attrs = append(attrs, storedAttr{string(name[:n]), stored})
			}
		}
	}
	return attrs, nil
}

// SetXAttr sets an attribute. EPERM at the boundary; ENOSPC over what a cgroup takes of user.*, and over the guest's budget; EOPNOTSUPP for security.*
// and ACLs, which would speak to the host's security modules.
func (r *rawFS) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if st := checkAttr(attr); !st.Ok() {
		return st
	}
	n, d, st := r.view().openToChange(&in.InHeader)
	if !st.Ok() {
		return st
	}
	defer d.Release()
	ch := r.view().begin("setxattr", &in.InHeader, isSet(d, n.file, keyOf(d, attr).value), 0, 0)
	if !ch.done {
		st := r.view().setAttribute(d, n.file, attr, data, int(in.Flags), ch)
		if st == fuse.Status(unix.ENOSPC) {
			r.view().exceeded(&in.InHeader, "setxattr", n, "", boundAttributes)
		}
		ch.finish(st)
	}
	return ch.outcome()
}

// setAttribute sets an attribute. One that was to be made new and is there now, with this value, was made by the server before.
func (v *View) setAttribute(d *host.Dir, file, attr string, data []byte, flags int, ch *change) fuse.Status {
	defer ch.made()
	key := keyOf(d, attr)
	if ch.again && flags&unix.XATTR_CREATE != 0 && ch.entry.A == 0 {
		have := make([]byte, len(data)+1)
		if n, err := d.GetXattr(file, key.value, have); err == nil && bytes.Equal(have[:n], data) {
			return fuse.OK
		}
	}
	if st := hasRoom(d, file, key.value, len(data)); !st.Ok() {
		return st
	}
	changes := []attrChange{{file: file, stored: key.value, data: data, flags: flags}}
	if key.name != "" {
		changes = []attrChange{{file: file, stored: key.name, data: []byte(attr)}, changes[0]}
	}
	return status(v.setAttrs(d, guestsAttr, ch.again, changes...))
}

// isSet is 1 where an attribute is set.
func isSet(d *host.Dir, file, stored string) uint64 {
	if _, err := d.GetXattr(file, stored, nil); err != nil {
		return 0
	}
	return 1
}

// hasRoom says whether one more attribute of this size may be stored.
func hasRoom(d *host.Dir, file, stored string, size int) fuse.Status {
	attrs, err := guestAttrs(d, file)
	if err != nil {
		return status(err)
	}
	count, bytes := 1, size
	// The cgroup's share is more than what any of its files has: mostly it says enough, without a look at each attribute.
	look := shareOf(d, "")+uint64(size) > maxXattrBytes
	for _, a := range attrs {
		if a.value == stored {
			continue
		}
		if !look {
			count++
			continue
		}
		n, err := d.GetXattr(file, a.value, nil)
		if err != nil {
			continue
		}
		count, bytes = count+1, bytes+n
	}
	if count > maxXattrs || bytes > maxXattrBytes {
		return fuse.Status(unix.ENOSPC)
	}
	return fuse.OK
}

// RemoveXAttr removes an attribute that the guest has set.
func (r *rawFS) RemoveXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string) fuse.Status {
	if st := checkAttr(attr); !st.Ok() {
		return st
	}
	n, d, st := r.view().openToChange(in)
	if !st.Ok() {
		return st
	}
	defer d.Release()
	key := keyOf(d, attr)
	ch := r.view().begin("removexattr", in, isSet(d, n.file, key.value), 0, 0)
	if ch.done {
		return ch.outcome()
	}
	err := r.view().removeAttr(d, n.file, key.value, ch.again)
	ch.made()
	st = status(err)
	if ch.again && ch.entry.A == 1 && st == fuseNoData {
		st = fuse.OK // the server before has removed it
	}
	if st.Ok() && key.name != "" {
		_ = r.view().removeAttr(d, n.file, key.name, ch.again)
	}
	return ch.finish(st)
}
