package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"golang.org/x/sys/unix"
)

// deviceNames are the devices of a container.
var deviceNames = []string{"null", "zero", "full", "random", "urandom", "tty"}

// deviceLinks are the symbolic links in a container's /dev.
var deviceLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	"ptmx": "pts/ptmx",
}

// anew describes how a guest's /proc, /sys and /dev are made.
type anew struct {
	procStays   bool // in a user namespace, which can mount no /proc without one in sight
	sysWritable bool // for a guest's root that is no user of the host
	fuse        bool // /dev/fuse: the guest may mount in a user namespace, where it can be the host of guests
	id          int  // uid and gid of the owner of /dev
}

// attachSys attaches a mount of the host's /sys, with nothing mounted on it.
func (d anew) attachSys(mount int) error {
	err := attach.PathError("move_mount", "/sys",
		unix.MoveMount(mount, "", unix.AT_FDCWD, "/sys", unix.MOVE_MOUNT_F_EMPTY_PATH))
	if err == nil {
		flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
		if !d.sysWritable {
			flags |= unix.MS_RDONLY
		}
		err = attach.PathError("mount", "/sys", unix.Mount("", "/sys", "", flags, ""))
	}
	if err != nil {
		return fmt.Errorf("cannot make the guest's /sys: %w", err)
	}
	return nil
}

// node is a device of the host, with a mount of it that is attached nowhere.
type node struct {
	number int // 0 with a mount only
	fd     int
}

// nodes are devices by their names in the guest.
type nodes map[string]node

// open opens the devices that the host has, and a terminal on standard input as "console".
func (d anew) open() nodes {
	n := nodes{}
	names := deviceNames
	if d.fuse {
		names = append([]string{"fuse"}, names...)
	}
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	for _, name := range names {
		var st unix.Stat_t
		if fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/"+name, flags); err == nil {
			_ = unix.Fstat(fd, &st)
			n[name] = node{int(st.Rdev), fd}
		}
	}
	if isTerminal(0) {
		if fd, err := openTerminal(0); err == nil {
			n["console"] = node{fd: fd}
		}
	}
	return n
}

func (n nodes) close() {
	for _, x := range n {
		unix.Close(x.fd)
	}
}

// openTerminal makes a mount of a terminal by its path: the open descriptor belongs to the host's mount namespace.
func openTerminal(fd int) (int, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", fd))
	if err != nil {
		return -1, err
	}
	mount, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, err
	}
	var want, got unix.Stat_t
	err = errors.Join(unix.Fstat(fd, &want), unix.Fstat(mount, &got))
	if err == nil && (want.Dev != got.Dev || want.Ino != got.Ino) {
		err = unix.ENOENT
	}
	if err != nil {
		unix.Close(mount)
		return -1, err
	}
	return mount, nil
}

// makeNode makes the device at a path, as a file of its own, whose mode the host need not care for. Where mknod is not
// permitted, in a user namespace, it attaches the mount of the host's device.
func (d anew) makeNode(x node, path string) error {
	if x.number != 0 {
		err := unix.Mknod(path, unix.S_IFCHR|0o666, x.number)
		if err == nil {
			// Chmod undoes the umask.
			return errors.Join(os.Chmod(path, 0o666), os.Lchown(path, d.id, d.id))
		}
		if !errors.Is(err, unix.EPERM) {
			return attach.PathError("mknod", path, err)
		}
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return attach.PathError("move_mount", path, unix.MoveMount(x.fd, "", unix.AT_FDCWD, path,
		unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// makeDev mounts the guest's /dev, without the mounts of a namespace: the guest itself mounts /dev/pts and /dev/mqueue
// (mountOwn).
func (d anew) makeDev(n nodes) error {
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC
	err := attach.PathError("mount", "/dev", unix.Mount("tmpfs", "/dev", "tmpfs", flags,
		fmt.Sprintf("mode=755,size=64k,uid=%d,gid=%d", d.id, d.id)))
	for _, dir := range []string{"pts", "mqueue", "shm"} {
		err = errors.Join(err, os.Mkdir("/dev/"+dir, 0o755))
	}
	if err == nil {
		err = attach.PathError("mount", "/dev/shm", unix.Mount("shm", "/dev/shm", "tmpfs", flags|unix.MS_NODEV, "mode=1777"))
	}
	for name, to := range deviceLinks {
		if err == nil {
			err = os.Symlink(to, filepath.Join("/dev", name))
		}
	}
	for name, x := range n {
		if err == nil {
			err = d.makeNode(x, filepath.Join("/dev", name))
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make the guest's /dev: %w", err)
	}
	return nil
}

// mountOwn mounts in /dev the file systems of the guest's own namespaces.
func mountOwn() error {
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC
	const options = "newinstance,ptmxmode=0666,mode=0620"
	// Group 5 owns the terminals on all distributions.
	err := unix.Mount("devpts", "/dev/pts", "devpts", flags, options+",gid=5")
	if errors.Is(err, unix.EINVAL) {
		// A user namespace without that group.
		err = unix.Mount("devpts", "/dev/pts", "devpts", flags, options)
	}
	if err != nil {
		return fmt.Errorf("cannot mount the guest's terminals: %w", attach.PathError("mount", "/dev/pts", err))
	}
	return ownQueues(queuesPath)
}

// queuesPath is the place of an IPC namespace's message queues.
const queuesPath = "/dev/mqueue"

// ownQueues mounts the message queues of this process's IPC namespace.
func ownQueues(path string) error {
	err := unix.Mount("mqueue", path, "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	// ENODEV: a kernel without message queues.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cannot mount the guest's message queues: %w", attach.PathError("mount", path, err))
	}
	return nil
}

// hasQueues reports that the host has its message queues mounted at queuesPath.
func hasQueues() bool {
	var st unix.Statfs_t
	// MQUEUE_MAGIC of ipc/mqueue.c.
	const mqueueMagic = 0x19800202
	return unix.Statfs(queuesPath, &st) == nil && st.Type == mqueueMagic
}
