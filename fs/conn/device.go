package conn

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

const devicePath = "/dev/fuse"

// openDevice opens /dev/fuse. A read must not wait (O_NONBLOCK): waitHot and parked do.
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

// device is a mounted /dev/fuse. It counts its users, so that the descriptor's number is not reused while a system call
// uses it. It is no os.File, which Go's poller would watch (parked.go).
type device struct {
	fd int // immutable

	mu     sync.Mutex
	users  int  // guarded by mu
	closed bool // guarded by mu
}

// control calls f with the descriptor. os.ErrClosed after close.
func (d *device) control(f func(fd int)) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return os.ErrClosed
	}
	d.users++
	d.mu.Unlock()
	defer d.end()
	f(d.fd)
	return nil
}

func (d *device) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users--
	d.closeUnused()
}

// close closes the descriptor once nobody uses it.
func (d *device) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		d.closeUnused()
	}
}

// closeUnused is called with mu held.
func (d *device) closeUnused() {
	if d.closed && d.users == 0 {
		unix.Close(d.fd)
	}
}

// write is one write(2): the kernel accepts a whole reply or notification or nothing of it. It holds no lock,
// because a notification may block in it until another goroutine writes a reply. os.ErrClosed after Close,
// else the error of write(2).
func (d *device) write(b []byte) error {
	var err error
	if cerr := d.control(func(fd int) { err = writeAll(fd, b) }); cerr != nil {
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
	cerr := d.control(func(fd int) { n, err = readRequest(fd, b) })
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
