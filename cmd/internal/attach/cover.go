package attach

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Cover covers a file system with a guest's view, in the mount namespace of a task that has the file system mounted.
type Cover struct {
	Tid    int
	Start  uint64 // start time of Tid (host.StartOf), against a reused number
	Device uint64 // of the file system to cover
	// Foreign reports that a file system is another guest's view.
	Foreign func(device uint64) bool
	// Ended is called once no thread works on it: before With returns, unless the guest's own file systems keep a thread.
	Ended func()
}

// maxCovers bounds the mounts that one call covers. A guest may have made any number.
const maxCovers = 16

// coverTimeout is longer than path lookup, because move_mount may wait for the lock of the directory below. The holder
// of that lock may wait for this very call if it has made the file system writable, as root of the host can; then the
// timeout ends the wait.
const coverTimeout = 2 * insideTimeout

// ErrNotTheirs reports a mount namespace that must not change: the host's own, or another guest's.
var ErrNotTheirs = errors.New("the mount namespace is not the container's alone")

// With mounts the view with this root on each mount of the file system that nothing covers yet, and reports whether
// there was one. The mounts below stay, and reappear when the view is unmounted. ErrNotTheirs, or an error for a
// missing capability or kernel feature.
func (c Cover) With(view int) (bool, error) {
	clone, err := unix.OpenTree(view, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		c.Ended()
		return false, fmt.Errorf("cannot show the view to task %d: %w", c.Tid, os.NewSyscallError("open_tree", err))
	}
	var covered bool
	done := make(chan struct{})
	go func() {
		covered, err = visit(c.Tid, c.Start, func(p *place) (bool, error) { return c.all(p, clone) }, func() {
			unix.Close(clone)
			c.Ended()
		})
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(coverTimeout):
		return false, fmt.Errorf("cannot show the view to task %d: what is to be covered stays locked", c.Tid)
	}
	if errors.Is(err, errHostMounts) {
		err = fmt.Errorf("it is the host's own: %w", ErrNotTheirs)
	}
	if err != nil {
		return false, fmt.Errorf("cannot show the view to task %d: %w", c.Tid, err)
	}
	return covered, nil
}

// all covers every mount of the file system.
func (c Cover) all(p *place, clone int) (done bool, err error) {
	// The /proc of this process; the guest's may be a mount of anything.
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, PathError("open", "/proc", err)
	}
	defer unix.Close(proc)
	if err := p.join(); err != nil {
		return false, err
	}
	// The table of the whole namespace: the task's own table has only the mounts below its root.
	fd, err := unix.Openat(proc, "thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, PathError("open", "mountinfo", err)
	}
	p.mounts.Close()
	p.mounts = os.NewFile(uintptr(fd), "mountinfo")
	mounts, err := hierarchy.ReadMounts(p.mounts, nil)
	if err != nil {
		return false, err
	}
	bare, err := c.bare(mounts)
	if err != nil {
		return false, err
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, PathError("open", "/", err)
	}
	defer unix.Close(root)
	var at []spot
	defer func() {
		for _, x := range at {
			unix.Close(x.fd)
		}
	}()
	// All paths are looked up before anything changes.
	for _, m := range bare {
		fd, err := c.find(p, root, m)
		if err != nil {
			return false, err
		}
		if fd >= 0 {
			at = append(at, spot{fd, slices.Contains(strings.Split(m.Options, ","), "ro")})
		}
	}
	if len(at) == 0 {
		return false, nil
	}
	if err := p.claim(); err != nil {
		return false, err
	}
	return true, put(clone, at)
}

// spot is a mount to cover. readOnly: the container has it read-only, and gets the view read-only.
type spot struct {
	fd       int // O_PATH
	readOnly bool
}

// put attaches a mount at the first of some spots, and clones of the mount at the others.
func put(mount int, at []spot) error {
	const byFD = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	for i, x := range at {
		next := mount
		if i > 0 {
			var err error
			if next, err = unix.OpenTree(mount, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
				return os.NewSyscallError("open_tree", err)
			}
			defer unix.Close(next)
		}
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if !x.readOnly {
			// The clone may come from a read-only spot.
			attr = unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
		}
		if x.readOnly || i > 0 {
			// Linux 5.12.
			if err := unix.MountSetattr(next, "", unix.AT_EMPTY_PATH, &attr); err != nil {
				return os.NewSyscallError("mount_setattr", err)
			}
		}
		if err := unix.MoveMount(next, "", x.fd, "", byFD); err != nil {
			return os.NewSyscallError("move_mount", err)
		}
	}
	return nil
}

// bare lists the mounts of the file system that nothing covers. ErrNotTheirs if another guest's view is on one.
func (c Cover) bare(mounts []*mountinfo.Info) (bare []*mountinfo.Info, err error) {
	ours := map[int]bool{}
	for _, m := range mounts {
		if c.is(m) {
			ours[m.ID] = true
			bare = append(bare, m)
		}
	}
	on := map[int]bool{}
	for _, m := range mounts {
		if !ours[m.Parent] || m.ID == m.Parent {
			continue
		}
		on[m.Parent] = true
		if c.Foreign(deviceOf(m)) {
			return nil, fmt.Errorf("it is another guest's: %w", ErrNotTheirs)
		}
	}
	bare = slices.DeleteFunc(bare, func(m *mountinfo.Info) bool { return on[m.ID] })
	return bare[:min(len(bare), maxCovers)], nil
}

func (c Cover) is(m *mountinfo.Info) bool { return deviceOf(m) == c.Device }

func deviceOf(m *mountinfo.Info) uint64 { return unix.Mkdev(uint32(m.Major), uint32(m.Minor)) }

// find opens a mount to cover; -1 if another mount hides it.
func (c Cover) find(p *place, root int, m *mountinfo.Info) (int, error) {
	fd, err := openIn(root, m.Mountpoint, unix.O_DIRECTORY)
	if err != nil {
		return -1, nil
	}
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	hidden := err == nil && int(st.Mnt_id) != m.ID
	if err = os.NewSyscallError("statx", err); err == nil && !hidden {
		var ours bool
		if ours, err = p.reachesOurs(m); ours {
			err = fmt.Errorf("its mount at %s is shared with the host's: %w", m.Mountpoint, ErrNotTheirs)
		}
	}
	if err != nil || hidden {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
