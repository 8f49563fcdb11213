package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is the process at the other end of a connection. It is determined once, when the connection is accepted.
type peer struct {
	pid      int
	uid      uint32
	observer bool   // a member of the observers' group
	loopback bool   // on the loopback listener, which identifies no peer
	refused  string // reason to refuse every route; "" for none
}

// may returns the reason if a peer may not use a route, and names the users who may.
func (p peer) may(a access) error {
	switch {
	case p.refused != "":
		return errors.New(p.refused)
	case a == accessProbe, p.loopback, p.uid == 0:
		// The loopback listener has probes only.
		return nil
	case a == accessAdmin:
		return fmt.Errorf("this is for root (uid 0); you are uid %d", p.uid)
	case p.observer:
		return nil
	}
	return fmt.Errorf("this is for root and for members of the observers' group; you are uid %d", p.uid)
}

// namespaceKinds are the namespaces that a peer must share with the daemon. A guest's command may see the host's files,
// the socket among them, and be uid 0 of the host. Its own namespaces tell it from the host's root.
var namespaceKinds = []string{"user", "pid", "cgroup"}

// namespaceID identifies a namespace (ioctl_ns(2)).
type namespaceID struct{ device, inode uint64 }

// namespacesOf reads the namespaces of a process, "self" for this one.
func namespacesOf(pid string) (ids [3]namespaceID, err error) {
	for i, kind := range namespaceKinds {
		var st unix.Stat_t
		name := "/proc/" + pid + "/ns/" + kind
		if err := unix.Stat(name, &st); err != nil {
			return ids, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		ids[i] = namespaceID{st.Dev, st.Ino}
	}
	return ids, nil
}

// peers identifies peers.
type peers struct {
	own     [3]namespaceID // of the daemon
	group   int            // of observers, 0 for none
	inGuest func(pid int) bool
}

func newPeers(group int, inGuest func(pid int) bool) (*peers, error) {
	own, err := namespacesOf("self")
	if err != nil {
		return nil, fmt.Errorf("cannot tell peers from guests: %w: mount /proc", err)
	}
	return &peers{own, group, inGuest}, nil
}

// of returns the peer of a connection. In doubt it refuses.
//
// SO_PEERCRED gives the process that connected. That process may have passed its socket on and ended, and its number
// may have been reused. SO_PEERPIDFD (Linux 6.5) holds the process itself, so the last check is that it still lives. An
// older kernel cannot be asked, and the number is trusted: a guest could exploit that only if a process of the host
// reused the number between connect and accept.
func (ps *peers) of(c *net.UnixConn) (p peer) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{refused: "cannot tell who you are: " + err.Error()}
	}
	pidfd, held := -1, false
	var cred *unix.Ucred
	var credErr, pidfdErr error
	var groups []uint32
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		pidfd, pidfdErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		if ps.group != 0 {
			groups = peerGroups(int(fd))
		}
	})
	held = err == nil && pidfdErr == nil
	if held {
		defer unix.Close(pidfd)
	}
	if err := errors.Join(err, credErr); err != nil {
		return peer{refused: "cannot tell who you are: " + err.Error()}
	}
	p = peer{pid: int(cred.Pid), uid: cred.Uid}
	p.observer = ps.group != 0 && (cred.Gid == uint32(ps.group) || slices.Contains(groups, uint32(ps.group)))
	p.refused = ps.refusal(p.pid)
	switch {
	case p.refused != "":
	case held && errors.Is(unix.PidfdSendSignal(pidfd, 0, nil, 0), unix.ESRCH),
		!held && !errors.Is(pidfdErr, unix.ENOPROTOOPT):
		p.refused = "the process that connected has ended, and nobody else may speak for it"
	}
	return p
}

// refusal returns the reason to refuse a process, "" for none.
func (ps *peers) refusal(pid int) string {
	if pid == 0 {
		return "you are in another pid namespace, where the daemon does not see you: the daemon's interface is for the host"
	}
	theirs, err := namespacesOf(strconv.Itoa(pid))
	if err != nil {
		return fmt.Sprintf("cannot tell whether process %d is in a guest: %v", pid, err)
	}
	for i, kind := range namespaceKinds {
		if theirs[i] != ps.own[i] {
			return fmt.Sprintf(
				"process %d is in another %s namespace than the daemon: the daemon's interface is for the host, not for guests",
				pid, kind)
		}
	}
	if ps.inGuest(pid) {
		return fmt.Sprintf("process %d is in a guest: the daemon's interface is for the host", pid)
	}
	return ""
}

// peerGroups returns the supplementary groups of a peer at connect (SO_PEERGROUPS, Linux 4.13); none in doubt.
func peerGroups(fd int) []uint32 {
	groups := make([]uint32, 64)
	// ERANGE tells the size; the groups do not change.
	for range 2 {
		size := uint32(4 * len(groups))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4]
		case unix.ERANGE:
			groups = make([]uint32, size/4)
		default:
			return nil
		}
	}
	return nil
}
