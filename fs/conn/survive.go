package conn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A connection lives as long as somebody has its device open. Where another process does, the one that serves may die: what
// the kernel had not given it yet waits, and what it had read and not answered is sent again when the next one asks
// (FUSE_NOTIFY_RESEND, Linux 6.9), marked as such. The next one must then know what was agreed in FUSE_INIT, which the
// kernel does not repeat.
//
// Before 6.9 nothing is sent again. There each process reads from a device of its own (FUSE_DEV_IOC_CLONE, Linux 4.2): with
// it the kernel closes what was read from it, its callers get ECONNABORTED, and the connection goes on.

const (
	// resendBit marks a request that is sent again: FUSE_UNIQUE_RESEND of include/uapi/linux/fuse.h.
	resendBit = 1 << 63
	// notifyResend is FUSE_NOTIFY_RESEND.
	notifyResend = 7
	// iocClone is FUSE_DEV_IOC_CLONE, _IOR(229, 0, uint32_t).
	iocClone = 0x8004e500
)

// Resent says whether a request's number is that of one which was sent before, and gives the number that it had then.
func Resent(unique uint64) (first uint64, again bool) {
	return unique &^ resendBit, unique&resendBit != 0
}

// KernelAtLeast says whether this kernel is of a version or newer. What can be asked for by itself is not to be told by it:
// see Offers.
func KernelAtLeast(major, minor int) bool {
	a, b := kernelVersion()
	return a > major || a == major && b >= minor
}

// kernelVersion is 0.0 where it cannot be told.
var kernelVersion = sync.OnceValues(func() (major, minor int) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return 0, 0
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); n != 2 {
		return 0, 0
	}
	return major, minor
})

// Survival is what lets a connection outlive the process that serves it. Its functions are called by serving goroutines and
// must be quick.
type Survival struct {
	// Clone reads requests from a device of this process's own: for kernels that do not send again. Somebody else must
	// have the connection's device.
	Clone bool
	// Init is given FUSE_INIT before it is answered, for Adopt.
	Init func(request []byte)
	// Passthrough is told, after that, whether opens may be passed through.
	Passthrough func(ok bool)
	// Replied is told of each reply that was written, or that nobody waited for any more.
	Replied func(unique uint64)
	// Suspect says whether a request that is sent again is to be refused with EIO, since it has brought down servers before.
	Suspect func(unique uint64) bool
	// Settled is called once after Resend, when the kernel has sent everything again: under names the requests that are
	// being answered.
	Settled func(under func(unique uint64) bool)
}

// Adopt makes a Conn of a device that is mounted, of which it keeps a duplicate, and of the FUSE_INIT that was answered on it. The
// kernel is not told anything: call Resend when the file system is ready, and Serve.
func Adopt(cfg Config, mounted *os.File, init []byte, passthrough bool) (*Conn, error) {
	if cfg.FS == nil || cfg.Survival == nil {
		return nil, errors.New("cannot adopt a FUSE connection without a file system and what it survives by")
	}
	device, err := unix.FcntlInt(mounted.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	c := newConn(withDefaults(cfg), device)
	if len(init) > 0 {
		m := newMessage(len(init), shortReply)
		copy(m.in, init)
		if reply := c.proto.handle(m, len(init)); len(reply) == 0 || !c.proto.ready.Load() {
			unix.Close(device)
			return nil, errors.New("cannot adopt a FUSE connection: what was agreed on it makes no sense to this program")
		}
		c.agree.Do(func() { close(c.agreed) })
		c.passthrough.Store(passthrough && c.proto.flags.Load()&fuse.CAP_PASSTHROUGH != 0)
	}
	if err := unix.SetNonblock(device, true); err != nil {
		unix.Close(device)
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := c.attach(); err != nil {
		return nil, err
	}
	return c, nil
}

// Agreed is closed when FUSE_INIT is answered: what is then known of the connection is all that another process needs.
func (c *Conn) Agreed() <-chan struct{} { return c.agreed }

// Resend has the kernel send again what was read and not answered. On a kernel that cannot it does nothing.
func (c *Conn) Resend() error {
	if c.cfg.Survival == nil || c.cfg.Survival.Clone {
		return nil
	}
	c.resent.Store(true)
	return c.notify("send again", notifyResend, nil, [2]uint64{}, "")
}

// settle looks for the first request that the kernel has not sent before: all that it sends again come earlier, since they
// go to the head of the queue (fuse_resend). FORGET and INTERRUPT have queues of their own.
func (c *Conn) settle(h *fuse.InHeader) {
	if h == nil || !c.resent.Load() {
		return
	}
	switch {
	case h.Opcode == OpForget, h.Opcode == OpBatchForget, h.Opcode == OpInterrupt, h.Unique&resendBit != 0:
		return
	}
	c.resent.Store(false)
	if s := c.cfg.Survival; s.Settled != nil {
		under, _ := c.slow.pending()
		s.Settled(func(unique uint64) bool { return under[unique] })
	}
}

// suspected says whether a request is to be refused.
func (c *Conn) suspected(h *fuse.InHeader) bool {
	s := c.cfg.Survival
	return s != nil && s.Suspect != nil && h.Unique&resendBit != 0 && !silent(h) && s.Suspect(h.Unique)
}

func (c *Conn) keepInit(request []byte) {
	if s := c.cfg.Survival; s != nil && s.Init != nil {
		s.Init(request)
	}
}

func (c *Conn) keepPassthrough() {
	if s := c.cfg.Survival; s != nil && s.Passthrough != nil {
		s.Passthrough(c.passthrough.Load())
	}
}

var errSuspended = errors.New("the connection is suspended")

// Suspend stops reading requests, for another process to go on, and waits until those that were read are answered. It then
// closes the device without ending the connection, which somebody else must have. Serve returns nil. The error is ctx's: some
// requests are not answered yet, and the kernel will have to send them again.
func (c *Conn) Suspend(ctx context.Context) error {
	dev, err := c.device()
	if err != nil {
		return nil
	}
	c.suspending.Store(true)
	_ = dev.file.SetReadDeadline(time.Unix(1, 0)) // wakes Serve
	if c.serving.Load() {
		select {
		case <-c.served:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		if _, busy := c.slow.pending(); !busy {
			break
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.notes.Wait()
	return dev.file.Close()
}

// Device is the connection's device before it is mounted, for who is to keep it open too. os.ErrClosed later.
func (c *Conn) Device() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return -1, os.ErrClosed
	}
	return c.fd, nil
}

// flush writes the reply that is due.
func (s *server) flush() {
	if len(s.reply) > 0 {
		s.c.reply(s.dev, s.reply)
		s.reply = nil
	}
}

// cloneDevice opens another device of a mounted connection.
func cloneDevice(fd int) (int, error) {
	clone, err := openDevice()
	if err != nil {
		return -1, err
	}
	from := uint32(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(clone), iocClone, uintptr(unsafe.Pointer(&from))); errno != 0 {
		unix.Close(clone)
		return -1, fmt.Errorf("cannot clone the FUSE device: %w", os.NewSyscallError("ioctl", errno))
	}
	return clone, nil
}
