package attach

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

// ClearDead unmounts the file systems of dead servers of ours from the mountpoint, one on the other. Other mounts there
// stay, and Check reports them. The error names the failed unmount.
func (m *Mountpoint) ClearDead(log *logrus.Entry) error {
	for {
		fd, err := m.Target.Open()
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		cleared, err := clearDead(fd)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("cannot unmount what a server that is no more has left at %s: %w", m.Target, err)
		}
		if !cleared {
			return nil
		}
		log.Warnf("a server that is no more has left its file system at %s: it is unmounted", m.Target)
	}
}

// clearDead unmounts the mount with this root if it is a dead view or a dead self.
func clearDead(fd int) (bool, error) {
	root, err := isMountRoot(fd)
	if err != nil || !root {
		return false, err
	}
	m, err := target.MountOf(fd)
	if err != nil {
		return false, err
	}
	kind, err := m.Type()
	if err != nil || !isOurs(kind) || !isDead(fd, m.Device) {
		return false, err
	}
	return true, target.Detach(fd)
}

// isOurs reports that a type in a mount table is of one of this program's file systems.
func isOurs(kind string) bool { return strings.HasPrefix(kind, "fuse.cgroup") }

// ClearDeadViews unmounts the dead views in a directory of ours, and removes the directories on which they were
// mounted. The error is of reading the directory or the mount table; others are logged.
func ClearDeadViews(dir string, log *logrus.Entry) error {
	real, err := target.Beside(dir).Open()
	if err != nil {
		// The directory does not exist.
		return nil
	}
	path, err := os.Readlink(target.Link(real))
	unix.Close(real)
	if err != nil {
		return err
	}
	dead, err := target.Below(path, isOurs)
	for _, at := range dead {
		m := &Mountpoint{Target: target.Beside(at)}
		if err := m.ClearDead(log); err != nil {
			log.Warn(err)
			continue
		}
		os.Remove(at)
	}
	return err
}

// deadWait is the time to answer after which a server counts as alive.
const deadWait = 2 * time.Second

// asking has the file systems with a pending request to their servers. So a server that hangs holds one thread, however
// often isDead is called.
var asking sync.Map

// isDead reports that the server of a file system is dead.
func isDead(fd int, device uint64) bool {
	if _, busy := asking.LoadOrStore(device, true); busy {
		return false
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		asking.Delete(device)
		return false
	}
	answer := make(chan bool, 1)
	go func() {
		var fs unix.Statfs_t
		answer <- conn.IsDead(unix.Fstatfs(own, &fs))
		unix.Close(own)
		asking.Delete(device)
	}()
	select {
	case dead := <-answer:
		return dead
	case <-time.After(deadWait):
		return false
	}
}

// isMountRoot reports that a descriptor is the root of a mount. Before Linux 5.8 the kernel does not tell, and the
// answer is false.
func isMountRoot(fd int) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return false, os.NewSyscallError("statx", err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
