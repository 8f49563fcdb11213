package holder

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// LXCSuffix is what the socket for LXC's protocol has behind the path of the one for the OCI runtimes'.
const LXCSuffix = "-lxc"

// notifySockets are the sockets on which runtimes hand over listeners; nil where Config.Notify names none.
type notifySockets struct{ oci, lxc *os.File }

// listen binds every socket, under the lock that keeps other daemons from them.
func (h *Holder) listen() (err error) {
	if h.lock, err = lock(h.config.Socket); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			h.removeSockets()
		}
	}()
	if h.socket, err = listenStream(h.config.Socket, h.config.Group); err != nil {
		return err
	}
	if err = h.listenForRuntimes(); err != nil {
		return err
	}
	if h.config.Metrics != "" {
		h.metrics, err = listenLoopback(h.config.Metrics)
	}
	return err
}

// listenForRuntimes binds the sockets that Config.Notify names.
func (h *Holder) listenForRuntimes() (err error) {
	path := h.config.Notify
	if path == "" {
		return nil
	}
	if h.calls == nil {
		if h.calls, err = state.NewCalls(); err != nil {
			return err
		}
		h.manager.store(callsName, h.calls.File())
	}
	for _, p := range []string{path, path + LXCSuffix} {
		if c, err := net.Dial("unix", p); err == nil || !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
			if err == nil {
				c.Close()
			}
			return fmt.Errorf("cannot listen on %s: another process does; choose another --notify", p)
		}
	}
	if h.notify.oci, err = listenStream(path, -1); err != nil {
		return err
	}
	h.notify.lxc, err = listenPackets(path + LXCSuffix)
	return err
}

// removeSockets removes what listen bound. The lock is still held, so no other daemon's sockets go.
func (h *Holder) removeSockets() {
	if h.notify.oci != nil {
		os.Remove(h.config.Notify)
	}
	if h.notify.lxc != nil {
		os.Remove(h.config.Notify + LXCSuffix)
	}
	os.Remove(h.config.Socket)
	os.Remove(h.config.Socket + ".lock")
}

// lock keeps a second daemon from the same socket.
func lock(socket string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the socket: %w", err)
	}
	f, err := os.OpenFile(socket+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", socket, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot listen on %s: another vcgroupfs serve does, or a worker still serves the guests of "+
			"one that was killed (pgrep -f %s); end it, or choose another --socket", socket, WorkerCommand)
	}
	return f, nil
}

// removeStale removes a socket that a dead daemon left: the lock is ours. Anything else stays, and is an error.
func removeStale(path string) error {
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("cannot listen on %s: there is something else; choose another --socket or --notify", path)
	}
	os.Remove(path)
	return nil
}

// bind listens on a path that only its owner reaches.
func bind(network, path string) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	old := unix.Umask(0o177)
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, errors.Unwrap(err))
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// listenStream binds a stream socket. Its owner reaches it, and the group if one is given.
func listenStream(path string, group int) (*os.File, error) {
	l, err := bind("unix", path)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if group >= 0 {
		if err := errors.Join(os.Chown(path, -1, group), os.Chmod(path, 0o660)); err != nil {
			return nil, fmt.Errorf("cannot let the group %d reach the socket: %w", group, err)
		}
	}
	return blockingFile(l.File())
}

// listenPackets binds a socket of packets that its owner alone reaches.
func listenPackets(path string) (*os.File, error) {
	l, err := bind("unixpacket", path)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return blockingFile(l.File())
}

// listenLoopback listens for metrics. Only on this machine's own addresses: the figures tell of every guest.
func listenLoopback(addr string) (*os.File, error) {
	l, err := api.ListenLoopback(addr)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return blockingFile(l.(*net.TCPListener).File())
}

// blockingFile duplicates a file as one whose mode os.File.Fd does not change: of a file that does not block Fd makes
// one that does, for all processes that share the open file, and a worker's accept would never be woken.
func blockingFile(f *os.File, err error) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, firstFD)
	if err == nil {
		err = unix.SetNonblock(fd, false) // os.NewFile reads the mode
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
