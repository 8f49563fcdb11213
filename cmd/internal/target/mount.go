package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Mount names a mount of this process's mount namespace for good. The zero Mount is none.
type Mount struct {
	Device uint64 // of the file system
	ID     uint64 // as mountinfo has it; another's when this mount is gone. 0: not known (before Linux 5.8, or by an earlier version of this program)
	Unique uint64 // no other's before the next boot; 0: the kernel does not say (before Linux 6.8)
}

// ErrGone says that the mount is no more, or not where it was looked for.
var ErrGone = errors.New("it is not mounted any more")

// ErrCovered says that something else is mounted on the mount's root, so that no path leads to it and umount would take the other.
var ErrCovered = errors.New("something else is mounted over it; unmount that first")

// MountOf is the mount that a descriptor leads to. The file system's server is not asked.
func MountOf(fd int) (m Mount, err error) {
	var st unix.Statx_t
	const flags = unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(fd, "", flags, unix.STATX_MNT_ID, &st); err != nil {
		return m, os.NewSyscallError("statx", err)
	}
	m.Device = unix.Mkdev(st.Dev_major, st.Dev_minor)
	if st.Mask&unix.STATX_MNT_ID != 0 {
		m.ID = st.Mnt_id
	}
	st = unix.Statx_t{}
	if err := unix.Statx(fd, "", flags, unix.STATX_MNT_ID_UNIQUE, &st); err == nil && st.Mask&unix.STATX_MNT_ID_UNIQUE != 0 {
		m.Unique = st.Mnt_id
	}
	return m, nil
}

// is says whether two names are of one mount, as far as both know it.
func (m Mount) is(other Mount) bool {
	same := func(a, b uint64) bool { return a == b || a == 0 || b == 0 }
	return m.Device != 0 && m.Device == other.Device && same(m.ID, other.ID) && same(m.Unique, other.Unique)
}

// check closes a descriptor that does not lead to the mount.
func (m Mount) check(fd int) (int, error) {
	now, err := MountOf(fd)
	if err == nil && !m.is(now) {
		err = ErrGone
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// At opens the mount's root where it was mounted. ErrGone where that is something else now: the mount may still be elsewhere (Find).
func (m Mount) At(t Target) (int, error) {
	if m.Device == 0 || t.Path == "" {
		return -1, ErrGone
	}
	fd, err := t.open()
	if err != nil {
		return -1, ErrGone
	}
	return m.check(fd)
}

// Find opens the mount's root wherever it is now. ErrGone, ErrCovered, or what else keeps it from being opened now: whoever renames the
// directories above all the time.
func (m Mount) Find() (int, error) {
	mounts, err := host.MountTable(host.OwnMounts, nil)
	if err != nil {
		return -1, err
	}
	err = ErrGone
	for _, i := range mounts {
		if !m.is(Mount{Device: deviceOf(i), ID: uint64(i.ID)}) {
			continue
		}
		on := func(x *mountinfo.Info) bool { return x.Parent == i.ID && x.ID != i.ID && x.Mountpoint == i.Mountpoint }
		if slices.ContainsFunc(mounts, on) {
			err = ErrCovered
			continue
		}
		fd, oerr := OpenPath(i.Mountpoint)
		if oerr == nil {
			if fd, oerr = m.check(fd); oerr == nil {
				return fd, nil
			}
		}
		err = fmt.Errorf("cannot reach it at %.200q: its directories are renamed", i.Mountpoint)
	}
	return -1, err
}

// Type is the type of the mount's file system, as the mount table has it; "" where it is not there.
func (m Mount) Type() (string, error) {
	mounts, err := host.MountTable(host.OwnMounts, nil)
	for _, i := range mounts {
		if m.is(Mount{Device: deviceOf(i), ID: uint64(i.ID)}) {
			return i.FSType, nil
		}
	}
	return "", err
}

// Below are the directories right below one at which file systems of some types are mounted, each once.
func Below(dir string, is func(kind string) bool) (at []string, err error) {
	mounts, err := host.MountTable(host.OwnMounts, nil)
	for _, i := range mounts {
		if filepath.Dir(i.Mountpoint) == dir && is(i.FSType) && !slices.Contains(at, i.Mountpoint) {
			at = append(at, i.Mountpoint)
		}
	}
	return at, err
}

// Open opens the mount's root: where it was mounted, or where it is now.
func (m Mount) Open(t Target) (int, error) {
	fd, err := m.At(t)
	if err == nil || m.Device == 0 {
		return fd, err
	}
	return m.Find()
}

// unmountWait is how long a guest that renames the directories above a mount all the time can put off that it is unmounted.
const unmountWait = 2 * time.Second

// Unmount unmounts the mount wherever it is now, and nothing else; who uses it keeps it until then. It is no error that it is gone.
// ErrCovered, or why it stays.
func (m Mount) Unmount(t Target) error {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		fd, err := m.Open(t)
		if err == nil {
			err = Detach(fd)
			unix.Close(fd)
		}
		switch {
		case err == nil, errors.Is(err, ErrGone):
			return nil
		case errors.Is(err, ErrCovered), time.Since(began) > unmountWait:
			return err
		}
	}
}

// Detach unmounts what a descriptor is the root of: by the descriptor's own path in /proc, since no other can be trusted.
func Detach(fd int) error {
	return os.NewSyscallError("umount2", unix.Unmount(Link(fd), unix.MNT_DETACH))
}

// Link is a path to what a descriptor leads to, for calls that take no descriptor.
func Link(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func deviceOf(i *mountinfo.Info) uint64 { return unix.Mkdev(uint32(i.Major), uint32(i.Minor)) }
