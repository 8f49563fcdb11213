package host

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Poller waits for open control files to have something to say: kernfs answers POLLPRI|POLLERR from an event until the
// next read of the same open file (kernfs_generic_poll), PSI answers POLLPRI when a trigger fires. Each descriptor is
// reported once and is then quiet until it is added again. A Host has one for all guests.
type Poller struct {
	file *os.File        // immutable; epoll, itself waited for by Go's own poller, so no thread sleeps here
	raw  syscall.RawConn // immutable
	done chan struct{}   // closed when nothing will be reported any more

	mu      sync.Mutex
	told    sync.Cond      // on mu: a sink has returned
	telling int            // guarded by mu; the descriptor whose sink runs, -1 for none
	waits   map[int]waiter // guarded by mu; by descriptor
	last    uint32         // guarded by mu; the number given out last
}

// waiter is who is told of a descriptor.
type waiter struct {
	key    uint64
	sink   func(key uint64, revents uint32)
	number uint32 // tells it from an earlier one of the same descriptor's number, whose event may be on its way
}

// polling is the Poller of a Host, which begins when it is asked for.
type polling struct {
	mu     sync.Mutex
	poller *Poller // guarded by mu
	closed bool    // guarded by mu
}

// Poller is the one Poller of the host. EMFILE and the like as the kernel answers, os.ErrClosed after Close of the Host.
func (h *Host) Poller() (*Poller, error) {
	h.polling.mu.Lock()
	defer h.polling.mu.Unlock()
	if h.polling.closed {
		return nil, os.ErrClosed
	}
	if h.polling.poller == nil {
		p, err := newPoller()
		if err != nil {
			return nil, err
		}
		h.polling.poller = p
	}
	return h.polling.poller, nil
}

// close ends the Poller. Nothing is reported after it has returned.
func (p *polling) close() {
	p.mu.Lock()
	p.closed = true
	poller := p.poller
	p.mu.Unlock()
	if poller != nil {
		poller.close()
	}
}

func newPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.NewFile leaves it out of Go's poller
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &Poller{
		file: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}), telling: -1, waits: map[int]waiter{},
	}
	p.told.L = &p.mu
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return nil, err
	}
	go p.run()
	return p, nil
}

// Add waits for the next event of a descriptor and has sink told of it, with key and the events (POLLPRI, POLLERR,
// POLLHUP). One that has something to say already is reported at once. Added again it waits again; the key and the sink
// are then the new ones. Remove it before it is closed.
//
// All sinks are called on one goroutine, one after another: they must not wait for anything, and must call neither the
// Poller nor Close of the Host.
//
// EPERM when the file cannot be waited for, os.ErrClosed after Close of the Host.
func (p *Poller) Add(fd int, key uint64, sink func(key uint64, revents uint32)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, again := p.waits[fd]
	w.key, w.sink = key, sink
	err := error(unix.ENOENT)
	if again {
		err = p.arm(unix.EPOLL_CTL_MOD, fd, w.number)
	}
	if errors.Is(err, unix.ENOENT) { // also where it was closed without Remove, and the number is another file's now
		p.last++
		w.number = p.last
		err = p.arm(unix.EPOLL_CTL_ADD, fd, w.number)
	}
	if err != nil {
		p.remove(fd)
		return err
	}
	p.waits[fd] = w
	return nil
}

// arm makes a descriptor be reported once: EPOLLONESHOT, which unlike EPOLLET looks at it anew each time.
func (p *Poller) arm(op, fd int, number uint32) error {
	return p.control(op, fd, &unix.EpollEvent{
		Events: unix.EPOLLPRI | unix.EPOLLERR | unix.EPOLLONESHOT, Fd: int32(fd), Pad: int32(number),
	})
}

// Remove ends the wait for a descriptor. Its sink is not called any more once Remove has returned; it waits for one that
// runs, so a sink must not call it.
func (p *Poller) Remove(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.telling == fd {
		p.told.Wait()
	}
	if _, ok := p.waits[fd]; ok {
		p.remove(fd)
	}
}

// remove forgets a descriptor. Called with mu held.
func (p *Poller) remove(fd int) {
	p.control(unix.EPOLL_CTL_DEL, fd, nil) // ENOENT, EBADF: closed before
	delete(p.waits, fd)
}

func (p *Poller) control(op, fd int, ev *unix.EpollEvent) error {
	var err error
	if cerr := p.raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, ev) }); cerr != nil {
		return os.ErrClosed
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// close ends all waits. Nothing is reported after it has returned. The descriptors stay open.
func (p *Poller) close() {
	p.file.Close()
	<-p.done
}

func (p *Poller) run() {
	defer close(p.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := p.raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		})
		if err != nil {
			return // closed
		}
		for _, ev := range events[:n] {
			p.report(ev)
		}
	}
}

// report tells of an event, unless its descriptor was removed since.
func (p *Poller) report(ev unix.EpollEvent) {
	if w, ok := p.begin(int(ev.Fd), uint32(ev.Pad)); ok {
		w.sink(w.key, ev.Events) // under no lock
		p.end()
	}
}

// begin says whom to tell, and has Remove wait for the end.
func (p *Poller) begin(fd int, number uint32) (waiter, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, ok := p.waits[fd]
	if !ok || w.number != number {
		return waiter{}, false
	}
	p.telling = fd
	return w, true
}

func (p *Poller) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.telling = -1
	p.told.Broadcast()
}
