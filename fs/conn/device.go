package conn

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

const devicePath = "/dev/fuse"

// openDevice opens /dev/fuse for Go's poller, which needs O_NONBLOCK before it sees the descriptor.
func openDevice() (int, error) {
	fd, err := unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		return fd, nil
	}
	perr := &os.PathError{Op: "open", Path: devicePath, Err: err}
	switch {
	case errors.Is(err, unix.ENOENT):
		return -1, fmt.Errorf("cannot use FUSE: %w; load the module (modprobe fuse) "+
			"or make the node (mknod -m 666 /dev/fuse c 10 229)", perr)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return -1, fmt.Errorf("cannot use FUSE: %w; the kernel's module is not loaded (modprobe fuse)", perr)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return -1, fmt.Errorf("cannot use FUSE: %w; allow the character device 10:229 for this process", perr)
	}
	return -1, fmt.Errorf("cannot use FUSE: %w", perr)
}

// device is a mounted /dev/fuse. os.File keeps the descriptor's number from reuse while a system call uses it.
type device struct {
	file *os.File        // immutable
	raw  syscall.RawConn // immutable
}

func newDevice(fd int) (*device, error) {
	file := os.NewFile(uintptr(fd), devicePath)
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &device{file: file, raw: raw}, nil
}

// write is one write(2): the kernel accepts a whole reply or notification or nothing of it. It takes no lock of
// os.File, because a notification may block in it until another goroutine writes a reply. os.ErrClosed after Close,
// else the error of write(2).
func (d *device) write(b []byte) error {
	var err error
	if cerr := d.raw.Control(func(fd uintptr) { err = writeAll(int(fd), b) }); cerr != nil {
		return os.ErrClosed
	}
	return err
}

func writeAll(fd int, b []byte) error {
	for {
		_, err := unix.Write(fd, b)
		if err != unix.EINTR {
			return err
		}
	}
}

// readNow reads a request without waiting. EAGAIN if there is none; os.ErrClosed after Close.
func (d *device) readNow(b []byte) (n int, err error) {
	cerr := d.raw.Control(func(fd uintptr) { n, err = readRequest(int(fd), b) })
	if cerr != nil {
		return 0, os.ErrClosed
	}
	return n, err
}

// readRequest is one read(2), repeated if the request was interrupted while the kernel handed it over (ENOENT).
func readRequest(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR && err != unix.ENOENT {
			return n, err
		}
	}
}

func stack() []byte { return debug.Stack() }
