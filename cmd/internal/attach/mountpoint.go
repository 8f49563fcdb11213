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

// Mountpoint is where a view is mounted. Nothing of it is kept open: that would make umount fail with EBUSY.
type Mountpoint struct {
	Target target.Target // immutable
	Over   bool          // immutable; also over what is mounted there, or in the directory
	View   target.Mount  // what is mounted; the zero one before
	Gone   bool          // it is no more

	searched atomic.Int64 // when the mount table was last searched for it, in nanoseconds
}

// Check says whether the view can be mounted there: nothing is mounted, and nothing in the directory, unless Over. What is dead is never
// covered: nobody would find it again.
func (m *Mountpoint) Check() error {
	fd, err := m.Target.Open()
	if err == nil {
		err = m.vacant(fd)
		unix.Close(fd)
	}
	return err
}

// Covered says whether something is mounted there.
func (m *Mountpoint) Covered() bool {
	fd, err := m.Target.Open()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	root, err := isMountRoot(fd)
	return err == nil && root
}

// vacant says so of the directory that was opened.
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

// isEmpty says whether nothing is in a directory that is open by O_PATH.
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

// Mount mounts a connection's file system and remembers which mount that is. made is as with conn.Mount, and finds View set.
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
	if m.View.Device == 0 { // by mount(2), which gives no descriptor: what is there now
		return m.learn(before)
	}
	return nil
}

// learn finds out which mount is ours where there was another one before.
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

// searchEvery is how often a view is searched for in the mount table that a guest has moved from where it was mounted: others pay for that.
const searchEvery = time.Second

// Open opens the view's root. The error is target.ErrGone where it is not mounted, or has been moved and is not searched for yet.
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

// Unmount takes the view away, wherever its guest has moved it. Who uses it keeps it until then. The error says why it stays.
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

// Leave takes the view away at the end of its server.
func (m *Mountpoint) Leave(log *logrus.Entry) {
	if err := m.Unmount(); err != nil {
		log.Warnf("%v; it stays there, without a server", err)
	}
}

// MountError says what to do where mounting is not permitted.
func MountError(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fault.New(fault.Unsupported, "%w: run as root (CAP_SYS_ADMIN)", err)
	}
	return err
}
