// Package conn is one FUSE connection: the device, the mount, the negotiation, a read loop and its replies. It knows
// nothing of cgroups.
//
// # Words
//
//   - request: a message of the kernel (include/uapi/linux/fuse.h); reply: its answer; notification: a message of
//     ours without a request.
//   - inline: handled by the serving goroutine itself. slow: it may block, so the serving goroutine handles it under a
//     watchdog (here.go), or a goroutine of its own does.
//
// # What always holds
//
//   - One goroutine at a time serves a connection, and none while no requests come (parked.go): a thousand idle
//     connections hold neither threads nor buffers. A request costs a thread only while it is slow and blocked, and
//     MaxSlow bounds those. Only with io_uring (Transport) has a connection two threads for each processor as well
//     (uring.go).
//   - Every request is answered, even if its handler panics or its answer is malformed: the caller of a request that
//     was read waits uninterruptibly (request_wait_answer in fs/fuse/dev.c), and not even SIGKILL ends the wait.
//   - The connection requests only capabilities that the kernel offered in FUSE_INIT, so the same code serves from
//     Linux 5.4 on.
//   - Nothing here forks, and nothing here touches a mounted path while it serves.
//
// # Lock order
//
// Conn.mu, slowPool.mu, parking.mu, rings.mu and ringThread.mu are taken one at a time and never held across a system
// call that can block or a handler.
//
// # What it will not do
//
// It does not splice, does not cache data (no writeback, no readahead), does not read a connection's requests on
// several goroutines at once but with io_uring, and does not unmount; the process that mounted it does. Another process
// keeps the device open over the death of this one (Survival).
package conn

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// DefaultMaxSlow is how many slow requests of one connection run at once where Config does not say.
const DefaultMaxSlow = 32

// Config describes a connection. FS is required; the zero value of every other field is valid.
type Config struct {
	// FS answers the requests. It is called from many goroutines. Its Init and OnUnmount are never called.
	FS fuse.RawFileSystem
	// Poll answers FUSE_POLL, which go-fuse cannot. Without it the kernel is told ENOSYS once and then takes every
	// file of the connection for always ready.
	Poll func(in PollRequest) (revents uint32, st fuse.Status)
	// Slow reports that a request may block and must leave the serving goroutine. It is called before each request
	// but INIT and INTERRUPT and must be quick. body follows the header and is valid only during the call.
	Slow func(h *fuse.InHeader, body []byte) bool
	// MaxSlow bounds the slow requests that run at once; others queue. 0 is DefaultMaxSlow.
	MaxSlow int
	// FSName is the source shown in mount tables, Subtype what follows "fuse." in the type.
	FSName, Subtype string
	// ReadOnly makes the file system itself read-only, whatever the flags of its mounts.
	ReadOnly bool
	// ReadDirPlus asks for READDIRPLUS in place of READDIR.
	ReadDirPlus bool
	// Passthrough asks for FUSE_PASSTHROUGH (Linux 6.9), see PassthroughOK.
	Passthrough bool
	// Log receives errors; nil is the standard logger.
	Log *logrus.Entry
	// OnPanic is called after a request was answered whose handler panicked: with EIO, unless Slow panicked. With
	// io_uring the reply to a slow one may still be on its way.
	OnPanic func()
	// Survival lets the connection outlive this process; nil for one that does not.
	Survival *Survival
	// Observe receives each answered request: its opcode, the errno (0 for success) and the duration.
	Observe func(opcode uint32, errno int, took time.Duration)
	// Slots bounds the slow requests of many connections together; nil for no such bound.
	Slots *Slots
	// Unpaced starts slow requests at once, whatever other connections do: their handler keeps a flood of them
	// cheap.
	Unpaced bool
	// MaxRate bounds the requests per second; 0 is no bound.
	MaxRate int
	// MaxCPU bounds the processor time of slow requests in the long run, in percent of one processor; 0 is no bound.
	MaxCPU int
	// Transport is how requests come. Only classic can be used with a Survival that has Clone or Init, with Slots,
	// MaxRate and MaxCPU.
	Transport Transport
}

// Conn is one FUSE connection. Make it with New, mount it once, then Serve. All methods may be called from any
// goroutine.
type Conn struct {
	cfg      Config    // immutable
	number   uint64    // immutable: unique among the connections of this process
	proto    *protocol // immutable
	slow     slowPool
	rings    atomic.Pointer[rings] // nil without io_uring; set before the reply to FUSE_INIT
	mounted  chan struct{}         // closed when the device is mounted, or by Close
	finished chan struct{}         // closed when Close is done
	agreed   chan struct{}         // closed when FUSE_INIT is answered
	agree    sync.Once             // closes agreed
	serving  atomic.Bool
	served   chan struct{} // closed when serving has ended
	ended    func(error)   // of Start; set before the connection is served
	result   error         // of Serve; written before served is closed
	watched  bool          // guarded by parked.mu: the device is in the epoll instance
	closing  atomic.Bool   // set under mu; from then on every request is answered ECONNABORTED
	resent   atomic.Bool   // Resend was called, and the kernel has sent no new request since

	suspending atomic.Bool // Suspend was called

	panics      atomic.Uint64 // of handlers
	passthrough atomic.Bool   // negotiated, and this process may register backing files

	mu    sync.Mutex
	fd    int            // guarded by mu; the device before it is mounted, else -1
	dev   *device        // written once under mu, before mounted is closed
	notes sync.WaitGroup // notifications under way; Add only under mu and before closing
}

