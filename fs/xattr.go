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

// The real cgroup keeps a guest's extended attributes under a prefix, because unprefixed ones would have an effect
// on the host: systemd-oomd obeys user.oomd_omit on cgroups of root, and on the host all of a guest's cgroups are
// root's.
//
// The prefix makes some names too long for the kernel. Those are stored under a digest of the name: the value with
// one prefix, the name with another. The name is set first and removed last; a name without a value does not count.
const (
	attrGuest    = "x."
	attrLong     = "l."
	attrLongName = "n."
)

// attrKey says where an attribute of the guest is stored: the value, and the name if it is too long for the first.
type attrKey struct{ value, name string }

// keyOf returns where an attribute is stored.
func keyOf(at host.Node, attr string) attrKey {
	if at.FitsXattr(attrGuest + attr) {
		return attrKey{value: attrGuest + attr}
	}
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(attr)))
	return attrKey{value: attrLong + digest, name: attrLongName + digest}
}

// The kernel's bounds of user.* attributes of a cgroup (KERNFS_MAX_USER_XATTRS, KERNFS_USER_XATTR_SIZE_LIMIT in
// fs/kernfs). Here they bound all attributes that a guest stores on one cgroup.
const (
	maxXattrName  = 255 // XATTR_NAME_MAX
	maxXattrs     = 128
	maxXattrBytes = 128 << 10
)

// guestAttr reports that the view keeps attributes of this name: user.* and trusted.*. The kernel admits only
// callers with CAP_SYS_ADMIN over the host to trusted.* (xattr_permission).
func guestAttr(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// checkAttr refuses the names that the view does not keep: EINVAL for a bare prefix (xattr_resolve_name), EOPNOTSUPP
// for the others.
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
	d, err := n.acquire()
	return n, d, status(err)
}

// openToChange is openNode for a change, which ends with done. EPERM at the boundary.
func (v *View) openToChange(in *fuse.InHeader) (n node, d *host.Dir, done func(), st fuse.Status) {
	n, d, st = v.openNode(in.NodeId)
	if !st.Ok() {
		return n, nil, nil, st
	}
	defer d.Release()
	if d.IsBoundary() {
		v.deny(in, "setattr", n, "", "the boundary's attributes are the host's")
		return n, nil, nil, errDenied
	}
	d, done, err := n.change()
	return n, d, done, status(err)
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
	at, err := n.hier.node(d, n.file)
	if err != nil {
		return 0, status(err)
	}
	defer at.Close()
	size, err := at.GetXattr(keyOf(at, attr).value, dest)
	return uint32(size), status(err)
}

// ListXAttr lists the attributes that the guest has set; trusted.* only for callers with CAP_SYS_ADMIN over the host
// (simple_xattr_list).
func (r *rawFS) ListXAttr(cancel <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, d, st := r.view().openNode(in.NodeId)
	if st == errNoOp {
		return 0, fuse.OK
	}
	if !st.Ok() {
		return 0, st
	}
	defer d.Release()
	at, err := n.hier.node(d, n.file)
	if err != nil {
		return 0, status(err)
	}
	defer at.Close()
	attrs, err := guestAttrs(at)
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

// storedAttr is an attribute of the guest: its name, and the stored name of its value.
type storedAttr struct{ name, value string }

// guestAttrs returns the attributes that the guest has set on a directory or a file.
func guestAttrs(at host.Node) ([]storedAttr, error) {
	all, err := at.ListXattr()
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
			if n, err := at.GetXattr(attrLongName+digest, name[:]); err == nil {
				attrs = append(attrs, storedAttr{string(name[:n]), stored})
			}
		}
	}
	return attrs, nil
}

// SetXAttr sets an attribute. EPERM at the boundary; ENOSPC over the kernel's bounds of user.* or the guest's
// budget; EOPNOTSUPP for security.* and ACLs, which would affect the host's security modules.
func (r *rawFS) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if st := checkAttr(attr); !st.Ok() {
		return st
	}
	n, d, done, st := r.view().openToChange(&in.InHeader)
	if !st.Ok() {
		return st
	}
	defer done()
	at, err := n.hier.node(d, n.file)
	if err != nil {
		return status(err)
	}
	defer at.Close()
	ch := r.view().begin("setxattr", &in.InHeader, func() (a, b, c uint64) {
		return isSet(at, keyOf(at, attr).value), 0, 0
	})
	if !ch.done {
		st := r.view().setAttribute(at, attr, data, int(in.Flags), ch)
		if st == fuse.Status(unix.ENOSPC) {
			r.view().exceeded(&in.InHeader, "setxattr", n, "", boundAttributes)
		}
		ch.finish(st)
	}
	return ch.outcome()
}

// setAttribute sets an attribute. A request sent again with XATTR_CREATE finds the attribute with this value if the
// previous server made it.
func (v *View) setAttribute(at host.Node, attr string, data []byte, flags int, ch *change) fuse.Status {
	defer ch.made()
	key := keyOf(at, attr)
	if ch.again && flags&unix.XATTR_CREATE != 0 && ch.entry.A == 0 {
		have := make([]byte, len(data)+1)
		if n, err := at.GetXattr(key.value, have); err == nil && bytes.Equal(have[:n], data) {
			return fuse.OK
		}
	}
	if st := hasRoom(at, key.value, len(data)); !st.Ok() {
		return st
	}
	changes := []attrChange{{stored: key.value, data: data, flags: flags}}
	if key.name != "" {
		changes = []attrChange{{stored: key.name, data: []byte(attr)}, changes[0]}
	}
	return status(v.setAttrs(at, guestsAttr, ch.again, changes...))
}

// isSet returns 1 for an attribute that is set, else 0.
func isSet(at host.Node, stored string) uint64 {
	if _, err := at.GetXattr(stored, nil); err != nil {
		return 0
	}
	return 1
}

// hasRoom reports room for one more attribute of this size. ENOSPC without.
func hasRoom(at host.Node, stored string, size int) fuse.Status {
	attrs, err := guestAttrs(at)
	if err != nil {
		return status(err)
	}
	count, bytes := 1, size
	// The cgroup's share bounds the attributes of any of its files. Mostly it suffices, without reading each
	// attribute.
	look := shareOf(at.Dir(), "")+uint64(size) > maxXattrBytes
	for _, a := range attrs {
		if a.value == stored {
			continue
		}
		if !look {
			count++
			continue
		}
		n, err := at.GetXattr(a.value, nil)
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
	n, d, done, st := r.view().openToChange(in)
	if !st.Ok() {
		return st
	}
	defer done()
	at, err := n.hier.node(d, n.file)
	if err != nil {
		return status(err)
	}
	defer at.Close()
	key := keyOf(at, attr)
	ch := r.view().begin("removexattr", in, func() (a, b, c uint64) { return isSet(at, key.value), 0, 0 })
	if ch.done {
		return ch.outcome()
	}
	err = r.view().removeAttr(at, key.value, ch.again)
	ch.made()
	st = status(err)
	if ch.again && ch.entry.A == 1 && st == fuseNoData {
		// The previous server removed it.
		st = fuse.OK
	}
	if st.Ok() && key.name != "" {
		_ = r.view().removeAttr(at, key.name, ch.again)
	}
	return ch.finish(st)
}
