package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The one table of the view's own answers; all others are the host's errnos (status).
const (
	errDenied   = fuse.Status(unix.EPERM)        // policy says no
	errHidden   = fuse.ENOENT                    // policy does not show it
	errName     = fuse.EINVAL                    // a reserved name (rule 11)
	errTooLong  = fuse.Status(unix.ENAMETOOLONG) // a name longer than NAME_MAX, too long for a FUSE listing
	errQuota    = fuse.Status(unix.EAGAIN)       // as the kernel at cgroup.max.descendants and cgroup.max.depth
	errExists   = fuse.Status(unix.EEXIST)
	errNotDir   = fuse.ENOTDIR
	errNoCreate = fuse.EACCES                  // kernfs has no ->create: may_create says EACCES, to root too
	errNoOp     = fuse.Status(unix.EOPNOTSUPP) // kernfs has no such operation
	errBusy     = fuse.EBUSY
	errTooMany  = fuse.Status(unix.ENFILE) // as the kernel at its bound of open files (alloc_empty_file)
)

// nameMax is NAME_MAX, the longest name that statfs promises. FUSE_NAME_MAX is 1024
// (Documentation/filesystems/fuse), but one longer name makes a whole listing fail.
const nameMax = 255

// status turns an error of the host into the guest's errno. EIO for an error without an errno.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var e unix.Errno
	if errors.As(err, &e) {
		return fuse.Status(e)
	}
	return fuse.EIO
}
