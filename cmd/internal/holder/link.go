package holder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The kinds of messages between the holder and a worker. They are an ABI between two versions of the program: an upgrade's
// worker has an older holder.
const (
	msgHold     = 'h' // both ways: descriptors, each with a region and a key
	msgDrop     = 'd' // worker: one descriptor is of no more use
	msgForget   = 'f' // worker: none of a region is
	msgPrepared = 'p' // worker: it could go on from the arena
	msgStart    = 's' // holder: all descriptors are sent; the text is a Start
	msgReady    = 'r' // worker: it serves
	msgDrain    = 'q' // holder: stop, another goes on
	msgStop     = 'x' // holder: take all guests away and end
	msgUpgrade  = 'u' // worker: go on with another program; the text is its path
	msgLeft     = 'l' // answerer: it goes on without the holder
	msgResult   = 'v' // holder: the upgrade ended; the text is empty, or says why the old worker stays
	msgShow     = 't' // worker, where Start.Types is there: a descriptor of a view that statfs is to answer for; the text is a fstype.View
	msgShown    = 'k' // holder: that is done; the text is empty, or says why not. The region of both is the worker's own count
)

// DeviceKey is under which a guest's /dev/fuse is kept. Handles, which are the other keys, are never 0.
const DeviceKey = 0

// item names a descriptor.
type item struct {
	region int
	key    uint64
}

const (
	itemSize    = 16
	headerSize  = 8
	maxItems    = 64 // descriptors in one message; the kernel takes 253 (SCM_MAX_FD)
	maxText     = 64 << 10
	messageRoom = headerSize + maxItems*itemSize + maxText
)

type message struct {
	kind  byte
	items []item
	text  []byte
	fds   []int // as many as items, or none
}

// link is one end of the socket between holder and worker. Sending may be done by many goroutines.
type link struct {
	conn *net.UnixConn
	wait time.Duration // immutable; how long a message may wait for the receiver, 0 for ever

	mu  sync.Mutex
	buf []byte // guarded by mu
}

// childWait is how long the holder waits for a child that does not read: one that is stopped, or hangs.
const childWait = 5 * time.Second

// newLinks makes a connected pair: one end for this process, the other for the worker.
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

// openLink takes a socket over.
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

// send sends a message. The receiver has it, also when this process dies right afterwards.
func (l *link) send(m message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := append(l.buf[:0], m.kind, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(m.items)))
	for _, i := range m.items {
		b = binary.NativeEndian.AppendUint64(b, uint64(i.region))
		b = binary.NativeEndian.AppendUint64(b, i.key)
	}
	if len(m.text) > maxText {
		m.text = m.text[:maxText]
	}
	b = append(b, m.text...)
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

// receive reads a message; its descriptors are the caller's. io.EOF when the other end is closed and everything was read.
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

func parse(b []byte) (message, error) {
	if len(b) < headerSize {
		return message{}, errors.New("cannot read a message of the link: it is too short")
	}
	m := message{kind: b[0]}
	n := int(binary.NativeEndian.Uint32(b[4:]))
	b = b[headerSize:]
	if n > maxItems || len(b) < n*itemSize {
		return message{}, errors.New("cannot read a message of the link: it says more than it holds")
	}
	for i := range n {
		at := b[i*itemSize:]
		m.items = append(m.items, item{int(binary.NativeEndian.Uint64(at)), binary.NativeEndian.Uint64(at[8:])})
	}
	m.text = append([]byte(nil), b[n*itemSize:]...)
	return m, nil
}

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

// room is what receive needs.
func room() (buf, oob []byte) {
	return make([]byte, messageRoom), make([]byte, unix.CmsgSpace(4*maxItems))
}
