package conn

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A connection without requests is parked: it has no goroutine and no buffers, and one goroutine of the process waits
// for all of them, in an epoll instance of their own. Go's poller would watch the device all the time: each request and
// each reply would wake a thread that polls, though a thread of the connection waits for it already (waitHot). Here a
// device is watched only while its connection is parked (EPOLLONESHOT).

// parked are the parked connections of this process.
var parked parking

type parking struct {
	mu      sync.Mutex
	epoll   syscall.RawConn    // guarded by mu; nil before the first connection
	servers map[uint64]*server // guarded by mu; by the number of their connection
}

// park parks the server's connection. False if it must not be: it is being closed or suspended. From then on another
// goroutine may use the server.
func (p *parking) park(s *server) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.c.closing.Load() || s.c.suspending.Load() {
		return false, nil
	}
	if err := p.open(); err != nil {
		return false, err
	}
	op := unix.EPOLL_CTL_MOD
	if !s.c.watched {
		op, s.c.watched = unix.EPOLL_CTL_ADD, true
	}
	p.servers[s.c.number] = s
	if err := p.control(op, s.dev.fd, s.c.number); err != nil {
		delete(p.servers, s.c.number)
		return false, err
	}
	return true, nil
}

// open makes the epoll instance and starts the goroutine that waits. Called with mu held.
func (p *parking) open() error {
	if p.epoll != nil {
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile takes a descriptor without O_NONBLOCK for one that its poller cannot wait for.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	raw, err := os.NewFile(uintptr(fd), "epoll").SyscallConn()
	if err != nil {
		return err
	}
	p.epoll, p.servers = raw, map[uint64]*server{}
	go p.run(raw)
	return nil
}

// control adds a device to the epoll instance, watches it once more, or removes it. Called with mu held.
func (p *parking) control(op, fd int, number uint64) (err error) {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(number), Pad: int32(number >> 32)}
	if cerr := p.epoll.Control(func(epoll uintptr) {
		err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(epoll), op, fd, &event))
	}); cerr != nil {
		return cerr
	}
	return err
}

// leave ends the watch of a connection that is closed or suspended: another process may keep its device open. It
// returns the server if the connection was parked.
func (p *parking) leave(c *Conn) *server {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.watched {
		return nil
	}
	_ = p.control(unix.EPOLL_CTL_DEL, c.dev.fd, c.number)
	return p.take(c.number)
}

// take removes a parked server, nil if there is none. Called with mu held.
func (p *parking) take(number uint64) *server {
	s := p.servers[number]
	delete(p.servers, number)
	return s
}

// run starts the servers of connections with a request.
func (p *parking) run(epoll syscall.RawConn) {
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		if epoll.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		}) != nil {
			return
		}
		p.mu.Lock()
		for _, e := range events[:n] {
			if s := p.take(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32); s != nil {
				s.start()
			}
		}
		p.mu.Unlock()
	}
}
