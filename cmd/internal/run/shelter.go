package run

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// shelter is a mount namespace with nothing but a mount of a view, for as long as it is open. Mounts of the view can be
// made there whatever the guest does to its own: the kernel copies a mount that is attached nowhere only since Linux
// 6.15.
type shelter struct {
	ns *os.File
}

// shelterView attaches a mount in a new shelter. The mount stays usable by its descriptor.
func shelterView(mount int) (*shelter, error) {
	s := &shelter{}
	err := host.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return attach.PathError("mount", "/", err)
		}
		// The host's mounts go from here, so that they are not in use.
		if err := unix.Mount("tmpfs", viewPath, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
			"mode=700,size=64k"); err != nil {
			return attach.PathError("mount", viewPath, err)
		}
		ns, err := os.Open("/proc/thread-self/ns/mnt")
		if err != nil {
			return err
		}
		s.ns = ns
		return leaveHost(mount)
	})
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cannot keep the view for mounts of the guest: %w", err)
	}
	return s, nil
}

// leaveHost makes a tmpfs the root, and attaches the view in it.
func leaveHost(mount int) error {
	if err := unix.Chdir(viewPath); err != nil {
		return attach.PathError("chdir", viewPath, err)
	}
	for _, dir := range []string{"host", "view"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, "view", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	if err := unix.PivotRoot(".", "host"); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return attach.PathError("chdir", "/", err)
	}
	return attach.PathError("umount", "/host", unix.Unmount("/host", unix.MNT_DETACH))
}

// clone makes another mount of the view, attached nowhere.
func (s *shelter) clone(mount *os.File) (*os.File, error) {
	var fd int
	err := host.OnThread(func() error {
		// setns of a mount namespace fails while the thread shares its file system attributes.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("setns", err)
		}
		var err error
		fd, err = unix.OpenTree(int(mount.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return os.NewSyscallError("open_tree", err)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a mount of the view: %w", err)
	}
	return os.NewFile(uintptr(fd), "view"), nil
}

func (s *shelter) close() {
	if s != nil && s.ns != nil {
		s.ns.Close()
	}
}
