package api

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// HostPeers admits the host's root alone, for the daemon's sockets other than the interface's.
type HostPeers struct{ peers *peers }

// NewHostPeers makes a HostPeers. inGuest reports that a process is inside a guest's boundary. The error is that of
// reading /proc.
func NewHostPeers(inGuest func(pid int) bool) (*HostPeers, error) {
	ps, err := newPeers(0, inGuest)
	if err != nil {
		return nil, err
	}
	return &HostPeers{ps}, nil
}

// Check returns the reason to refuse a connection, and nil for uid 0 of the host outside every guest. A peer that has
// ended, for example a runtime that only starts a container, is judged by its uid alone.
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

// peerEnded reports that the peer's process has ended, by its pidfd, or by its number on a kernel without SO_PEERPIDFD
// (before Linux 6.5).
func peerEnded(pid, pidfd int, err error) bool {
	switch {
	case err == nil:
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	case errors.Is(err, unix.ENOPROTOOPT):
		return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
	}
	// ESRCH, EINVAL: the process was reaped.
	return true
}
