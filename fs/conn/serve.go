package conn

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// messages holds the buffers of all idle connections.
var messages = sync.Pool{New: func() any { return newMessage(requestSize, replySize) }}

// server is the serving goroutine's state.
type server struct {
	c   *Conn
	dev *device

	m     *message // nil after putBuffers
	reply []byte   // due before the next read; within m.out
	n     int      // bytes read
	err   error    // of the read

	idle     time.Time     // when the queue was found empty after the last reply; zero if it was not
	slept    time.Duration // duration of the last wait for a request
	replaced bool          // another goroutine serves the connection
	turns    turns
	pace     pace
	spins    spins
}

// Serve reads requests and answers them until the file system is unmounted or Close is called: nil. It waits for a
// mount that has not been made yet. ECONNABORTED after an abort by the administrator (Linux 4.17), else the error of
// reading the device; an error if another Serve runs. Close must be called in any case.
func (c *Conn) Serve() error {
	if err := c.Start(nil); err != nil {
		return err
	}
	<-c.served
	return c.result
}

// Start is Serve without a goroutine that waits: it calls ended with the result, on a goroutine of its own. The error
// says that the connection is served already.
func (c *Conn) Start(ended func(error)) error {
	if c.serving.Swap(true) {
		return errors.New("cannot serve a FUSE connection twice")
	}
	c.ended = ended
	go func() {
		<-c.mounted
		if c.dev == nil || c.closing.Load() {
			c.stopped(nil)
			return
		}
		if there, err := parked.park(newServer(c, c.dev)); !there {
			c.stopped(err)
		}
	}()
	return nil
}

// stopped ends Serve, whose result is err.
func (c *Conn) stopped(err error) {
	c.result = err
	close(c.served)
	if c.ended != nil {
		go c.ended(err)
	}
}

// leave ends Serve if the connection is parked. A serving goroutine sees for itself that the connection is closed or
// suspended.
func (c *Conn) leave() {
	if parked.leave(c) != nil {
		c.stopped(nil)
	}
}

func newServer(c *Conn, dev *device) *server {
	return &server{c: c, dev: dev, pace: pace{rate: c.cfg.MaxRate}}
}

// start serves on a goroutine of its own, until the connection is parked or another goroutine replaces this one. It may
// outlive Serve in the handler of a slow request.
func (s *server) start() {
	go func() {
		c := s.c
		for {
			err := s.serve()
			switch {
			case s.replaced:
				return
			case err != errQuiet:
				c.stopped(err)
				return
			}
			there, err := parked.park(s)
			if there {
				return
			}
			if err != nil {
				c.stopped(fmt.Errorf("cannot serve: %w", err))
				return
			}
		}
	}()
}

// errQuiet says that no request came for a while.
var errQuiet = errors.New("no request")

// serve reads and answers requests until none comes (errQuiet), until another goroutine replaces this one, or until the
// end: nil if the file system is unmounted or the connection closed or suspended.
func (s *server) serve() error {
	defer s.putBuffers()
	c := s.c
	for {
		err := s.next()
		switch {
		case err == nil:
			s.yield()
			if s.dispatch(); s.replaced {
				return nil
			}
			s.idle = time.Time{}
		case err == errQuiet:
			return err
		case c.suspending.Load(), c.closing.Load():
			return nil
		case errors.Is(err, unix.ENODEV), errors.Is(err, os.ErrClosed):
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
	if err := s.dev.control(s.exchange); err != nil {
		return err
	}
	if s.err == unix.EAGAIN {
		return errQuiet
	}
	s.slept = 0
	if !s.idle.IsZero() {
		s.slept = time.Since(s.idle)
	}
	return s.err
}

// exchange is next with the descriptor at hand.
func (s *server) exchange(fd int) {
	if len(s.reply) > 0 {
		s.c.replied(fd, s.reply, writeAll(fd, s.reply))
		s.reply = nil
	}
	if s.m == nil {
		s.m = messages.Get().(*message)
	}
	if s.n, s.err = readRequest(fd, s.m.in); s.err != unix.EAGAIN {
		return
	}
	if s.idle.IsZero() {
		s.idle = time.Now()
	}
	s.waitHot(fd)
}

// putBuffers returns the buffers.
func (s *server) putBuffers() {
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
	case c.isSlow(m, s.n):
		s.slow(in)
	default:
		s.reply = c.respond(m, s.n)
	}
	if m.panicked && !s.replaced {
		s.flush()
		c.afterPanic(m)
	}
}

// slow handles a slow request here, or passes it to another goroutine.
func (s *server) slow(in []byte) {
	if s.serveHere(in) {
		return
	}
	if refusal := s.c.goSlow(s.dev, in); refusal != fuse.OK {
		s.reply = errorReply(in, s.m.out, refusal)
	}
}

// isSlow calls Config.Slow for the request in m.in[:n]. If that panics the request is inline.
func (c *Conn) isSlow(m *message, n int) (slow bool) {
	if c.cfg.Slow == nil || !c.proto.ready.Load() {
		return false
	}
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
			m.panicked = true
		}
	}()
	return c.cfg.Slow(header(m.in), m.in[inHeader:n])
}

// respond handles m.in[:n] and returns the reply, in m.out.
func (c *Conn) respond(m *message, n int) (reply []byte) {
	before := c.panics.Load()
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
			reply = errorReply(m.in[:n], m.out, fuse.EIO)
		}
		// Also true if the handler of another request panicked meanwhile, which does no harm.
		m.panicked = m.panicked || c.panics.Load() != before
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
	_ = dev.control(func(fd int) { c.replied(fd, reply, writeAll(fd, reply)) })
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
