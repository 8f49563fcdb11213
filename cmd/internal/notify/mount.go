package notify

import (
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Types of file systems whose mounts by a guest are answered.
const (
	typeV1 = "cgroup"
	typeV2 = "cgroup2"
)

// maxType exceeds the length of both.
const maxType = 16

// ours reports that a type's name in a caller's memory is typeV1 or typeV2. False for unreadable memory.
func (c *Caller) ours(at uint64) (fstype string, ok bool) {
	fstype, err := c.text(at, maxType)
	return fstype, err == nil && (fstype == typeV1 || fstype == typeV2)
}

// fsopen answers ENOSYS to a caller that may mount: libmount and runtimes then fall back to mount(2). A mount's
// descriptor cannot be passed to a caller (SECCOMP_IOCTL_NOTIF_ADDFD takes no O_PATH descriptor). The kernel refuses a
// caller that may not mount.
func (c *Caller) fsopen() answer {
	if _, ok := c.ours(c.Args[0]); !ok || !c.mayMount() || !c.admin("ns/cgroup") {
		return pass
	}
	return answer{errno: unix.ENOSYS}
}

// mount answers new mounts of cgroups. It checks in the kernel's order: the place and the right to mount, the options,
// the existing mounts.
func (c *Caller) mount() answer {
	if !newMount(uint32(c.Args[3])) {
		return pass
	}
	fstype, ok := c.ours(c.Args[2])
	if !ok {
		return pass
	}
	options, err := c.options()
	if err == nil && c.Args[0] != 0 {
		// The source. Cgroups ignore it.
		_, err = c.text(c.Args[0], maxPath)
	}
	if err != nil {
		return refuse(err)
	}
	// The kernel refuses such a caller itself, after looking up the place.
	if !c.mayMount() {
		return pass
	}
	at, err := c.lookUp(c.Args[1])
	switch {
	case errors.Is(err, errElsewhere):
		return answer{errno: unix.ELOOP}
	case err != nil:
		// The kernel finds the same error.
		return pass
	}
	defer unix.Close(at)
	a := c.attach(at, fstype, options)
	c.server.debugf("mount of %s (%s) by task %d: %v", fstype, options, c.Tid, a.errno)
	return a
}

// options reads the last argument as the kernel does (copy_mount_options): a page, or its readable part.
func (c *Caller) options() (string, error) {
	if c.Args[4] == 0 {
		return "", nil
	}
	text, err := c.text(c.Args[4], pageSize-1)
	if errors.Is(err, unix.ENAMETOOLONG) {
		err = unix.EINVAL
	}
	return text, err
}

// attach attaches the tree that the caller asks for.
func (c *Caller) attach(at int, fstype, options string) answer {
	tree, err := c.server.Guest.Tree(c, fstype, options)
	if err != nil {
		return refuse(err)
	}
	defer unix.Close(tree)
	if !isDirectory(at) {
		// The answer of graft_tree; move_mount would say EINVAL.
		return answer{errno: unix.ENOTDIR}
	}
	if same, err := sameRoot(tree, at); err != nil {
		return refuse(err)
	} else if same {
		if c.again {
			return answer{made: true}
		}
		// As do_add_mount answers.
		return answer{errno: unix.EBUSY}
	}
	if err := restrict(tree, c.Args[3]&unix.MS_RDONLY != 0); err != nil {
		return refuse(err)
	}
	if err := host.OnThread(func() error { return c.put(tree, at) }); err != nil {
		c.server.debugf("cannot mount for task %d: %v", c.Tid, err)
		return refuse(err)
	}
	return answer{made: true}
}

func isDirectory(fd int) bool {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// restrict gives a mount the usual attributes of the kernel's own, whatever the caller asked for.
func restrict(mount int, readOnly bool) error {
	attr := unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE,
	}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	// Linux 5.12.
	err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &attr)
	if errors.Is(err, unix.ENOSYS) && !readOnly {
		// A view's mounts have these attributes already.
		return nil
	}
	return err
}

// sameRoot reports that two descriptors lead to the same inode, and the second one to the root of a mount.
func sameRoot(tree, at int) (bool, error) {
	var a, b unix.Statx_t
	const flags = unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(tree, "", flags, unix.STATX_INO, &a); err != nil {
		return false, err
	}
	if err := unix.Statx(at, "", flags, unix.STATX_INO, &b); err != nil {
		return false, err
	}
	return a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor && a.Ino == b.Ino &&
		b.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// put attaches a mount in the caller's mount namespace, on a thread that may enter it. EPERM if the mount would reach
// this process's own namespace.
func (c *Caller) put(tree, at int) error {
	inside, err := c.enterMounts()
	if err != nil {
		return err
	}
	if !inside {
		if err := c.staysInside(at); err != nil {
			return err
		}
	}
	if !c.act() {
		return unix.EINTR
	}
	return unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// enterMounts moves the thread into the caller's mount namespace. inside is true for a Supervisor of its own guest
// (Supervisor.Inside), which needs no check of propagation.
func (c *Caller) enterMounts() (inside bool, err error) {
	ns, err := c.Open("ns/mnt", unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer unix.Close(ns)
	own, err := host.OwnNamespace(ns, "mnt")
	switch {
	case err != nil:
		return false, err
	case own && !c.server.Inside:
		return false, unix.EPERM
	case own:
		return true, nil
	}
	// setns requires it.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return false, err
	}
	return c.server.Inside, unix.Setns(ns, unix.CLONE_NEWNS)
}

// staysInside checks that a mount at a place in the thread's namespace does not propagate to this process's. EPERM if
// it does.
func (c *Caller) staysInside(at int) error {
	var st unix.Statx_t
	if err := unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return err
	}
	// The descriptor of this process's /proc: a guest's /proc is not trusted.
	fd, err := unix.Openat(procFD(), strconv.Itoa(unix.Gettid())+"/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "mountinfo")
	defer f.Close()
	table, err := hierarchy.ReadMounts(f,
		func(m *mountinfo.Info) (skip, stop bool) { return uint64(m.ID) != st.Mnt_id, false })
	if err != nil {
		return err
	}
	if len(table) != 1 {
		// As check_mnt answers.
		return unix.EINVAL
	}
	own, err := c.ownMounts()
	if err != nil {
		return err
	}
	defer own.Close()
	shared, err := Reaches(table[0], own)
	if err == nil && shared {
		err = unix.EPERM
	}
	return err
}

// ownMounts opens the mount table of this process.
func (c *Caller) ownMounts() (*os.File, error) {
	fd, err := unix.Openat(procFD(), "self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "mountinfo"), nil
}

// Reaches reports that mounts on a mount of another namespace propagate to the namespace of the given table: the table
// has a peer or a slave of that mount (mount_namespaces(7)). The error is the table's.
func Reaches(m *mountinfo.Info, table io.Reader) (found bool, err error) {
	_, group, shared := strings.Cut(m.Optional, "shared:")
	if !shared {
		return false, nil
	}
	group, _, _ = strings.Cut(group, " ")
	_, err = hierarchy.ReadMounts(table, func(m *mountinfo.Info) (skip, stop bool) {
		of := strings.Fields(m.Optional)
		found = found || slices.Contains(of, "shared:"+group) || slices.Contains(of, "master:"+group)
		return true, found
	})
	return found, err
}
