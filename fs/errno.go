package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The one table of what the view itself answers; everything else is the host's own errno (status).
const (
	errDenied   = fuse.Status(unix.EPERM)        // policy says no
	errHidden   = fuse.ENOENT                    // policy does not show it
	errName     = fuse.EINVAL                    // a name no guest may make (rule 11)
	errTooLong  = fuse.Status(unix.ENAMETOOLONG) // a name longer than NAME_MAX, which no listing through FUSE could carry
	errQuota    = fuse.Status(unix.EAGAIN)       // as the kernel at cgroup.max.descendants and cgroup.max.depth
	errExists   = fuse.Status(unix.EEXIST)
	errNotDir   = fuse.ENOTDIR
	errNoCreate = fuse.EACCES                  // kernfs has no ->create: may_create says EACCES, to root too
	errNoOp     = fuse.Status(unix.EOPNOTSUPP) // kernfs has no such operation
	errBusy     = fuse.EBUSY
	errTooMany  = fuse.Status(unix.ENFILE) // as the kernel when it can open no more files (alloc_empty_file)
)

// nameMax is NAME_MAX, the longest name statfs promises (Documentation/filesystems/fuse: FUSE_NAME_MAX is 1024, but a
// listing with a longer name than that would fail as a whole).
const nameMax = 255

// status turns an error of the host into the guest's errno. An error that carries none is EIO.
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
