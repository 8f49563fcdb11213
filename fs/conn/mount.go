package conn

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount attributes of a cgroup mount: nosuid, nodev, noexec; relatime is the absence of MOUNT_ATTR_NOATIME and
// STRICTATIME.
const (
	mountAttrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	mountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME
)

// errNoFsopen means that the kernel lacks the mount API of Linux 5.2 or a seccomp filter blocks it.
var errNoFsopen = errors.New("fsopen is not available")

// Fsmount makes the mount and returns a detached descriptor of it: move_mount attaches it in a mount namespace, also
// of another process; closing it detached ends the connection. attrs are MOUNT_ATTR_ bits beyond nosuid, nodev and
// noexec. A connection is mounted once: EBUSY afterwards. An error that is errors.ErrUnsupported means that the
// kernel lacks fsopen, so only Mount can work. os.ErrClosed after Close, else the kernel's error, with its message.
func (c *Conn) Fsmount(attrs int) (mountFD int, err error) {
	mountFD, err = c.fsmount(attrs)
	if errors.Is(err, errNoFsopen) {
		return -1, fmt.Errorf("cannot mount: %w (%w)", err, errors.ErrUnsupported)
	}
	return mountFD, err
}

// Mount mounts at an existing directory. ENOTDIR for anything else; EBUSY if the connection was mounted before;
// os.ErrClosed after Close; else the kernel's error. A failure after the superblock was made ends the connection,
// and Serve returns.
//
// made, unless nil, is called with a descriptor of the mount before the mount is visible to other processes; it is
// not called if the kernel lacks fsopen.
func (c *Conn) Mount(dir string, made func(mountFD int)) error {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot mount: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	defer unix.Close(at)
	return c.MountAt(at, dir, made)
}

// MountAt mounts at an open directory, wherever it is by now; dir is its name in messages. Otherwise it is Mount.
func (c *Conn) MountAt(at int, dir string, made func(mountFD int)) error {
	fd, err := c.fsmount(0)
	if errors.Is(err, errNoFsopen) {
		return c.classicMount(at, dir)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if made != nil {
		made(fd)
	}
	if err := unix.MoveMount(fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot mount: %w", &os.PathError{Op: "move_mount", Path: dir, Err: err})
	}
	return nil
}

// unmounted returns the device before its mount.
func (c *Conn) unmounted() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Load() {
		return -1, fmt.Errorf("cannot mount: %w", os.ErrClosed)
	}
	if c.fd < 0 {
		return -1, fmt.Errorf("cannot mount a connection twice: %w", unix.EBUSY)
	}
	return c.fd, nil
}

// options are the kernel's mount options (fuse_fs_parameters in fs/fuse/inode.c); a key without a value is a flag.
// The owner is this process; allow_other admits other users, default_permissions makes the kernel check modes as on
// any file system.
func (c *Conn) options(dev int) [][2]string {
	return [][2]string{
		{"fd", strconv.Itoa(dev)}, {"rootmode", "40000"},
		{"user_id", strconv.Itoa(os.Geteuid())}, {"group_id", strconv.Itoa(os.Getegid())},
		{"allow_other"}, {"default_permissions"},
	}
}

func (c *Conn) fsmount(attrs int) (int, error) {
	dev, err := c.unmounted()
	if err != nil {
		return -1, err
	}
	ctx, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return -1, fmt.Errorf("%w: %w", errNoFsopen, err)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot mount: %w", os.NewSyscallError("fsopen", err))
	}
	defer unix.Close(ctx)
	for _, o := range append(c.options(dev), [2]string{"source", c.cfg.FSName}, [2]string{"subtype", c.cfg.Subtype}) {
		switch {
		case o[0] == "allow_other" || o[0] == "default_permissions":
			err = unix.FsconfigSetFlag(ctx, o[0])
		case o[1] != "":
			err = unix.FsconfigSetString(ctx, o[0], o[1])
		}
		if err != nil {
			return -1, configError(ctx, o[0], err)
		}
	}
	if c.cfg.ReadOnly {
		if err := unix.FsconfigSetFlag(ctx, "ro"); err != nil {
			return -1, configError(ctx, "ro", err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, configError(ctx, "create", err)
	}
	// The superblock has the device now.
	if err := c.attach(); err != nil {
		return -1, fmt.Errorf("cannot mount: %w", err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, mountAttrs|attrs)
	if err != nil {
		return -1, fmt.Errorf("cannot mount: %w", os.NewSyscallError("fsmount", err))
	}
	return fd, nil
}

// IsDead reports an error of a file system whose server has ended.
func IsDead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// configError adds the kernel's message about a refused option. The context returns it line by line, after "e ".
func configError(ctx int, option string, err error) error {
	var said []string
	buf := make([]byte, 1024)
	for {
		n, rerr := unix.Read(ctx, buf)
		if rerr != nil || n <= 0 {
			break
		}
		said = append(said, strings.TrimSpace(string(buf[:n])))
	}
	err = os.NewSyscallError("fsconfig "+option, err)
	if len(said) > 0 {
		return fmt.Errorf("cannot mount: %w (%s)", err, strings.Join(said, "; "))
	}
	return fmt.Errorf("cannot mount: %w", err)
}

// classicMount is mount(2).
func (c *Conn) classicMount(at int, dir string) error {
	dev, err := c.unmounted()
	if err != nil {
		return err
	}
	var opts []string
	for _, o := range c.options(dev) {
		if o[1] != "" {
			o[0] += "=" + o[1]
		}
		opts = append(opts, o[0])
	}
	fstype := "fuse"
	if c.cfg.Subtype != "" {
		fstype += "." + c.cfg.Subtype
	}
	flags := uintptr(mountFlags)
	if c.cfg.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	target := "/proc/self/fd/" + strconv.Itoa(at)
	if err := unix.Mount(c.cfg.FSName, target, fstype, flags, strings.Join(opts, ",")); err != nil {
		return fmt.Errorf("cannot mount: %w", &os.PathError{Op: "mount", Path: dir, Err: err})
	}
	return c.attach()
}
