package conn

import (
	"os"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ioctls of include/uapi/linux/fuse.h, since Linux 6.9: _IOW(229, 1, struct fuse_backing_map), _IOW(229, 2, uint32_t).
const (
	iocBackingOpen  = 0x4010e501
	iocBackingClose = 0x4004e502
)

// OpenBacking registers a descriptor's file for FOPEN_PASSTHROUGH and returns its id, which lives until CloseBacking
// or the connection's end; the descriptor may be closed at once. The kernel opens the file anew for each
// passed-through open, with the flags of the opener and the credentials of this process. EPERM without CAP_SYS_ADMIN
// or where passthrough was not negotiated, ELOOP for a file on a stacked file system, os.ErrClosed before the mount
// and after Close.
func (c *Conn) OpenBacking(fd int) (int32, error) {
	m := fuse.BackingMap{Fd: int32(fd)}
	id, err := c.ioctl(iocBackingOpen, unsafe.Pointer(&m))
	return int32(id), err
}

// CloseBacking ends a registration; opens that use it go on. ENOENT for an unknown id, os.ErrClosed as OpenBacking.
func (c *Conn) CloseBacking(id int32) error {
	_, err := c.ioctl(iocBackingClose, unsafe.Pointer(&id))
	return err
}

// PassthroughOK reports that opens may be answered with FOPEN_PASSTHROUGH: Config asks for it, the kernel has it and
// this process may register files. False before the kernel's INIT has been served.
func (c *Conn) PassthroughOK() bool { return c.passthrough.Load() }

// probePassthrough tries a registration after INIT, because only a try shows whether this process has the right.
func (c *Conn) probePassthrough() {
	if c.proto.flags.Load()&fuse.CAP_PASSTHROUGH == 0 {
		return
	}
	fd, err := unix.MemfdCreate("passthrough probe", unix.MFD_CLOEXEC)
	if err != nil {
		c.cfg.Log.WithError(err).Debug("cannot probe for passthrough, reads go through the server")
		return
	}
	defer unix.Close(fd)
	id, err := c.OpenBacking(fd)
	if err != nil {
		c.cfg.Log.WithError(err).Debug("cannot use passthrough, reads go through the server")
		return
	}
	if err := c.CloseBacking(id); err == nil {
		c.passthrough.Store(true)
	}
}

func (c *Conn) ioctl(request uintptr, arg unsafe.Pointer) (uintptr, error) {
	dev, err := c.device()
	if err != nil {
		return 0, err
	}
	var result uintptr
	var errno unix.Errno
	err = dev.control(func(fd int) {
		result, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	})
	if err != nil {
		return 0, os.ErrClosed
	}
	if errno != 0 {
		return 0, os.NewSyscallError("ioctl", errno)
	}
	return result, nil
}
