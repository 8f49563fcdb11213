package holder

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// link is one end of the socket between the holder and a child. Any goroutine may send; one receives.
type link struct {
	conn *net.UnixConn
	wait time.Duration // immutable; how long send may wait for the receiver, 0 for ever

	mu  sync.Mutex
	buf []byte // guarded by mu
}

// childWait is how long the holder waits for a child that does not read because it is stopped, or hangs.
const childWait = 5 * time.Second

// newLinks makes a connected pair: one end for this process, the other for the child.
func newLinks() (*link, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "link")
	l, err := openLink(os.NewFile(uintptr(fds[0]), "link"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	l.wait = childWait
	return l, theirs, nil
}

// openLink makes a link of a socket, and closes the file.
func openLink(file *os.File) (*link, error) {
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("cannot use the link: it is no unix socket")
	}
	return &link{conn: u}, nil
}

func (l *link) close() { l.conn.Close() }

// send sends a message. The receiver gets it, also when this process dies right afterwards.
func (l *link) send(m message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := m.append(l.buf[:0])
	l.buf = b
	var oob []byte
	if len(m.fds) > 0 {
		oob = unix.UnixRights(m.fds...)
	}
	if l.wait > 0 {
		l.conn.SetWriteDeadline(time.Now().Add(l.wait))
	}
	_, _, err := l.conn.WriteMsgUnix(b, oob, nil)
	return err
}

// sendHeld sends descriptors with their names, in as many messages as that takes.
func (l *link) sendHeld(items []item, fds []int) error {
	for len(items) > 0 {
		n := min(len(items), maxItems)
		if err := l.send(message{kind: msgHold, items: items[:n], fds: fds[:n]}); err != nil {
			return err
		}
		items, fds = items[n:], fds[n:]
	}
	return nil
}

// receive reads a message; the caller owns its descriptors. io.EOF when the other end is closed and everything was
// read.
func (l *link) receive(buf, oob []byte) (message, error) {
	n, oobn, flags, _, err := l.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return message{}, err
	}
	if n == 0 {
		return message{}, io.EOF
	}
	fds, err := rights(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("cannot read a message of the link: it was cut off")
	}
	m, perr := parse(buf[:n])
	if err == nil {
		err = perr
	}
	if err == nil && len(fds) > 0 && len(fds) != len(m.items) {
		err = fmt.Errorf("cannot read a message of the link: %d descriptors for %d names", len(fds), len(m.items))
	}
	if err != nil {
		closeAll(fds)
		return message{}, err
	}
	m.fds = fds
	return m, nil
}

// rights returns the descriptors of a control message.
func rights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		some, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		fds = append(fds, some...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// receiveBuffers returns the buffers for receive.
func receiveBuffers() (buf, oob []byte) {
	return make([]byte, messageRoom), make([]byte, unix.CmsgSpace(4*maxItems))
}
