package listener

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// LXC sends each call in a packet (runtimes.LXCCall), which leaves the connection only after its answer, so that the
// next answerer finds an unanswered one.

// sentWait bounds LXC's reaction to an answer that it has read.
const sentWait = 50 * time.Millisecond

// request is a packet of LXC with its descriptors.
type request struct {
	*runtimes.LXCCall
	listener int // -1 if LXC sent none
	fds      []int
}

func (r *request) close() { closeAll(r.fds) }

// newRequest reads a packet. It takes the descriptors over if the packet can be read.
func newRequest(packet []byte, fds []int) (*request, error) {
	call, err := runtimes.ParseLXCCall(packet)
	if err != nil {
		return nil, err
	}
	r := &request{LXCCall: call, listener: -1, fds: fds}
	if len(fds) == runtimes.LXCDescriptors && isListener(fds[runtimes.LXCListener]) {
		r.listener = fds[runtimes.LXCListener]
	}
	return r, nil
}

// acceptLXC serves the connections of LXC's monitors, one for each container.
func (a *answerer) acceptLXC(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if a.goesOn(err) {
				continue
			}
			return
		}
		if e := a.admitConn(c, kindLXC); e != nil {
			go e.answerLXC(c, false)
		}
	}
}

// serveLXC resumes a kept connection.
func (e *entry) serveLXC(fd int) {
	if u := connOf(fd); u != nil {
		e.answerLXC(u, true)
		return
	}
	e.of.forget(e)
}

// answerLXC answers the packets of a connection until it is closed, or this process drains.
func (e *entry) answerLXC(c *net.UnixConn, again bool) {
	defer c.Close()
	if err := e.hold(c); err != nil {
		e.log.WithError(err).Warn("the holder does not keep a connection of LXC")
	}
	e.of.opened(e, c)
	raw, err := c.SyscallConn()
	var p notify.Pace
	for err == nil {
		if err = e.nextLXC(c, raw.Read, again); err == nil {
			again = false
			time.Sleep(p.Next(time.Now()))
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The next answerer has it.
		return
	}
	if !errors.Is(err, errClosed) {
		e.log.WithError(err).Warn("LXC is answered no more")
	}
	e.of.forget(e)
}

var errClosed = errors.New("the connection is closed")

// hold lets the holder keep a connection. (*net.UnixConn).File would make it blocking for every process that has it.
func (e *entry) hold(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = e.of.link.Hold(e.kept(int(fd))) })
	return errors.Join(failed, err)
}

// nextLXC answers the next packet. again: an earlier answerer may have answered it.
func (e *entry) nextLXC(c *net.UnixConn, read reader, again bool) error {
	packet, fds, err := receivePacket(read, unix.MSG_PEEK)
	if err != nil {
		return err
	}
	r, err := newRequest(packet, fds)
	if err != nil {
		closeAll(fds)
		return err
	}
	defer r.close()
	if again && e.wasAnswered(read, r) {
		return removePacket(read)
	}
	now := e
	if e.word.pid == 0 {
		now = e.learn(c, r.InitPid)
	}
	errno, passOn := now.answerOne(r)
	notify.PutResponse(r.Response, r.Call.ID, errno, passOn)
	c.SetWriteDeadline(time.Now().Add(stateTime))
	if _, err := c.Write(r.Reply); err != nil {
		return err
	}
	return removePacket(read)
}

// learn stores the container of a connection, which does not change.
func (e *entry) learn(c *net.UnixConn, initPid int) *entry {
	e.word.pid = initPid
	e.word.start, _ = host.StartOf(initPid)
	if err := e.hold(c); err != nil {
		e.log.WithError(err).Warn("the holder does not keep a connection of LXC")
	}
	return e
}

// answerOne finds the answer to one call.
func (e *entry) answerOne(r *request) (errno unix.Errno, passOn bool) {
	if r.listener < 0 {
		// LXC before 4.0.3 sends no listener: nothing would tell whether the caller still waits.
		return 0, true
	}
	s := &notify.Supervisor{Guest: e, Log: e.log, Timeout: callTimeout, Admit: e.admit, Observe: e.observe,
		Stuck: e.of.stuck}
	return s.Once(r.listener, &r.Call)
}

// wasAnswered reports that an earlier answerer answered a packet but did not remove it from the connection: the answer
// is still unread, or LXC has acted upon it.
func (e *entry) wasAnswered(read reader, r *request) bool {
	unread := 0
	_ = read(func(fd uintptr) bool {
		unread, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		return true
	})
	for end := time.Now().Add(sentWait); unread == 0 && r.listener >= 0; time.Sleep(sentWait / 10) {
		if !notify.Waits(r.listener, r.Call.ID) {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
	return unread > 0
}

// removePacket removes a packet from the connection.
func removePacket(read reader) error {
	_, fds, err := receivePacket(read, 0)
	closeAll(fds)
	return err
}

// receivePacket receives a packet. errClosed at the end of the connection.
func receivePacket(read reader, flags int) (packet []byte, fds []int, err error) {
	packet, fds, _, err = receive(read, runtimes.MaxLXCPacket, flags)
	if errors.Is(err, unix.ECONNRESET) || err == nil && len(packet) == 0 {
		closeAll(fds)
		return nil, nil, errClosed
	}
	return packet, fds, err
}
