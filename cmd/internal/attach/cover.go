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

// Cover is a file system, to be covered by a guest's view in the mount namespace of a task that has it there.
type Cover struct {
	Tid    int
	Start  uint64 // of Tid (host.StartOf), so that its number is no other's
	Device uint64 // of what is to be covered
	// Foreign says whether a file system is another guest's view.
	Foreign func(device uint64) bool
	// Ended is called when no thread is at it any more, which is before With returns unless the guest's own file systems keep one.
	Ended func()
}

// maxCovers is how many mounts one call covers: a guest may have made any number.
const maxCovers = 16

// coverTimeout is more than looking paths up may take. Who mounts waits for the lock of the directory below; whoever holds that may
// wait for this call's own outcome, if it has made the file system writable, as root of the host can: then that must come.
const coverTimeout = 2 * insideTimeout

// ErrNotTheirs says that the mount namespace of a task is not one to change: the host's own, or another guest's.
var ErrNotTheirs = errors.New("the mount namespace is not the container's alone")

// With mounts a view, of whose root it is given a descriptor, on each mount that has nothing on it yet, and says
// whether there was one. What is below stays: who unmounts the view comes to it again. ErrNotTheirs, or what is missing.
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

// all covers what is there.
func (c Cover) all(p *place, clone int) (done bool, err error) {
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // this process's; the guest's may be anything
	if err != nil {
		return false, PathError("open", "/proc", err)
	}
	defer unix.Close(proc)
	if err := p.join(); err != nil {
		return false, err
	}
	// The table of the whole namespace: that of the task is of its root only.
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
	for _, m := range bare { // all paths are looked up before anything is changed
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

// spot is a mount that is to be covered, and whether the container has it read-only: then it gets the view so.
type spot struct {
	fd       int // O_PATH
	readOnly bool
}

// put attaches a mount at the first of some spots, and clones of it at the others.
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
			attr = unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY} // of the one before
		}
		if x.readOnly || i > 0 { // Linux 5.12
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

// bare lists the mounts to be covered that have nothing on them.
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

// find opens a mount that is to be covered; -1 where it is hidden by another one.
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
