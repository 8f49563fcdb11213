package conn

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// messages holds the buffers of all idle connections.
var messages = sync.Pool{New: func() any { return newMessage(requestSize, replySize) }}

// server is the serving goroutine's state.
type server struct {
	c    *Conn
	dev  *device
	step func(fd uintptr) bool // exchange, bound once

	m     *message // nil after park
	reply []byte   // due before the next read; within m.out
	n     int      // bytes read
	err   error    // of the read

	idle       time.Time     // start of the last wait
	slept      time.Duration // duration of the last wait
	inline     bool          // the last request was not handed to another goroutine
	queueEmpty bool          // the queue was empty after the last reply
	turns      turns
	pace       pace
	vain, skip int // number of polls to skip after a vain one, and of those left
}

// Serve reads requests and answers them until the file system is unmounted or Close is called: nil. It waits for a
// mount that has not been made yet. The caller's goroutine is the serving one. ECONNABORTED after an abort by the
// administrator (Linux 4.17), else the error of reading the device; an error if another Serve runs. Close must be
// called in any case.
func (c *Conn) Serve() error {
	if c.serving.Swap(true) {
		return errors.New("cannot serve a FUSE connection twice")
	}
	defer close(c.served)
	<-c.mounted
	dev := c.dev
	if dev == nil || c.closing.Load() {
		return nil
	}
	s := &server{c: c, dev: dev, pace: pace{rate: c.cfg.MaxRate}}
	s.step = s.exchange
	defer s.park()
	for {
		err := s.next()
		switch {
		case err == nil:
			s.yield()
			s.dispatch()
		case c.suspending.Load():
			return nil
		case errors.Is(err, unix.ENODEV), errors.Is(err, os.ErrClosed):
			return nil
		case c.closing.Load():
			return nil
		default:
			return fmt.Errorf("cannot serve: %w", &os.PathError{Op: "read", Path: devicePath, Err: err})
		}
	}
}

// next writes the reply that is due and waits for a request.
func (s *server) next() error {
	if s.c.suspending.Load() {
		s.flush()
		return errSuspended
	}
	s.idle, s.queueEmpty = time.Time{}, false
	if err := s.dev.raw.Read(s.step); err == nil {
		s.slept = 0
		if !s.idle.IsZero() {
			s.slept = time.Since(s.idle)
		}
		return s.err
	}
	if s.c.suspending.Load() {
		s.flush()
		return errSuspended
	}
	// The device is closed or reports EPOLLERR alone. Go's poller returns the same error for both; the read
	// distinguishes them.
	if s.m == nil {
		s.m = messages.Get().(*message)
	}
	s.n, s.err = s.dev.readNow(s.m.in)
	// The poller fails on a live device: impossible, and must not spin.
	if s.err == unix.EAGAIN {
		time.Sleep(time.Millisecond)
		return s.next()
	}
	return s.err
}

// exchange is next with the descriptor at hand; false means wait until the descriptor is readable.
func (s *server) exchange(fd uintptr) bool {
	if len(s.reply) > 0 {
		s.c.replied(int(fd), s.reply, writeAll(int(fd), s.reply))
		s.reply = nil
	}
	if s.m == nil {
		s.m = messages.Get().(*message)
	}
	s.n, s.err = readRequest(int(fd), s.m.in)
	if s.err == unix.EAGAIN {
		s.queueEmpty = true
		s.poll(int(fd))
	}
	if s.err == unix.EAGAIN {
		s.idle = time.Now()
		s.park()
		return false
	}
	return true
}

// Waking up is most of a round trip, so while requests come fast the serving goroutine polls the device for a while
// before it waits. Measured with one client on two cores of a virtual machine, against waiting at once: open, read
// and close in 89 µs instead of 167, pread in 18 instead of 30, LOOKUP in 51 instead of 95. With three clients on
// the two cores it won on pread and was even on the rest, but only since vain polls make further ones rarer.
const (
	pollFor = 50 * time.Microsecond
	fast    = 200 * time.Microsecond // from the start of the wait to the next request, waking up included
	maxVain = 64
)

// pollers counts the polling goroutines of this process. At most half of the processors poll: the clients need the
// rest.
var pollers atomic.Int32

// poll tries for a while to read a request if the last one came fast and this goroutine answered it. Otherwise
// another goroutine needs the processor.
func (s *server) poll(fd int) {
	start := time.Now()
	if s.slept > fast || !s.inline {
		return
	}
	if s.skip > 0 {
		s.skip--
		return
	}
	defer pollers.Add(-1)
	if int(pollers.Add(1)) > runtime.NumCPU()/2 {
		return
	}
	for s.err == unix.EAGAIN && time.Since(start) < pollFor {
		s.n, s.err = readRequest(fd, s.m.in)
	}
	if s.err != unix.EAGAIN {
		s.vain /= 2
		return
	}
	s.vain = min(2*s.vain+4, maxVain)
	s.skip = s.vain
}

