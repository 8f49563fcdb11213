package host

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// Two things of a directory (name "") or of a control file in it: extended attributes of this project, under names
// of its own (Hierarchy.attrName: "owner" is trusted.vcgroupfs.owner), and the times of access and modification. The
// calls go through /proc/self/fd, since those on descriptors refuse O_PATH and a control file may be readable by no
// one.

// at calls f with a path to the directory or the file.
func (d *Dir) at(name string, f func(path string) error) error {
	if name == "" {
		return f(procPath(d.fd))
	}
	if err := checkName(name); err != nil {
		return err
	}
	fd, err := openBelow(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(procPath(fd))
}

// GetXattr reads an attribute into buf and returns its size; without buf the size alone. ENODATA if it is not set,
// ERANGE if buf is too small.
func (d *Dir) GetXattr(name, attr string, buf []byte) (n int, err error) {
	err = d.at(name, func(path string) error {
		n, err = unix.Getxattr(path, d.boundary.hier.attrName(attr), buf)
		return err
	})
	return n, err
}

// SetXattr sets an attribute; flags are those of setxattr(2). ENOSPC and E2BIG from the kernel, ERANGE for a name
// that is too long.
func (d *Dir) SetXattr(name, attr string, data []byte, flags int) error {
	return d.at(name, func(path string) error { return unix.Setxattr(path, d.boundary.hier.attrName(attr), data, flags) })
}

// maxXattrName is XATTR_NAME_MAX (include/uapi/linux/limits.h).
const maxXattrName = 255

// FitsXattr reports that the kernel accepts the full name of an attribute. ERANGE for a longer one.
func (d *Dir) FitsXattr(attr string) bool { return len(d.boundary.hier.attrName(attr)) <= maxXattrName }

// RemoveXattr removes an attribute. ENODATA if it is not set.
func (d *Dir) RemoveXattr(name, attr string) error {
	return d.at(name, func(path string) error { return unix.Removexattr(path, d.boundary.hier.attrName(attr)) })
}

// ListXattr lists the names of all attributes of this project.
func (d *Dir) ListXattr(name string) (names []string, err error) {
	err = d.at(name, func(path string) error {
		names, err = d.listXattr(path)
		return err
	})
	return names, err
}

func (d *Dir) listXattr(path string) (names []string, err error) {
	buf := make([]byte, 1024)
	n, err := unix.Listxattr(path, buf)
	for errors.Is(err, unix.ERANGE) && len(buf) < 1<<20 {
		buf = make([]byte, 4*len(buf))
		n, err = unix.Listxattr(path, buf)
	}
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if own, ok := strings.CutPrefix(name, d.boundary.hier.attrName("")); ok {
			names = append(names, own)
		}
	}
	return names, nil
}

// SetTimes sets the times; Nsec UTIME_OMIT leaves one unchanged.
func (d *Dir) SetTimes(name string, atime, mtime unix.Timespec) error {
	return d.at(name, func(path string) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{atime, mtime}, 0)
	})
}
