package run

import (
	"errors"
	"fmt"
	"os"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"golang.org/x/sys/unix"
)

// A guest in a user namespace begins with mounts that it can neither unmount nor take apart: mounts that it must not
// have go before the namespace is made. A stage is the mount namespace that it begins with. Its root is a tmpfs with
// two directories.
const (
	stageGuest = "/guest" // the guest's future root
	// The host's /proc with nothing covered: the kernel permits another one only with such a one in sight
	// (mount_too_revealing).
	stageProc = "/proc"
)

// makeStage puts this thread into a stage.
func makeStage(d anew) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return attach.PathError("mount", "/", err)
	}
	proc, err := cloneMount("/proc")
	if err != nil {
		return err
	}
	defer unix.Close(proc)
	if err := keepFiles(d); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", viewPath, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
		"mode=755,size=64k"); err != nil {
		return attach.PathError("mount", viewPath, err)
	}
	if err := unix.Chdir(viewPath); err != nil {
		return attach.PathError("chdir", viewPath, err)
	}
	err = errors.Join(os.Mkdir("."+stageGuest, 0o755), os.Mkdir("."+stageProc, 0o755))
	if err == nil {
		err = os.NewSyscallError("move_mount", unix.MoveMount(proc, "", unix.AT_FDCWD, "."+stageProc,
			unix.MOVE_MOUNT_F_EMPTY_PATH))
	}
	if err == nil {
		err = os.NewSyscallError("pivot_root", unix.PivotRoot(".", "."+stageGuest))
	}
	if err == nil {
		err = attach.PathError("chdir", "/", unix.Chdir("/"))
	}
	return err
}

// stage is a stage that a guest has entered and not left.
type stage struct{ root int }

// enterStage makes the guest's tree of a stage the root. The rest of the stage is mounted over it, where paths from the
// root do not lead, so that /proc can be mounted.
func enterStage() (stage, error) {
	// The mount of the tree itself is locked to the stage; another mount of it is not.
	err := attach.PathError("mount", stageGuest, unix.Mount(stageGuest, stageGuest, "", unix.MS_BIND|unix.MS_REC, ""))
	if err == nil {
		err = attach.PathError("chdir", stageGuest, unix.Chdir(stageGuest))
	}
	var s stage
	if err == nil {
		s.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		err = os.NewSyscallError("pivot_root", unix.PivotRoot(".", "."))
	}
	if err != nil {
		return s, fmt.Errorf("cannot enter the guest's root: %w", err)
	}
	return s, nil
}

// leave unmounts the stage.
func (s stage) leave() error {
	defer unix.Close(s.root)
	err := os.NewSyscallError("fchdir", unix.Fchdir(s.root))
	if err == nil {
		err = attach.PathError("umount", ".", unix.Unmount(".", unix.MNT_DETACH))
	}
	if err == nil {
		err = attach.PathError("chdir", "/", unix.Chdir("/"))
	}
	if err != nil {
		return fmt.Errorf("cannot leave the host's mounts: %w", err)
	}
	return nil
}