// park returns the buffers.
func (s *server) park() {
	if s.m != nil {
		messages.Put(s.m)
		s.m = nil
	}
}

// dispatch answers the request in s.m, or passes it to another goroutine.
func (s *server) dispatch() {
	c, m := s.c, s.m
	in := m.in[:s.n]
	h := header(in)
	s.inline = true
	c.settle(h)
	switch {
	case h == nil:
		c.cfg.Log.Errorf("a request of %d bytes from the kernel, shorter than its header", s.n)
	case c.closing.Load():
		s.reply = errorReply(in, m.out, fuse.Status(unix.ECONNABORTED))
	case h.Opcode == OpInterrupt:
		s.reply = c.interrupted(s.dev, in, m.out)
	case h.Opcode == OpInit:
		c.keepInit(in)
		c.offerURing(s.dev, in)
		s.reply = c.respond(m, s.n)
		if c.proto.ready.Load() {
			// The kernel has processed the reply when the write returns.
			c.reply(s.dev, s.reply)
			s.reply = nil
			c.rings.Load().start()
			c.probePassthrough()
			c.keepPassthrough()
			c.agree.Do(func() { close(c.agreed) })
		}
	case c.suspected(h):
		s.reply = errorReply(in, m.out, fuse.EIO)
	case c.isSlow(h, in[inHeader:]):
		if refusal := c.goSlow(s.dev, in); refusal != fuse.OK {
			s.reply = errorReply(in, m.out, refusal)
		} else {
			s.inline = false
		}
	default:
		s.reply = c.respond(m, s.n)
	}
}

// isSlow calls Config.Slow. If that panics the request is inline.
func (c *Conn) isSlow(h *fuse.InHeader, body []byte) (slow bool) {
	if c.cfg.Slow == nil || !c.proto.ready.Load() {
		return false
	}
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
		}
	}()
	return c.cfg.Slow(h, body)
}

// respond handles m.in[:n] and returns the reply, in m.out.
func (c *Conn) respond(m *message, n int) (reply []byte) {
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
			reply = errorReply(m.in[:n], m.out, fuse.EIO)
		}
	}()
	h := header(m.in[:n])
	if s := c.cfg.Survival; s != nil && s.Keep != nil && h != nil && h.Unique&resendBit == 0 {
		s.Keep(m.in[:n])
	}
	if c.cfg.Observe != nil && h != nil {
		defer func(opcode uint32, start time.Time) { c.observe(opcode, start, reply) }(h.Opcode, time.Now())
	}
	if h != nil && h.Opcode == OpPoll {
		return c.poll(m.in[:n], m.out)
	}
	return c.proto.handle(m, n)
}

func (c *Conn) observe(opcode uint32, start time.Time, reply []byte) {
	errno := 0
	if len(reply) >= headerSize {
		errno = int(-(*fuse.OutHeader)(pointer(reply, 0)).Status)
	}
	c.cfg.Observe(opcode, errno, time.Since(start))
}

// reply writes a reply from any goroutine.
func (c *Conn) reply(dev *device, reply []byte) {
	if len(reply) == 0 {
		return
	}
	if c.rings.Load().reply(reply) {
		return
	}
	_ = dev.raw.Control(func(fd uintptr) { c.replied(int(fd), reply, writeAll(int(fd), reply)) })
}

// replied checks the result of writing a reply. ENOENT: the connection was aborted and no caller waits. Any other
// error means a malformed reply (fuse_dev_do_write), whose caller still waits: it gets EIO.
func (c *Conn) replied(fd int, reply []byte, err error) {
	o := (*fuse.OutHeader)(pointer(reply, 0))
	if s := c.cfg.Survival; s != nil && s.Replied != nil {
		defer s.Replied(o.Unique)
	}
	if err == nil || err == unix.ENOENT || err == unix.ENODEV || err == unix.EPERM {
		return
	}
	c.cfg.Log.WithError(err).Errorf("the kernel refuses a reply of %d bytes, status %v",
		len(reply), syscall.Errno(-o.Status))
	if o.Status == 0 {
		o.Length, o.Status = uint32(headerSize), -int32(fuse.EIO)
		_ = writeAll(fd, reply[:headerSize])
	}
}
