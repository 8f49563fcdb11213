package holder

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// manager is the service manager that started us, by systemd's protocol (sd_notify(3),
// systemd.io/FILE_DESCRIPTOR_STORE): the holder tells it the daemon's state, and it keeps descriptors over the holder's
// death. The holder does not wait for it: a message that its socket has no room for is sent again later, in order.
// Without an address there is no manager. Its methods are for the deciding goroutine.
type manager struct {
	address *unix.SockaddrUnix
	every   time.Duration // between two signs of life, 0 for none wanted
	last    time.Time     // the last one
	log     *logrus.Entry
	later   func()   // has retry called soon
	queue   []notice // messages that are sent again
	refused bool     // the queue was full; logged once until it is empty
}

// notice is a message to the service manager.
type notice struct {
	state string
	fd    int // -1 for none; in the queue it is the notice's own
}

const (
	managerRetry = 50 * time.Millisecond // between two attempts to send the queue
	maxQueue     = 4096                  // messages; a guest needs two or three
)

// firstFD is the first descriptor behind the standard ones; a service manager's begin there (SD_LISTEN_FDS_START).
const firstFD = 3

func findManager(log *logrus.Entry, later func()) manager {
	m := manager{log: log, later: later}
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return m
	}
	m.address = &unix.SockaddrUnix{Name: path}
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		m.every, m.last = time.Duration(usec)*time.Microsecond/3, time.Now()
	}
	os.Unsetenv("NOTIFY_SOCKET") // not the worker's to use
	os.Unsetenv("WATCHDOG_USEC")
	return m
}

// tell sends a state, with a descriptor where fd is not negative. An error is logged and otherwise ignored.
func (m *manager) tell(state string, fd int) {
	if m.address == nil {
		return
	}
	if len(m.queue) == 0 {
		err := m.send(state, fd)
		if err == nil {
			return
		}
		if !isFull(err) {
			m.log.WithError(err).Warn("cannot tell the service manager")
			return
		}
	}
	m.enqueue(state, fd)
}

// send sends a message at once; isFull reports of its error that the socket has no room.
func (m *manager) send(state string, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	return unix.Sendmsg(s, []byte(state), rights, m.address, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

// isFull reports that a message may be sent later: the socket's queue is full, or too many descriptors are in flight
// (too_many_unix_fds, net/core/scm.c).
func isFull(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ETOOMANYREFS)
}

// enqueue keeps a message for later, with a descriptor of its own: the one that the holder keeps may be closed until
// then.
func (m *manager) enqueue(state string, fd int) {
	err := error(nil)
	if len(m.queue) >= maxQueue {
		err = errors.New("it does not read, and the queue of messages is full")
	} else if fd >= 0 {
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstFD)
	}
	if err != nil {
		if !m.refused {
			m.log.WithError(err).Warn("cannot tell the service manager")
		}
		m.refused = true
		return
	}
	if m.queue = append(m.queue, notice{state, fd}); len(m.queue) == 1 {
		m.later()
	}
}

// retry sends the queue, as far as the socket has room.
func (m *manager) retry() {
	for len(m.queue) > 0 {
		n := m.queue[0]
		err := m.send(n.state, n.fd)
		if isFull(err) {
			m.later()
			return
		}
		if err != nil {
			m.log.WithError(err).Warn("cannot tell the service manager")
		}
		if n.fd >= 0 {
			unix.Close(n.fd)
		}
		m.queue = m.queue[1:]
	}
	m.queue, m.refused = nil, false
}

// flushWait bounds how long the holder's end waits for the queue: the manager keeps descriptors that it is not told to
// forget.
const flushWait = 2 * time.Second

// flush sends the queue before the holder ends, as far as the manager reads.
func (m *manager) flush() {
	m.later = func() {}
	for until := time.Now().Add(flushWait); len(m.queue) > 0 && time.Now().Before(until); time.Sleep(managerRetry / 10) {
		m.retry()
	}
}

func (m *manager) ready() { m.tell("READY=1\nSTATUS=serving", -1) }

func (m *manager) reloading() { m.tell("STATUS=upgrading", -1) }

func (m *manager) stopping() { m.tell("STOPPING=1", -1) }

// alive sends a sign of life, as often as the manager wants one.
func (m *manager) alive() {
	if m.every > 0 && time.Since(m.last) >= m.every && len(m.queue) == 0 { // else it is due when the queue is empty
		m.last = time.Now()
		m.tell("WATCHDOG=1", -1)
	}
}

// due returns when the next sign of life is due; zero for none. Behind a queue it is not: retry looks again.
func (m *manager) due() time.Time {
	if m.every == 0 || len(m.queue) > 0 {
		return time.Time{}
	}
	return m.last.Add(m.every)
}

func (m *manager) store(name string, file *os.File) { m.storeFD(name, int(file.Fd())) }

// storeFD has the manager keep a descriptor. FDPOLL=0: a poll of /dev/fuse would wake it for each request.
func (m *manager) storeFD(name string, fd int) { m.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd) }

func (m *manager) unstore(name string) { m.tell("FDSTOREREMOVE=1\nFDNAME="+name, -1) }

// inherited returns the descriptors that the manager gives back, by name (sd_listen_fds_with_names(3)).
func (m *manager) inherited() map[string]int {
	defer os.Unsetenv("LISTEN_PID")
	defer os.Unsetenv("LISTEN_FDS")
	defer os.Unsetenv("LISTEN_FDNAMES")
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	all := map[string]int{}
	for i := range n {
		fd := firstFD + i
		unix.CloseOnExec(fd)
		if i < len(names) {
			all[names[i]] = fd
		} else {
			unix.Close(fd)
		}
	}
	return all
}
