package api

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// HostPeers tells the host's root from all others, for the daemon's sockets that are not the interface's.
type HostPeers struct{ peers *peers }

// NewHostPeers makes one. inGuest says whether a process is inside a guest's boundary.
func NewHostPeers(inGuest func(pid int) bool) (*HostPeers, error) {
	ps, err := newPeers(0, inGuest)
	if err != nil {
		return nil, err
	}
	return &HostPeers{ps}, nil
}

// Check says why a connection is refused; nil for one of uid 0 of the host, outside every guest. Who connected and
// has ended, as a runtime does that only starts a container, is known by its uid alone.
func (h *HostPeers) Check(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	pidfd := -1
	var cred *unix.Ucred
	var credErr, pidfdErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		pidfd, pidfdErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	})
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("cannot tell who you are: %w", err)
	}
	if pidfdErr == nil {
		defer unix.Close(pidfd)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("this is for root (uid 0); process %d is uid %d", cred.Pid, cred.Uid)
	}
	refusal := h.peers.refusal(int(cred.Pid))
	if refusal == "" || cred.Pid != 0 && peerEnded(int(cred.Pid), pidfd, pidfdErr) {
		return nil
	}
	return errors.New(refusal)
}

// peerEnded says whether the process of a connection has ended, by its pidfd, or by its number where the kernel has no
// SO_PEERPIDFD (before Linux 6.5).
func peerEnded(pid, pidfd int, err error) bool {
	switch {
	case err == nil:
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	case errors.Is(err, unix.ENOPROTOOPT):
		return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
	}
	return true // ESRCH, EINVAL: it was reaped
}
