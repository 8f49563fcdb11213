package host

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Poller waits for events of open control files: kernfs answers POLLPRI|POLLERR from an event until the next read of
// the same open file (kernfs_generic_poll), PSI answers POLLPRI when a trigger fires. A descriptor is reported once
// and then not again until it is added again, unless it is followed. A Host has one Poller for all guests.
//
// It waits on a thread of its own, from the first descriptor on, not in Go's poller. That is an epoll too; an epoll
// polls the files of a nested one, and PSI reports an event only once (psi_trigger_poll).
type Poller struct {
	epoll int           // immutable
	stop  int           // immutable; an eventfd that ends the waiting
	done  chan struct{} // closed after the last report

	mu      sync.Mutex
	told    sync.Cond      // on mu: a sink has returned
	telling int            // guarded by mu; descriptor of the running sink, -1 for none
	waits   map[int]waiter // guarded by mu; by descriptor
	last    uint32         // guarded by mu; the last number given out, never 0
	running bool           // guarded by mu
	closed  bool           // guarded by mu
}

// waiter is the receiver of a descriptor's events.
type waiter struct {
	key    uint64
	sink   func(key uint64, revents uint32)
	every  bool   // by Follow
	number uint32 // distinguishes it from an earlier one of the same descriptor number, whose event may be pending
}

// polling is the Poller of a Host, made at its first use.
type polling struct {
	mu     sync.Mutex
	poller *Poller // guarded by mu
	closed bool    // guarded by mu
}

// Poller returns the one Poller of the host. EMFILE and the like from the kernel, os.ErrClosed after Close of the
// Host.
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

// close ends the Poller. No event is reported after it has returned.
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

// Add waits for the next event of a descriptor and passes it to sink, with key and the events (POLLPRI, POLLERR,
// POLLHUP). A pending event is reported at once. A second Add waits again, with the new key and sink. Remove a
// descriptor before closing it.
//
// All sinks run on one goroutine, one after another: they must not wait for anything, and must call neither the
// Poller nor Close of the Host.
//
// EPERM for a file that cannot be polled, os.ErrClosed after Close of the Host.
func (p *Poller) Add(fd int, key uint64, sink func(key uint64, revents uint32)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, again := p.waits[fd]
	w.key, w.sink, w.every = key, sink, false
	err := error(unix.ENOENT)
	if again {
		err = p.control(unix.EPOLL_CTL_MOD, fd, w.event(fd))
	}
	// Also after a close without Remove and reuse of the number.
	if errors.Is(err, unix.ENOENT) {
		return p.add(fd, w)
	}
	if err != nil {
		p.remove(fd)
		return err
	}
	p.waits[fd] = w
	return nil
}

// Follow is Add for a file that reports an event only once, and would report it to epoll when it is added again: a
// PSI trigger. It reports every event from now on, until Remove. A second Follow sets the new key and sink. Errors
// as of Add.
func (p *Poller) Follow(fd int, key uint64, sink func(key uint64, revents uint32)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, again := p.waits[fd]
	if again && w.every {
		w.key, w.sink = key, sink
		p.waits[fd] = w
		return nil
	}
	// Before the trigger, the kernel did not register the poll.
	if again {
		p.remove(fd)
	}
	return p.add(fd, waiter{key: key, sink: sink, every: true})
}

// add adds an unknown descriptor to epoll. Called with mu held.
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

// event is the waiter's epoll event. EPOLLONESHOT is silent after one report, and polls the file again when it is
// armed, unlike EPOLLET.
func (w waiter) event(fd int) *unix.EpollEvent {
	how := uint32(unix.EPOLLONESHOT)
	if w.every {
		how = unix.EPOLLET
	}
	return &unix.EpollEvent{Events: unix.EPOLLPRI | unix.EPOLLERR | how, Fd: int32(fd), Pad: int32(w.number)}
}

// Remove ends the wait for a descriptor. Its sink is not called after Remove has returned; Remove waits for a
// running sink, so a sink must not call it.
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

// remove removes a descriptor. Called with mu held.
func (p *Poller) remove(fd int) {
	// ENOENT, EBADF: closed before.
	p.control(unix.EPOLL_CTL_DEL, fd, nil)
	delete(p.waits, fd)
}

// control is called with mu held, so that the epoll is open.
func (p *Poller) control(op, fd int, ev *unix.EpollEvent) error {
	if p.closed {
		return os.ErrClosed
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epoll, op, fd, ev))
}

// close ends all waits. No event is reported after it has returned. The descriptors stay open.
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
		// EINTR: Go's own signals.
		n, _ := unix.EpollWait(p.epoll, events, -1)
		for _, ev := range events[:max(n, 0)] {
			if int(ev.Fd) == p.stop {
				return
			}
			p.report(ev)
		}
	}
}

// report passes an event on, unless its descriptor was removed since.
func (p *Poller) report(ev unix.EpollEvent) {
	if w, ok := p.begin(int(ev.Fd), uint32(ev.Pad)); ok {
		// The sink runs under no lock.
		w.sink(w.key, ev.Events)
		p.end()
	}
}

// begin returns the receiver of an event, and makes Remove wait for end.
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
