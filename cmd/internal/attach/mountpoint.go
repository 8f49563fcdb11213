package attach

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"golang.org/x/sys/unix"
)

// Mountpoint is the directory that a view is mounted on. No descriptor of it is kept open: umount would fail with
// EBUSY.
type Mountpoint struct {
	Target target.Target // immutable
	Over   bool          // immutable; mount also over another mount, or over a directory that is not empty
	View   target.Mount  // the view's mount; zero before Mount
	Gone   bool          // the view is unmounted

	searched atomic.Int64 // time of the last search in the mount table, in nanoseconds
}

// Check checks that the view can be mounted there: without Over the directory is empty and no mount is on it. A mount
// of a dead server is never covered, since no program would find it again. The error tells the remedy.
func (m *Mountpoint) Check() error {
	fd, err := m.Target.Open()
	if err == nil {
		err = m.vacant(fd)
		unix.Close(fd)
	}
	return err
}

// Covered reports that something is mounted there.
func (m *Mountpoint) Covered() bool {
	fd, err := m.Target.Open()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	root, err := isMountRoot(fd)
	return err == nil && root
}

// vacant is Check for an open directory.
func (m *Mountpoint) vacant(fd int) error {
	root, err := isMountRoot(fd)
	switch {
	case err != nil:
	case root:
		var was target.Mount
		if was, err = target.MountOf(fd); err == nil && isDead(fd, was.Device) {
			err = fmt.Errorf("a server that is no more has left its file system there: umount %s", m.Target)
		} else if err == nil && !m.Over {
			err = errors.New("something is mounted there: unmount it first, or give --over to mount over it")
		}
	case !m.Over:
		var empty bool
		if empty, err = isEmpty(fd); err == nil && !empty {
			err = errors.New("the directory is not empty: give --over to mount over what is in it")
		}
	}
	if err != nil {
		return fmt.Errorf("cannot mount at %s: %w", m.Target, err)
	}
	return nil
}

// isEmpty reports that a directory, open by O_PATH, is empty.
func isEmpty(fd int) (bool, error) {
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, os.NewSyscallError("open", err)
	}
	dir := os.NewFile(uintptr(own), "directory")
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// Mount mounts a connection's file system and keeps the identity of the mount. made is called as by conn.Mount, with
// View set. The errors are those of Check, and of the mount.
func (m *Mountpoint) Mount(c *conn.Conn, made func(mountFD int)) error {
	at, err := m.Target.Open()
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if err := m.vacant(at); err != nil {
		return err
	}
	before, err := target.MountOf(at)
	if err == nil {
		err = c.MountAt(at, m.Target.String(), func(mountFD int) {
			if m.View, err = target.MountOf(mountFD); err == nil && made != nil {
				made(mountFD)
			}
		})
	}
	if err != nil {
		return MountError(err)
	}
	// mount(2) gives no descriptor of the new mount: the mount that is there now.
	if m.View.Device == 0 {
		return m.learn(before)
	}
	return nil
}

// learn identifies our mount in a directory where before was another one.
func (m *Mountpoint) learn(before target.Mount) error {
	fd, err := m.Target.Open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	now, err := target.MountOf(fd)
	if err == nil && now == before {
		err = errors.New("its directory is another one by now")
	}
	if err != nil {
		return fmt.Errorf("cannot use the view that was just mounted at %s: %w", m.Target, err)
	}
	m.View = now
	return nil
}

// searchEvery is the least pause between searches of the mount table for a view that a guest has moved: others pay for
// the search.
const searchEvery = time.Second

// Open opens the view's root. target.ErrGone if it is not mounted, or was moved and the next search is not due yet.
func (m *Mountpoint) Open() (int, func(), error) {
	fd, err := m.View.At(m.Target)
	if err != nil {
		last, now := m.searched.Load(), time.Now().UnixNano()
		if m.View.Device == 0 || now-last < int64(searchEvery) || !m.searched.CompareAndSwap(last, now) {
			return -1, nil, err
		}
		if fd, err = m.View.Find(); err != nil {
			return -1, nil, err
		}
	}
	return fd, func() { unix.Close(fd) }, nil
}

// Unmount unmounts the view, wherever its guest has moved it. Programs with open files keep it until they close them.
// The error tells why it stays.
func (m *Mountpoint) Unmount() error {
	if m.Gone || m.View.Device == 0 {
		return nil
	}
	if err := m.View.Unmount(m.Target); err != nil {
		return fmt.Errorf("cannot unmount the view at %s: %w", m.Target, err)
	}
	m.Gone = true
	return nil
}

// Leave unmounts the view at the end of its server, and logs a failure.
func (m *Mountpoint) Leave(log *logrus.Entry) {
	if err := m.Unmount(); err != nil {
		log.Warnf("%v; it stays there, without a server", err)
	}
}

// MountError adds the remedy to the error of a mount that is not permitted: fault.Unsupported.
func MountError(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fault.New(fault.Unsupported, "%w: run as root (CAP_SYS_ADMIN)", err)
	}
	return err
}
