package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Inside is a place in the mount namespace of a process, where a view that is mounted on the host is attached, too.
type Inside struct {
	Pid    int
	Rootfs string // what will be the guest's root, as a path from the process's root; "" for that root
	Path   string // from the guest's root
	Stack  bool   // what is mounted there stays below, instead of being taken away
	Dirs   []Dir  // for a tmpfs with a mount for each of these, instead of the view itself
}

// Dir is a directory at the top of a view that gets a mount of its own, and the links to it.
type Dir struct {
	Name  string
	Links []string
}

// DirsOf are the directories of a view that shows hierarchies in layout v1 or hybrid, with the links that hosts have where one
// hierarchy has several controllers (cpu -> cpu,cpuacct).
func DirsOf(trees []*host.Tree) (dirs []Dir) {
	for _, t := range trees {
		d := Dir{Name: t.Dir}
		if len(t.Controllers) > 1 && t.Version == hierarchy.V1 {
			d.Links = slices.DeleteFunc(slices.Clone(t.Controllers), func(c string) bool { return c == t.Dir })
		}
		dirs = append(dirs, d)
	}
	return dirs
}

// insideTimeout is how long a guest may take to be looked up a path in: it may have mounted a file system that never answers.
const insideTimeout = 10 * time.Second

// moveMountBeneath is MOVE_MOUNT_BENEATH of include/uapi/linux/mount.h (Linux 6.5).
const moveMountBeneath = 0x200

// Attach attaches the file system that is mounted at a directory of this mount namespace. What is mounted at the place goes in
// the same moment, or stays below: nobody in the guest finds the place empty. The error says what is missing.
func (in Inside) Attach(view string) error {
	clone, err := in.clone(view)
	if err != nil {
		return fmt.Errorf("cannot attach the view to process %d: %w", in.Pid, err)
	}
	defer unix.Close(clone)
	err = in.do(func(at int) error { return in.put(clone, at) })
	if err != nil {
		return fmt.Errorf("cannot attach the view at %s of process %d: %w", in.Path, in.Pid, err)
	}
	return nil
}

// clone makes a mount, attached nowhere, of what the guest is to have.
func (in Inside) clone(view string) (fd int, err error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if len(in.Dirs) == 0 {
		fd, err = unix.OpenTree(unix.AT_FDCWD, view, flags)
		return fd, pathError("open_tree", view, err)
	}
	top, err := os.MkdirTemp(filepath.Dir(view), ".tree-")
	if err != nil {
		return -1, err
	}
	defer os.Remove(top)
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", top, "tmpfs", safe, "mode=755,size=64k"); err != nil {
		return -1, pathError("mount", top, err)
	}
	defer unix.Unmount(top, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err := unix.Mount("", top, "", unix.MS_PRIVATE, ""); err != nil {
		return -1, pathError("mount", top, err)
	}
	for _, d := range in.Dirs {
		at := filepath.Join(top, d.Name)
		err := os.Mkdir(at, 0o755)
		if err == nil {
			err = pathError("mount", at, unix.Mount(filepath.Join(view, d.Name), at, "", unix.MS_BIND, ""))
		}
		for _, link := range d.Links {
			err = errors.Join(err, os.Symlink(d.Name, filepath.Join(top, link)))
		}
		if err != nil {
			return -1, err
		}
	}
	if err := unix.Mount("", top, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|safe, ""); err != nil {
		return -1, pathError("mount", top, err)
	}
	fd, err = unix.OpenTree(unix.AT_FDCWD, top, flags|unix.AT_RECURSIVE)
	return fd, pathError("open_tree", top, err)
}

// pathError is nil for no error.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// put attaches a mount at a directory of the thread's mount namespace.
func (in Inside) put(mount, at int) error {
	const byFD = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if !in.Stack && isMountRoot(at) {
		// Linux 6.5. It is refused where what is there must stay: the root itself, a mount that another user namespace locks.
		if unix.MoveMount(mount, "", at, "", byFD|moveMountBeneath) == nil {
			return unmountTop(at)
		}
	}
	return os.NewSyscallError("move_mount", unix.MoveMount(mount, "", at, "", byFD))
}

// unmountTop unmounts what a descriptor is the root of. It has no path that could be trusted.
func unmountTop(at int) error {
	if err := unix.Fchdir(at); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	return os.NewSyscallError("umount2", unix.Unmount(".", unix.MNT_DETACH))
}

// Detach takes a view away that Attach has attached, if it is what is mounted there. The guest may have taken it away itself.
func (in Inside) Detach(device uint64) error {
	return in.do(func(at int) error {
		if is, err := in.isView(at, device); err != nil || !is {
			return err
		}
		return unmountTop(at)
	})
}

// Has says whether a file system is what the guest finds at the place.
func (in Inside) Has(device uint64) (is bool, err error) {
	err = in.do(func(at int) (err error) {
		is, err = in.isView(at, device)
		return err
	})
	return is, err
}

// isView says whether what is mounted at the place is a view, or the tmpfs with its directories.
func (in Inside) isView(at int, device uint64) (bool, error) {
	var st unix.Statx_t
	path, flags := "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC
	if len(in.Dirs) > 0 {
		path, flags = in.Dirs[0].Name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC
	}
	err := unix.Statx(at, path, flags, 0, &st)
	if path != "" && errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("statx", err)
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor) == device, nil
}

func isMountRoot(fd int) bool {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// do does something in the mount namespace of the process, with the place opened. The guest decides what its paths are; none of
// them leads out of its root.
func (in Inside) do(f func(at int) error) error {
	proc := "/proc/" + strconv.Itoa(in.Pid)
	ns, err := unix.Open(proc+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return noProcess(in.Pid, err)
	}
	root, err := unix.Open(proc+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(ns)
		return noProcess(in.Pid, err)
	}
	done := make(chan error, 1)
	go func() {
		defer unix.Close(ns)
		defer unix.Close(root)
		done <- host.OnThread(func() error { return in.enter(ns, root, f) })
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(insideTimeout):
		return errors.New("the guest does not let its paths be looked up: a file system of its own does not answer")
	}
}

func noProcess(pid int, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("no such process %d", pid)
	}
	return err
}

func (in Inside) enter(ns, root int, f func(at int) error) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns wants that
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	if in.Rootfs != "" {
		rootfs, err := openIn(root, in.Rootfs)
		if err != nil {
			return err
		}
		defer unix.Close(rootfs)
		root = rootfs
	}
	at, err := openIn(root, in.Path)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return f(at)
}

// openIn opens a directory by a path that a root bounds, as chroot would.
func openIn(root int, path string) (int, error) {
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
