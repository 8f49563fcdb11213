package listener

import (
	"errors"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// admitConn makes an entry for a new connection. It closes and refuses the connection (nil) if the peer is not the
// host's root, or if there are as many listeners as there may be.
func (a *answerer) admitConn(c *net.UnixConn, kind string) *entry {
	err := a.peers.Check(c)
	if err == nil {
		if e := a.enlist(0, word{kind: kind}); e != nil {
			return e
		}
		err = errFull
	}
	c.Close()
	a.refuse(err)
	return nil
}

// connOf returns the connection of a kept descriptor, which it closes; nil if it is none.
func connOf(fd int) *net.UnixConn {
	file := os.NewFile(uintptr(fd), "runtime")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil
	}
	u, _ := c.(*net.UnixConn)
	return u
}

// reader is the Read of a syscall.RawConn.
type reader func(func(fd uintptr) (done bool)) error

// receive receives one message with its descriptors. got are the flags that recvmsg returns.
func receive(read reader, size, flags int) (data []byte, fds []int, got int, err error) {
	data, oob := make([]byte, size), make([]byte, unix.CmsgSpace(4*maxStateFDs))
	var n, oobn int
	failed := read(func(fd uintptr) bool {
		n, oobn, got, _, err = unix.Recvmsg(int(fd), data, oob, flags|unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err = errors.Join(failed, err); err != nil {
		return nil, nil, 0, err
	}
	return data[:n], rightsOf(oob[:oobn]), got, nil
}

func rightsOf(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if some, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, some...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// isListener reports that a descriptor is a seccomp listener (init_listener, kernel/seccomp.c).
func isListener(fd int) bool {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return err == nil && name == "anon_inode:seccomp notify"
}