// New opens the device. The error names what is missing: fs.ErrNotExist where the kernel has no FUSE or /dev lacks the
// node, ENXIO or ENODEV where the module is not loaded, fs.ErrPermission where a device policy denies it.
func New(cfg Config) (*Conn, error) {
	if cfg.FS == nil {
		return nil, errors.New("cannot make a FUSE connection without a file system")
	}
	if err := cfg.checkTransport(); err != nil {
		return nil, err
	}
	fd, err := openDevice()
	if err != nil {
		return nil, err
	}
	return newConn(withDefaults(cfg), fd), nil
}

func withDefaults(cfg Config) Config {
	if cfg.MaxSlow <= 0 {
		cfg.MaxSlow = DefaultMaxSlow
	}
	if cfg.Log == nil {
		cfg.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return cfg
}

var numbers atomic.Uint64

func newConn(cfg Config, fd int) *Conn {
	c := &Conn{
		cfg: cfg, number: numbers.Add(1), fd: fd, mounted: make(chan struct{}), finished: make(chan struct{}),
		agreed: make(chan struct{}), served: make(chan struct{}),
	}
	c.slow.init(cfg.MaxSlow, cfg.Slots)
	c.slow.share.percent = cfg.MaxCPU
	c.proto = newProtocol(cfg, c.panicked)
	return c
}

// attach makes the device usable once it is bound to a superblock. Not earlier: poll on an unbound device reports
// EPOLLERR without joining a wait queue (fuse_dev_poll), so Go's poller would never hear of the device again.
func (c *Conn) attach() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Load() {
		return os.ErrClosed
	}
	fd := c.fd
	c.fd = -1
	if c.cfg.Survival != nil && c.cfg.Survival.Clone {
		clone, err := cloneDevice(fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
		fd = clone
	}
	c.dev = &device{fd: fd}
	close(c.mounted)
	return nil
}

// Close ends the connection: running requests are cancelled, their callers and all other waiters get ECONNABORTED,
// later calls ENOTCONN. It returns when Serve and the last slow request have ended, so a handler must not call it; a
// handler that stays in the kernel delays it. The mount stays, dead, until it is unmounted. Further calls wait for
// the first. The error is always nil.
//
// With io_uring the kernel ends the connection some tens of milliseconds after the return.
func (c *Conn) Close() error {
	c.mu.Lock()
	again := c.closing.Swap(true)
	fd, dev := c.fd, c.dev
	c.fd = -1
	if !again && dev == nil {
		close(c.mounted)
	}
	c.mu.Unlock()
	if again {
		<-c.finished
		return nil
	}
	defer close(c.finished)
	if dev == nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil
	}
	for _, r := range c.slow.close() {
		c.reply(dev, errorReply(r.body, make([]byte, headerSize), fuse.Status(unix.ECONNABORTED)))
	}
	c.settleNotes(dev)
	c.leave()
	c.rings.Load().end()
	// The last reference: fuse_dev_release aborts the connection.
	dev.close()
	if c.serving.Load() {
		<-c.served
	}
	c.rings.Load().end()
	for pause := time.Millisecond; !c.slow.waitIdle(pause); pause = min(2*pause, time.Second) {
		c.cancelSlow()
	}
	for pause := time.Millisecond; !c.rings.Load().waitEnd(pause); pause = min(2*pause, time.Second) {
		c.cancelSlow()
	}
	return nil
}

// settleNotes waits for running notifications. One that drops an entry waits for the directory's lock, whose holder
// may wait for a reply of ours, and closing the device aborts nothing while a notification is in write(2). So
// settleNotes reads and refuses requests until the last notification has returned.
func (c *Conn) settleNotes(dev *device) {
	through := make(chan struct{})
	go func() { c.notes.Wait(); close(through) }()
	m := newMessage(requestSize, headerSize)
	for {
		c.cancelSlow()
		for {
			n, err := dev.readNow(m.in)
			if err != nil {
				break
			}
			c.reply(dev, errorReply(m.in[:n], m.out, fuse.Status(unix.ECONNABORTED)))
		}
		select {
		case <-through:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// device returns the mounted device, or os.ErrClosed.
func (c *Conn) device() (*device, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dev == nil || c.closing.Load() {
		return nil, os.ErrClosed
	}
	return c.dev, nil
}

// panicked logs a panic of a handler.
func (c *Conn) panicked(v any) {
	c.panics.Add(1)
	c.cfg.Log.WithField("panic", fmt.Sprint(v)).Errorf("a request's handler panicked\n%s", stack())
}

// afterPanic calls OnPanic if the handler of the request in m panicked. Call it when the reply is written.
func (c *Conn) afterPanic(m *message) {
	if m.panicked && c.cfg.OnPanic != nil {
		c.cfg.OnPanic()
	}
	m.panicked = false
}

var _ io.Closer = (*Conn)(nil)
