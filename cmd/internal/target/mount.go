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

// Mount identifies one mount of this process's mount namespace, even after others have come and gone. The zero Mount is
// none.
type Mount struct {
	Device uint64 // of the file system
	// ID is the mount's number in mountinfo, which the kernel reuses after the mount is gone. 0: not known (before Linux
	// 5.8, or from an earlier version of this program).
	ID uint64
	// Unique is a number that the kernel never reuses before the next boot. 0: not known (before Linux 6.8).
	Unique uint64
}

// ErrGone reports that the mount no longer exists, or is elsewhere.
var ErrGone = errors.New("it is not mounted any more")

// ErrCovered reports another mount on the mount's root: no path leads to the mount, and umount would take the other
// one.
var ErrCovered = errors.New("something else is mounted over it; unmount that first")

// MountOf identifies the mount of a descriptor, without a request to the server of its file system. The error is of
// statx.
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
	if err := unix.Statx(fd, "", flags, unix.STATX_MNT_ID_UNIQUE, &st); err == nil &&
		st.Mask&unix.STATX_MNT_ID_UNIQUE != 0 {
		m.Unique = st.Mnt_id
	}
	return m, nil
}

// is reports that two identifications mean one mount, by the numbers that both have.
func (m Mount) is(other Mount) bool {
	same := func(a, b uint64) bool { return a == b || a == 0 || b == 0 }
	return m.Device != 0 && m.Device == other.Device && same(m.ID, other.ID) && same(m.Unique, other.Unique)
}

// check returns the descriptor of the mount; it closes a descriptor of another mount. ErrGone for such a one.
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

// At opens the mount's root where it was mounted. ErrGone if something else is there now; the mount may have been moved
// (Find).
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

// Find opens the mount's root at its present place. ErrGone, ErrCovered, or an error for a path that a guest keeps
// renaming.
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

// Type returns the type of the mount's file system in the mount table; "" if the table lacks the mount. The error is of
// reading the table.
func (m Mount) Type() (string, error) {
	mounts, err := host.MountTable(host.OwnMounts, nil)
	for _, i := range mounts {
		if m.is(Mount{Device: deviceOf(i), ID: uint64(i.ID)}) {
			return i.FSType, nil
		}
	}
	return "", err
}

// Below lists the directories directly below dir with a mount of an accepted type, each once. The error is of reading
// the mount table.
func Below(dir string, is func(kind string) bool) (at []string, err error) {
	mounts, err := host.MountTable(host.OwnMounts, nil)
	for _, i := range mounts {
		if filepath.Dir(i.Mountpoint) == dir && is(i.FSType) && !slices.Contains(at, i.Mountpoint) {
			at = append(at, i.Mountpoint)
		}
	}
	return at, err
}

// Open opens the mount's root: where it was mounted, or else at its present place. The errors are those of Find.
func (m Mount) Open(t Target) (int, error) {
	fd, err := m.At(t)
	if err == nil || m.Device == 0 {
		return fd, err
	}
	return m.Find()
}

// unmountWait bounds the delay that a guest can cause by renaming the directories above a mount all the time.
const unmountWait = 2 * time.Second

// Unmount unmounts the mount at its present place, and nothing else; programs that have files of it open keep it until
// they close them. A mount that is gone is no error. ErrCovered, or the reason why the mount stays.
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

// Detach unmounts the mount with this root. It goes by the descriptor's own path in /proc, the only one that nobody can
// change. The error is of umount2.
func Detach(fd int) error {
	return os.NewSyscallError("umount2", unix.Unmount(Link(fd), unix.MNT_DETACH))
}

// Link returns a path to the file of a descriptor, for system calls that take no descriptor.
func Link(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func deviceOf(i *mountinfo.Info) uint64 { return unix.Mkdev(uint32(i.Major), uint32(i.Minor)) }
