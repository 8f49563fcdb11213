package host

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Poller waits for open control files to have something to say: kernfs answers POLLPRI|POLLERR from an event until the
// next read of the same open file (kernfs_generic_poll), PSI answers POLLPRI when a trigger fires. Each descriptor is
// reported once and is then quiet until it is added again, unless it is followed. A Host has one for all guests.
//
// It waits on a thread of its own, from the first descriptor on, and not by Go's poller: that is an epoll too, one epoll
// asks another's files whether they are ready, and PSI says so once only (psi_trigger_poll).
type Poller struct {
	epoll int           // immutable
	stop  int           // immutable; an eventfd that ends the waiting
	done  chan struct{} // closed when nothing will be reported any more

	mu      sync.Mutex
	told    sync.Cond      // on mu: a sink has returned
	telling int            // guarded by mu; the descriptor whose sink runs, -1 for none
	waits   map[int]waiter // guarded by mu; by descriptor
	last    uint32         // guarded by mu; the number given out last, of which none is 0
	running bool           // guarded by mu
	closed  bool           // guarded by mu
}

// waiter is who is told of a descriptor.
type waiter struct {
	key    uint64
	sink   func(key uint64, revents uint32)
	every  bool   // by Follow
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
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, os.NewSyscallError("eventfd", err)
	}
	p := &Poller{epoll: epoll, stop: stop, done: make(chan struct{}), telling: -1, waits: map[int]waiter{}}
	p.told.L = &p.mu
	if err := p.control(unix.EPOLL_CTL_ADD, stop, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(stop)}); err != nil {
		unix.Close(epoll)
		unix.Close(stop)
		return nil, err
	}
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
	w.key, w.sink, w.every = key, sink, false
	err := error(unix.ENOENT)
	if again {
		err = p.control(unix.EPOLL_CTL_MOD, fd, w.event(fd))
	}
	if errors.Is(err, unix.ENOENT) { // also where it was closed without Remove, and the number is another file's now
		return p.add(fd, w)
	}
	if err != nil {
		p.remove(fd)
		return err
	}
	p.waits[fd] = w
	return nil
}

// Follow is Add for what tells of an event once only, and so would tell epoll when it is added again: a PSI trigger. Every
// event from now on is reported, until Remove. Followed again, the key and the sink are the new ones. Errors as of Add.
func (p *Poller) Follow(fd int, key uint64, sink func(key uint64, revents uint32)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, again := p.waits[fd]
	if again && w.every {
		w.key, w.sink = key, sink
		p.waits[fd] = w
		return nil
	}
	if again { // before it had a trigger, when the kernel did not remember who polled it
		p.remove(fd)
	}
	return p.add(fd, waiter{key: key, sink: sink, every: true})
}

// add has epoll wait for a descriptor that it does not know. Called with mu held.
func (p *Poller) add(fd int, w waiter) error {
	p.last++
	w.number = p.last
	if err := p.control(unix.EPOLL_CTL_ADD, fd, w.event(fd)); err != nil {
		p.remove(fd)
		return err
	}
	p.waits[fd] = w
	if !p.running {
		p.running = true
		go p.run()
	}
	return nil
}

// event is what epoll is told. EPOLLONESHOT is quiet after one report, and unlike EPOLLET it is looked at anew when it is
// armed.
func (w waiter) event(fd int) *unix.EpollEvent {
	how := uint32(unix.EPOLLONESHOT)
	if w.every {
		how = unix.EPOLLET
	}
	return &unix.EpollEvent{Events: unix.EPOLLPRI | unix.EPOLLERR | how, Fd: int32(fd), Pad: int32(w.number)}
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

// control is called with mu held, so that the epoll is open.
func (p *Poller) control(op, fd int, ev *unix.EpollEvent) error {
	if p.closed {
		return os.ErrClosed
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epoll, op, fd, ev))
}

// close ends all waits. Nothing is reported after it has returned. The descriptors stay open.
func (p *Poller) close() {
	p.mu.Lock()
	again, running := p.closed, p.running
	p.closed = true
	p.mu.Unlock()
	if again {
		return
	}
	if running {
		unix.Write(p.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-p.done
	}
	unix.Close(p.epoll)
	unix.Close(p.stop)
}

func (p *Poller) run() {
	defer close(p.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n, _ := unix.EpollWait(p.epoll, events, -1) // EINTR: Go's own signals
		for _, ev := range events[:max(n, 0)] {
			if int(ev.Fd) == p.stop {
				return
			}
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
