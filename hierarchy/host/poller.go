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
// reported once and is then quiet until it is added again.
type Poller struct {
	sink func(key uint64, revents uint32)
	file *os.File        // immutable; epoll, itself waited for by Go's own poller, so no thread sleeps here
	raw  syscall.RawConn // immutable
	done chan struct{}   // closed when nothing will be reported any more

	mu    sync.Mutex
	byKey map[uint64]int // guarded by mu; descriptors
	byFD  map[int]uint64 // guarded by mu; keys
}

// NewPoller starts a poller. It calls sink for one descriptor after another, on one goroutine, with the key given to Add
// and the events (POLLPRI, POLLERR, POLLHUP); sink may call Add and Remove, and must not call Close. EMFILE and the like as
// the kernel answers.
func NewPoller(sink func(key uint64, revents uint32)) (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.NewFile leaves it out of Go's poller
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &Poller{
		sink: sink, file: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}),
		byKey: map[uint64]int{}, byFD: map[int]uint64{},
	}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return nil, err
	}
	go p.run()
	return p, nil
}

// Add waits for the next event of a descriptor and reports it under key. One that has something to say already is reported
// at once. Added again it waits again, also under another key, which then replaces the first. Remove it before it is
// closed. EPERM when the file cannot be waited for, os.ErrClosed after Close.
func (p *Poller) Add(key uint64, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.byKey[key]; ok && old != fd {
		p.remove(key)
	}
	if old, ok := p.byFD[fd]; ok && old != key {
		p.remove(old)
	}
	// EPOLLONESHOT: quiet after one report, and unlike EPOLLET it is looked at anew when it is armed.
	ev := unix.EpollEvent{Events: unix.EPOLLPRI | unix.EPOLLERR | unix.EPOLLONESHOT}
	ev.Fd, ev.Pad = int32(uint32(key)), int32(uint32(key>>32)) // the 64 bits of epoll_data
	err := p.control(unix.EPOLL_CTL_MOD, fd, &ev)
	if errors.Is(err, unix.ENOENT) {
		err = p.control(unix.EPOLL_CTL_ADD, fd, &ev)
	}
	if err != nil {
		p.remove(key)
		return err
	}
	p.byKey[key], p.byFD[fd] = fd, key
	return nil
}

// Remove ends the wait under key. A report that is under way may still come.
func (p *Poller) Remove(key uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(key)
}

// remove is Remove with mu held.
func (p *Poller) remove(key uint64) {
	fd, ok := p.byKey[key]
	if !ok {
		return
	}
	p.control(unix.EPOLL_CTL_DEL, fd, nil) // ENOENT, EBADF: closed before
	delete(p.byKey, key)
	delete(p.byFD, fd)
}

func (p *Poller) control(op, fd int, ev *unix.EpollEvent) error {
	var err error
	if cerr := p.raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, ev) }); cerr != nil {
		return os.ErrClosed
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// Close ends all waits. Nothing is reported after it has returned. The descriptors stay open.
func (p *Poller) Close() error {
	err := p.file.Close()
	<-p.done
	return err
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

// report tells of an event, unless its key was removed since.
func (p *Poller) report(ev unix.EpollEvent) {
	key := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
	p.mu.Lock()
	_, ok := p.byKey[key]
	p.mu.Unlock()
	if ok {
		p.sink(key, ev.Events)
	}
}
