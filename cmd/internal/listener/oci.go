package listener

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// The OCI runtimes connect, send the state once, with the listener, and close (runtimes.ListenerState). runc 1.1.5 does
// so after the createRuntime hooks. crun 1.8.1 connects before the container's process exists.

const (
	maxState    = 64 << 10 // bytes
	maxStateFDs = 8
	// hooksTime bounds the runtime's time to send: its hooks run meanwhile.
	hooksTime = 2 * time.Minute
	stateTime = 5 * time.Second // for the rest of the state
	// maxReading bounds the connections read at once. Further ones wait to be accepted.
	maxReading = 128
)

// wordOf returns the word of a listener that came with a state.
func wordOf(s *runtimes.ListenerState) (word, error) {
	box, err := s.Container()
	if err != nil {
		return word{kind: kindListener}, err
	}
	w := word{kind: kindListener, pid: box.Pid, name: spec.NameOf(box.ID)}
	// 0 for a process that has ended.
	w.start, _ = host.StartOf(w.pid)
	return w, nil
}

// acceptOCI receives listeners, several at a time.
func (a *answerer) acceptOCI(l *net.UnixListener) {
	reading := make(chan struct{}, maxReading)
	for {
		reading <- struct{}{}
		c, err := l.AcceptUnix()
		if err != nil {
			if a.goesOn(err) {
				<-reading
				continue
			}
			return
		}
		go func() {
			defer func() { <-reading }()
			a.receiveOCI(c)
		}()
	}
}

// goesOn reports that accepting continues after an error, and waits before it does.
func (a *answerer) goesOn(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	a.log.WithError(err).Warn("cannot accept a runtime")
	time.Sleep(100 * time.Millisecond)
	return true
}

// receiveOCI receives a listener from a new connection.
func (a *answerer) receiveOCI(c *net.UnixConn) {
	e := a.admitConn(c, kindConn)
	if e == nil {
		return
	}
	defer c.Close()
	// The holder gets the connection before anything is read from it: killing this process meanwhile loses nothing.
	if err := e.hold(c); err != nil {
		a.log.WithError(err).Warn("the holder does not keep a runtime's connection")
	}
	a.readOCI(e, c)
}

// resumeConn reads a connection that an earlier answerer accepted.
func (a *answerer) resumeConn(e *entry, fd int) {
	u := connOf(fd)
	if u == nil {
		a.forget(e)
		return
	}
	defer u.Close()
	a.readOCI(e, u)
}

// readOCI reads the state from a connection and serves its listener, which is kept under the same key.
func (a *answerer) readOCI(e *entry, c *net.UnixConn) {
	a.opened(e, c)
	c.SetReadDeadline(time.Now().Add(hooksTime))
	fd, w, err := readState(c)
	if err == nil {
		next := a.become(e, w)
		if err = a.link.Hold(next.kept(fd)); err != nil {
			a.log.WithError(err).Warn("the holder does not keep a listener")
		}
		go next.serve(fd)
		return
	}
	if !a.draining.Load() {
		a.refuse(err)
		a.forget(e)
	}
}

// readState reads the state but leaves it in the connection, so that another process can read it too. A state too long
// for one piece of the kernel's is removed.
func readState(c *net.UnixConn) (listener int, w word, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, w, err
	}
	text, fds, err := receiveState(raw.Read, unix.MSG_PEEK)
	var s runtimes.ListenerState
	if err == nil && json.Unmarshal(text, &s) != nil {
		closeAll(fds)
		c.SetReadDeadline(time.Now().Add(stateTime))
		if text, fds, err = receiveState(raw.Read, 0); err == nil {
			err = readRest(c, text, &s)
		}
	}
	if err == nil {
		w, err = wordOf(&s)
	}
	i := s.Listener()
	switch {
	case err != nil:
	case i < 0 || len(fds) != len(s.FDs):
		err = fmt.Errorf("cannot find a listener among %d descriptors called %q", len(fds), s.FDs)
	case !isListener(fds[i]):
		err = errors.New("cannot use a descriptor as a listener: it is none")
	}
	if err != nil {
		closeAll(fds)
		return -1, w, err
	}
	listener, fds[i] = fds[i], -1
	closeAll(fds)
	return listener, w, nil
}

// receiveState receives once. io.ErrUnexpectedEOF for nothing.
func receiveState(read reader, flags int) (text []byte, fds []int, err error) {
	text, fds, got, err := receive(read, maxState, flags)
	switch {
	case err != nil:
	case got&unix.MSG_CTRUNC != 0:
		err = fmt.Errorf("cannot take more than %d descriptors", maxStateFDs)
	case len(text) == 0:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return text, fds, nil
}

// readRest reads until the state is complete.
func readRest(c io.Reader, text []byte, s *runtimes.ListenerState) error {
	for json.Unmarshal(text, s) != nil {
		if len(text) >= maxState {
			return fmt.Errorf("cannot read a container's state: it has more than %d bytes, or is no JSON", maxState)
		}
		more := make([]byte, maxState-len(text))
		n, err := c.Read(more)
		if err != nil {
			return fmt.Errorf("cannot read a container's state: %w", err)
		}
		text = append(text, more[:n]...)
	}
	return nil
}
