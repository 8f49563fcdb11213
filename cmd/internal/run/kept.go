package run

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// dataTypes are the types of file systems that hold files without a device; /proc/filesystems tells the types that need
// one. A guest of "run" keeps the host's mounts of them. Every other type is an interface to the kernel or to another
// program, and so may be a type of a later kernel.
var dataTypes = []string{
	"tmpfs", "ramfs", "overlay", "aufs", "autofs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "afs", "zfs",
	"bcachefs", "ubifs", "jffs2",
	"ecryptfs", "vboxsf", "vmhgfs", "fuse",
}

// refusedFuse are FUSE file systems without data: views, and LXCFS, whose older versions have the host's cgroups.
var refusedFuse = []string{"fuse.cgroup", "fuse.lxcfs"}

// fileTypes are the types of file systems that hold files.
type fileTypes map[string]bool

// readFileTypes reads /proc/filesystems: a type without "nodev" needs a block device.
func readFileTypes() (fileTypes, error) {
	raw, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return nil, err
	}
	k := fileTypes{}
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "\t"); ok {
			k[name] = true
		}
	}
	for _, name := range dataTypes {
		k[name] = true
	}
	return k, nil
}

// holds reports that a mount is of a file system that holds files.
func (k fileTypes) holds(m *mountinfo.Info) bool {
	for _, refused := range refusedFuse {
		if strings.HasPrefix(m.FSType, refused) {
			return false
		}
	}
	main, _, _ := strings.Cut(m.FSType, ".")
	return k[m.FSType] || k[main] && main == "fuse"
}

// rebuilt are the directories whose mounts are made anew for a guest, without the host's mounts below.
var rebuilt = []string{"/proc", "/sys", "/dev"}

func under(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
}

// keepFiles keeps only mounts of files in this thread's mount namespace, which must be its own and private. It disables
// devices on them, attaches the host's bare /sys, and makes /dev anew. /proc is gone, or stays to be mounted over: the
// guest mounts its own. A mount that cannot be unmounted, such as one that came with a user namespace, is covered.
func keepFiles(d anew) error {
	k, err := readFileTypes()
	if err != nil {
		return err
	}
	// It stays readable when /proc is gone.
	table, err := os.Open(threadMounts)
	if err != nil {
		return err
	}
	defer table.Close()
	all, err := hierarchy.ReadMounts(table, nil)
	if err != nil {
		return err
	}
	sys, err := cloneMount("/sys")
	if err != nil {
		return err
	}
	defer unix.Close(sys)
	nodes := d.open()
	defer nodes.close()
	var locked []string
	// The last mount goes first.
	for _, m := range slices.Backward(all) {
		if m.Mountpoint == "/" || m.Mountpoint == "/proc" && d.procStays || !under(m.Mountpoint, rebuilt) && k.holds(m) {
			continue
		}
		done, err := unmountListed(m)
		if err != nil {
			return fmt.Errorf("cannot take the host's mount at %s away: %w", m.Mountpoint, err)
		}
		if !done && !under(m.Mountpoint, rebuilt) {
			// The rebuilt directories are mounted over anyway.
			locked = append(locked, m.Mountpoint)
		}
	}
	if err := noDevices(table); err != nil {
		return err
	}
	if err := d.attachSys(sys); err != nil {
		return err
	}
	if err := d.makeDev(nodes); err != nil {
		return err
	}
	for _, path := range locked {
		if err := hide(path); err != nil {
			return fmt.Errorf("cannot cover the host's mount at %s: %w", path, err)
		}
	}
	return nil
}

// threadMounts is the mount table of this thread, whose mount namespace may be its own.
const threadMounts = "/proc/thread-self/mountinfo"

// cloneMount makes a mount, attached nowhere, of the mount at a path. It leaves out the mounts on that, unless a user
// namespace above locks them together.
func cloneMount(path string) (int, error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.OpenTree(unix.AT_FDCWD, path, flags|unix.AT_RECURSIVE)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot make a mount for the guest: %w", attach.PathError("open_tree", path, err))
	}
	return fd, nil
}

// unmountListed unmounts the mount of a line of the mount table if its path leads to it; a hidden one is out of the
// guest's reach. done reports that nothing is left to do.
func unmountListed(m *mountinfo.Info) (done bool, err error) {
	err = byPath(m.Mountpoint, func(path string) error {
		var st unix.Statx_t
		const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
		err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_MNT_ID, &st)
		if err == nil && st.Mask&unix.STATX_MNT_ID != 0 && int(st.Mnt_id) != m.ID {
			// STATX_MNT_ID exists since Linux 5.8.
			return nil
		}
		return unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return true, nil
	case errors.Is(err, unix.EINVAL):
		return false, nil
	}
	return true, attach.PathError("umount", m.Mountpoint, err)
}

// pathMax is PATH_MAX of include/uapi/linux/limits.h: no call accepts a longer path, its NUL included.
const pathMax = 4096

// byPath calls f with a path to a mount point that system calls accept. A program that may rename directories above a
// mount can make its path too long; then f gets the last part, with the mount point's directory as this thread's
// working directory. The thread's working directory must be its own.
func byPath(path string, f func(path string) error) error {
	if len(path) < pathMax {
		return f(path)
	}
	dir, err := target.OpenPath(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	here, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(here)
	if err := unix.Fchdir(dir); err != nil {
		return err
	}
	return errors.Join(f(filepath.Base(path)), unix.Fchdir(here))
}

// hide covers a directory with an empty one, and a file with /dev/null. ENOENT if there is neither.
func hide(path string) error {
	return attach.PathError("mount", path, byPath(path, func(path string) error {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
				"mode=755,size=4k")
		}
		return unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
	}))
}

// noDevices disables device files in all mounts of this thread, whose table is given: a guest has only the devices of
// its /dev.
func noDevices(table io.ReadSeeker) error {
	// Linux 5.12.
	err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
	if !errors.Is(err, unix.ENOSYS) {
		return os.NewSyscallError("mount_setattr", err)
	}
	if _, err := table.Seek(0, io.SeekStart); err != nil {
		return err
	}
	all, err := hierarchy.ReadMounts(table, nil)
	if err != nil {
		return err
	}
	for _, m := range all {
		err := byPath(m.Mountpoint, func(path string) error {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil {
				return err
			}
			// The numbers of ST_RDONLY and so on are those of MS_RDONLY.
			const same = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
			flags := uintptr(st.Flags)&same | unix.MS_NODEV | unix.MS_REMOUNT | unix.MS_BIND
			return unix.Mount("", path, "", flags, "")
		})
		if err != nil {
			return attach.PathError("mount", m.Mountpoint, err)
		}
	}
	return nil
}
