package host

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// Node is a directory or a control file in it, held open for two things: extended attributes of this project, under
// names of its own (Hierarchy.attrName: "owner" is trusted.vcgroupfs.owner), and the times of access and modification.
// The calls go through /proc/self/fd, since those on descriptors refuse O_PATH and a control file may be readable by
// no one.
//
// A directory that several hierarchies of a view show has a part for each of them, which keeps its own attributes of
// the directory and of each of its files, all on the directory.
type Node struct {
	dir        *Dir
	fd         int
	path       string
	part, home string // what precedes the names of attributes: of this node, and of the directory that it belongs to
}

// AttrIn is an attribute of a v2 cgroup that a guest made in one or several of the v1 hierarchies that its view shows:
// which.
const AttrIn = "in"

// Bridged reports that a guest made the cgroup so.
func (d *Dir) Bridged() bool {
	_, err := d.Self().GetXattr(AttrIn, nil)
	return err == nil
}

// Self is the directory itself. It needs no Close, and ends with the directory's Release.
func (d *Dir) Self() Node { return Node{dir: d, fd: d.fd, path: procPath(d.fd)} }

// Part is a hierarchy's part of the directory (file "") or a file in that part, which the host need not have. It needs
// no Close.
func (d *Dir) Part(hierarchy, file string) Node {
	n := d.Self()
	n.part, n.home = hierarchy+"/"+file+"/", hierarchy+"//"
	return n
}

// Shown is a file of the directory that the host need not have. It needs no Close.
func (d *Dir) Shown(file string) Node {
	n := d.Self()
	n.part = "/" + file + "/"
	return n
}

// Home is the directory, or the part of it, that the node belongs to.
func (n Node) Home() Node {
	h := n.dir.Self()
	h.part, h.home = n.home, n.home
	return h
}

// Shared reports a file in a part, or one that is Shown: it has no times of its own.
func (n Node) Shared() bool { return n.part != n.home }

// Stored is the name of an attribute after this project's prefix.
func (n Node) Stored(attr string) string { return n.part + attr }

func (n Node) attrName(attr string) string { return n.dir.boundary.hier.attrName(n.part + attr) }

// Node opens a control file in the directory, or is Self for the name "".
func (d *Dir) Node(name string) (Node, error) {
	if name == "" {
		return d.Self(), nil
	}
	if err := checkName(name); err != nil {
		return Node{}, err
	}
	fd, err := openBelow(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return Node{}, err
	}
	return Node{dir: d, fd: fd, path: procPath(fd)}, nil
}

// Dir is the directory, or the file's.
func (n Node) Dir() *Dir { return n.dir }

// Close closes the file.
func (n Node) Close() {
	if n.fd != n.dir.fd {
		unix.Close(n.fd)
	}
}

// GetXattr reads an attribute into buf and returns its size; without buf the size alone. ENODATA if it is not set,
// ERANGE if buf is too small.
func (n Node) GetXattr(attr string, buf []byte) (int, error) {
	return unix.Getxattr(n.path, n.attrName(attr), buf)
}

// SetXattr sets an attribute; flags are those of setxattr(2). ENOSPC and E2BIG from the kernel, ERANGE for a name
// that is too long.
func (n Node) SetXattr(attr string, data []byte, flags int) error {
	return unix.Setxattr(n.path, n.attrName(attr), data, flags)
}

// RemoveXattr removes an attribute. ENODATA if it is not set.
func (n Node) RemoveXattr(attr string) error {
	return unix.Removexattr(n.path, n.attrName(attr))
}

// ListXattr lists the names of all attributes of this project.
func (n Node) ListXattr() (names []string, err error) {
	buf := make([]byte, 1024)
	size, err := unix.Listxattr(n.path, buf)
	for errors.Is(err, unix.ERANGE) && len(buf) < 1<<20 {
		buf = make([]byte, 4*len(buf))
		size, err = unix.Listxattr(n.path, buf)
	}
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(string(buf[:size]), "\x00") {
		if own, ok := strings.CutPrefix(name, n.attrName("")); ok {
			names = append(names, own)
		}
	}
	return names, nil
}

// SetTimes sets the times; Nsec UTIME_OMIT leaves one unchanged.
func (n Node) SetTimes(atime, mtime unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, n.path, []unix.Timespec{atime, mtime}, 0)
}

// maxXattrName is XATTR_NAME_MAX (include/uapi/linux/limits.h).
const maxXattrName = 255

// FitsXattr reports that the kernel accepts the full name of an attribute. ERANGE for a longer one.
func (n Node) FitsXattr(attr string) bool { return len(n.attrName(attr)) <= maxXattrName }

// GetXattr is Node.GetXattr of one attribute.
func (d *Dir) GetXattr(name, attr string, buf []byte) (int, error) {
	n, err := d.Node(name)
	if err != nil {
		return 0, err
	}
	defer n.Close()
	return n.GetXattr(attr, buf)
}

// SetXattr is Node.SetXattr of one attribute.
func (d *Dir) SetXattr(name, attr string, data []byte, flags int) error {
	n, err := d.Node(name)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.SetXattr(attr, data, flags)
}

// RemoveXattr is Node.RemoveXattr of one attribute.
func (d *Dir) RemoveXattr(name, attr string) error {
	n, err := d.Node(name)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.RemoveXattr(attr)
}
