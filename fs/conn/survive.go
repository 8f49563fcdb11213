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

// A connection lives as long as a process has its device open. If another process has it, the serving one may die:
// the kernel keeps the requests that it has not handed out, and sends those that were read and not answered again
// when the next server asks (FUSE_NOTIFY_RESEND, Linux 6.9), marked as such. That server must know the agreement of
// FUSE_INIT, which the kernel does not repeat.
//
// Before 6.9 the kernel sends nothing again. There each process reads from a device of its own (FUSE_DEV_IOC_CLONE,
// Linux 4.2): when the kernel closes it, the callers of requests read from it get ECONNABORTED, and the connection
// goes on.

const (
	// resendBit marks a request that is sent again: FUSE_UNIQUE_RESEND of include/uapi/linux/fuse.h.
	resendBit = 1 << 63
	// notifyResend is FUSE_NOTIFY_RESEND.
	notifyResend = 7
	// iocClone is FUSE_DEV_IOC_CLONE, _IOR(229, 0, uint32_t).
	iocClone = 0x8004e500
)

// Resent reports that a request is sent again, and returns its number at the first time.
func Resent(unique uint64) (first uint64, again bool) {
	return unique &^ resendBit, unique&resendBit != 0
}

// KernelAtLeast reports a kernel of this version or newer. Use it only for features that cannot be probed: see Offers.
func KernelAtLeast(major, minor int) bool {
	a, b := kernelVersion()
	return a > major || a == major && b >= minor
}

// kernelVersion is 0.0 if it is unknown.
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

// Survival lets a connection outlive its process. The serving goroutines call its functions, which must be quick.
type Survival struct {
	// Clone reads requests from a device of this process's own: for kernels that do not send again. Another process
	// must have the connection's device.
	Clone bool
	// Init receives FUSE_INIT before its reply, for Adopt.
	Init func(request []byte)
	// Passthrough then receives whether opens may be passed through.
	Passthrough func(ok bool)
	// Keep receives each request before it is handled, for Replay; nil where the kernel sends again.
	Keep func(request []byte)
	// Replied receives each request whose reply was written or has no waiting caller any more.
	Replied func(unique uint64)
	// Suspect reports a request to be refused with EIO when it is sent again, because servers have crashed during
	// it.
	Suspect func(unique uint64) bool
	// Settled is called once after Resend, when the kernel has sent everything again. under reports a request that
	// is being answered.
	Settled func(under func(unique uint64) bool)
}

// Adopt makes a Conn of a mounted device, of which it keeps a duplicate, and of the answered FUSE_INIT. It tells the
// kernel nothing: call Resend when the file system is ready, then Serve.
func Adopt(cfg Config, mounted *os.File, init []byte, passthrough bool) (*Conn, error) {
	if cfg.FS == nil || cfg.Survival == nil {
		return nil, errors.New("cannot adopt a FUSE connection without a file system and a Survival")
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
			return nil, errors.New("cannot adopt a FUSE connection: this program cannot use its negotiated FUSE_INIT")
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

// Agreed is closed after the reply to FUSE_INIT. From then on another process can take over the connection.
func (c *Conn) Agreed() <-chan struct{} { return c.agreed }

// Resend makes the kernel send again the requests that were read and not answered. Without support it does nothing.
func (c *Conn) Resend() error {
	if c.cfg.Survival == nil || c.cfg.Survival.Clone {
		return nil
	}
	c.resent.Store(true)
	return c.notify("send again", notifyResend, nil, [2]uint64{}, "")
}

// replayWait bounds the wait for requests that are handled again before new ones are read.
const replayWait = time.Second

// Replay handles requests again in the middle of which a previous server died, where the kernel does not send them
// again. Their callers have got ECONNABORTED, so the replies reach nobody. It waits for the end of the requests, but
// not for one that is blocked. Call it before Serve.
func (c *Conn) Replay(requests [][]byte) {
	dev, err := c.device()
	if err != nil {
		return
	}
	for _, request := range requests {
		h := header(request)
		if h == nil {
			continue
		}
		h.Unique |= resendBit
		if c.suspected(h) || c.goSlow(dev, request) != fuse.OK {
			c.cfg.Survival.Replied(h.Unique)
		}
	}
	for end := time.Now().Add(replayWait); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, busy := c.slow.pending(); !busy {
			return
		}
	}
}

// settle detects the first new request: all that the kernel sends again come before it, since they go to the head of
// the queue (fuse_resend). FORGET and INTERRUPT have queues of their own.
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

// suspected reports that a request is to be refused.
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

// Suspend stops reading requests, for another process to continue, and waits for the replies of those that were
// read. It then closes the device without ending the connection, which another process must have open. Serve returns
// nil. The error is ctx's: some requests are unanswered, and the kernel will have to send them again.
func (c *Conn) Suspend(ctx context.Context) error {
	dev, err := c.device()
	if err != nil {
		return nil
	}
	c.suspending.Store(true)
	c.leave()
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
	dev.close()
	return nil
}

// Device returns the connection's device before it is mounted, for a process that is to keep it open. os.ErrClosed
// later.
func (c *Conn) Device() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return -1, os.ErrClosed
	}
	return c.fd, nil
}

// flush writes a due reply.
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
