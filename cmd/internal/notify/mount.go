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

// The types of file systems of which a guest's mounts are answered.
const (
	typeV1 = "cgroup"
	typeV2 = "cgroup2"
)

// maxType is more than the length of those.
const maxType = 16

// ours says whether the name of a type in a caller's memory is one of those. What cannot be read is not.
func (c *Caller) ours(at uint64) (fstype string, ok bool) {
	fstype, err := c.text(at, maxType)
	return fstype, err == nil && (fstype == typeV1 || fstype == typeV2)
}

// fsopen says to who may mount that the kernel has no such call: libmount and runtimes then use mount(2). A descriptor of a mount cannot
// be put into a caller (SECCOMP_IOCTL_NOTIF_ADDFD takes none that is O_PATH). Who may not mount is told so by the kernel.
func (c *Caller) fsopen() answer {
	if _, ok := c.ours(c.Args[0]); !ok || !c.mayMount() || !c.admin("ns/cgroup") {
		return pass
	}
	return answer{errno: unix.ENOSYS}
}

// mount answers for new mounts of cgroups. What is wrong with it is looked for in the kernel's order: the place and the right to mount,
// the options, what is there.
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
		_, err = c.text(c.Args[0], maxPath) // the source, which cgroups do not look at
	}
	if err != nil {
		return refuse(err)
	}
	// Who may not mount is told so by the kernel, when it has looked the place up.
	if !c.mayMount() {
		return pass
	}
	at, err := c.lookUp(c.Args[1])
	switch {
	case errors.Is(err, errElsewhere):
		return answer{errno: unix.ELOOP}
	case err != nil:
		return pass // the same
	}
	defer unix.Close(at)
	a := c.attach(at, fstype, options)
	c.server.debugf("mount of %s (%s) by task %d: %v", fstype, options, c.Tid, a.errno)
	return a
}

// options reads the last argument as the kernel does (copy_mount_options): a page, or what there is of it.
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

// attach attaches the tree that a caller asks for.
func (c *Caller) attach(at int, fstype, options string) answer {
	tree, err := c.server.Guest.Tree(c, fstype, options)
	if err != nil {
		return refuse(err)
	}
	defer unix.Close(tree)
	if !isDirectory(at) {
		return answer{errno: unix.ENOTDIR} // graft_tree; of move_mount it is EINVAL
	}
	if same, err := sameRoot(tree, at); err != nil {
		return refuse(err)
	} else if same {
		if c.again {
			return answer{made: true}
		}
		return answer{errno: unix.EBUSY} // do_add_mount
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

// restrict makes a mount what the kernel's own usually is, whatever the caller asked for.
func restrict(mount int, readOnly bool) error {
	attr := unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE,
	}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &attr) // Linux 5.12
	if errors.Is(err, unix.ENOSYS) && !readOnly {
		return nil // a view's mounts are made so
	}
	return err
}

// sameRoot says whether two descriptors lead to the same, and the second to the root of a mount.
func sameRoot(tree, at int) (bool, error) {
	var a, b unix.Statx_t
	const flags = unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(tree, "", flags, unix.STATX_INO, &a); err != nil {
		return false, err
	}
	if err := unix.Statx(at, "", flags, unix.STATX_INO, &b); err != nil {
		return false, err
	}
	return a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor && a.Ino == b.Ino && b.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// put attaches a mount in the mount namespace of the caller, on a thread that may enter it. EPERM where it would come into this
// process's.
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

// enterMounts brings the thread into the mount namespace of the caller, or says that it is in it, as one of the guest's own.
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
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns wants that
		return false, err
	}
	return c.server.Inside, unix.Setns(ns, unix.CLONE_NEWNS)
}

// staysInside says whether what is mounted at a place, in the namespace that the thread is in, stays out of this process's. EPERM.
func (c *Caller) staysInside(at int) error {
	var st unix.Statx_t
	if err := unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return err
	}
	// By the descriptor of this process's /proc: the guest's may be anything.
	fd, err := unix.Openat(procFD(), strconv.Itoa(unix.Gettid())+"/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "mountinfo")
	defer f.Close()
	table, err := hierarchy.ReadMounts(f, func(m *mountinfo.Info) (skip, stop bool) { return uint64(m.ID) != st.Mnt_id, false })
	if err != nil {
		return err
	}
	if len(table) != 1 {
		return unix.EINVAL // check_mnt
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

// ownMounts is the mount table of this process.
func (c *Caller) ownMounts() (*os.File, error) {
	fd, err := unix.Openat(procFD(), "self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "mountinfo"), nil
}

// Reaches says whether what is mounted on a mount of another namespace comes into the one whose mount table is given: a mount there is of
// the same peer group, or a slave of it (mount_namespaces(7)).
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
