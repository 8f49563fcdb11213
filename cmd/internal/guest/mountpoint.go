package guest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

// Mountpoint is where a view is mounted. Nothing of it is kept open: that would make umount fail with EBUSY.
type Mountpoint struct {
	Target target.Target // immutable
	View   target.Mount  // what is mounted; the zero one before
	Gone   bool          // it is no more

	searched atomic.Int64 // when the mount table was last searched for it, in nanoseconds
}

// Check says whether something can be mounted there.
func (m *Mountpoint) Check() error {
	fd, err := m.Target.Open()
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// Mount mounts a connection's file system and remembers which mount that is. made is as with conn.Mount, and finds View set.
func (m *Mountpoint) Mount(c *conn.Conn, made func(mountFD int)) error {
	at, err := m.Target.Open()
	if err != nil {
		return err
	}
	defer unix.Close(at)
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

// ClearDead unmounts what a server of ours that is no more has left mounted there. The error says that something else is there.
func (m *Mountpoint) ClearDead(log *logrus.Entry) error {
	fd, err := m.Target.Open()
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); conn.IsDead(err) {
		log.Warnf("a server that is no more has left its file system at %s: it is unmounted", m.Target)
		if err := target.Detach(fd); err != nil {
			return fmt.Errorf("cannot unmount what a dead server left at %s: %w", m.Target, err)
		}
		unix.Close(fd)
		if fd, err = m.Target.Open(); err != nil {
			return err
		}
	}
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st)
	if err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return fmt.Errorf("cannot mount at %s: something is mounted there; unmount it first", m.Target)
	}
	return nil
}
