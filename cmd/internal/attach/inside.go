// Package attach mounts a view in the mount namespace of a guest, or at a directory of the host, and unmounts it.
//
// # What always holds
//
// A directory is resolved once, to a descriptor, and mounted and unmounted by descriptor or mount id: a path of the
// guest is never resolved on the host. A mount is unmounted on every way out; the next server clears the dead mounts of
// a killed one.
package attach

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Inside is a place in the mount namespace of a process, where a view that is mounted on the host is attached, too.
type Inside struct {
	Work   string // a directory of the host's own, for temporary mounts
	Pid    int
	Start  uint64 // start time of Pid (host.StartOf), against a reused number
	Rootfs string // the guest's future root, as a path from the process's root; "" for that root
	Later  bool   // the process may have made Rootfs its root since the guest was made
	Path   string // from the guest's root
	Stack  Stack  // the fate of the mounts that are there before
	Own    OwnMounts
	Tree   *host.Boundary // with StackOwn, its mount is made and stays below, if no other does; nil for none
	Dirs   []Dir          // not empty: a tmpfs with a mount for each of these, instead of the view itself

	Cgroups string // content for /proc/cgroups (CgroupsText); "" keeps the kernel's
	file    bool   // the place is a file
}

// Dir is a directory at the top of a view that gets a mount of its own, with the symbolic links to it.
type Dir struct {
	Name  string
	Links []string
}

// DirsOf returns the directories of a view that shows hierarchies in layout v1 or hybrid, with the links that hosts
// have for a hierarchy with several controllers (cpu -> cpu,cpuacct).
func DirsOf(hierarchies []*host.Hierarchy) (dirs []Dir) {
	for _, t := range hierarchies {
		d := Dir{Name: t.Dir}
		if len(t.Controllers) > 1 && t.Version == hierarchy.V1 {
			d.Links = slices.DeleteFunc(slices.Clone(t.Controllers), func(c string) bool { return c == t.Dir })
		}
		dirs = append(dirs, d)
	}
	return dirs
}

// insideTimeout bounds path lookup in a guest, which may have mounted a file system that never answers.
const insideTimeout = 10 * time.Second

// moveMountBeneath is MOVE_MOUNT_BENEATH of include/uapi/linux/mount.h (Linux 6.5).
const moveMountBeneath = 0x200

// Attach attaches the view with this root. The mount that is at the place goes in the same moment, or stays below: no
// process in the guest finds the place empty. The error names the step that failed, and a capability or filter as its
// possible cause.
func (in Inside) Attach(view int) error {
	fresh, err := in.attachCgroups()
	if err != nil {
		return err
	}
	if err := in.attachView(view); err != nil {
		if fresh {
			_ = in.detachCgroups()
		}
		return err
	}
	return nil
}

// Mend attaches the parts that the guest has unmounted. The errors are those of Has and Attach.
func (in Inside) Mend(view int, device uint64) error {
	has, err := in.Has(device)
	switch {
	case err != nil:
		return err
	case !has:
		return in.Attach(view)
	}
	_, err = in.attachCgroups()
	return err
}

func (in Inside) attachView(view int) error {
	clone, err := in.clone(view)
	if err != nil {
		return fmt.Errorf("cannot attach the view to process %d: %w", in.Pid, forbidden(err))
	}
	tree := in.cloneTree()
	_, err = in.do(func(p *place) (bool, error) { return true, in.put(clone, tree, p) }, func() {
		unix.Close(clone)
		unix.Close(tree)
	})
	if err != nil {
		return fmt.Errorf("cannot attach the view at %s of process %d: %w", in.Path, in.Pid, forbidden(err))
	}
	return nil
}

// forbidden adds to an error of open_tree, setns or move_mount the possible causes beside the kernel. Every kernel with
// openat2 (Linux 5.6), without which nothing here works, has these calls (Linux 5.2). So ENOSYS never means an old
// kernel, and EPERM never a lack of root.
func forbidden(err error) error {
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf(
			"%w; the daemon may not make mounts: give it CAP_SYS_ADMIN and no seccomp filter (a container: --privileged; "+
				"a systemd unit: no SystemCallFilter=)", err)
	}
	return err
}

// clone makes the mount for the guest, attached nowhere.
func (in Inside) clone(view int) (fd int, err error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if len(in.Dirs) == 0 {
		fd, err = unix.OpenTree(view, "", unix.AT_EMPTY_PATH|flags)
		return fd, os.NewSyscallError("open_tree", err)
	}
	top, err := os.MkdirTemp(in.Work, ".tree-")
	if err != nil {
		return -1, err
	}
	defer os.Remove(top)
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", top, "tmpfs", safe, "mode=755,size=64k"); err != nil {
		return -1, PathError("mount", top, err)
	}
	defer unix.Unmount(top, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err := unix.Mount("", top, "", unix.MS_PRIVATE, ""); err != nil {
		return -1, PathError("mount", top, err)
	}
	for _, d := range in.Dirs {
		at := filepath.Join(top, d.Name)
		err := os.Mkdir(at, 0o755)
		if err == nil {
			err = PathError("mount", at, unix.Mount(filepath.Join(target.Link(view), d.Name), at, "", unix.MS_BIND, ""))
		}
		for _, link := range d.Links {
			err = errors.Join(err, os.Symlink(d.Name, filepath.Join(top, link)))
		}
		if err != nil {
			return -1, err
		}
	}
	if err := unix.Mount("", top, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|safe, ""); err != nil {
		return -1, PathError("mount", top, err)
	}
	fd, err = unix.OpenTree(unix.AT_FDCWD, top, flags|unix.AT_RECURSIVE)
	return fd, PathError("open_tree", top, err)
}

// PathError makes an *os.PathError, or nil for a nil error.
func PathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// put attaches a mount at the place, and below it tree, -1 for none, where no other stays there.
func (in Inside) put(mount, tree int, p *place) error {
	const byFD = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	now, err := p.mount()
	if err != nil {
		return err
	}
	if err := p.private(now); err != nil {
		return err
	}
	stacks, done := in.below(p, now)
	defer done()
	if err := p.claim(); err != nil {
		return err
	}
	if now.covered && !stacks() {
		// Linux 6.5. The kernel refuses it where the present mount must stay: the root itself, a mount that another user
		// namespace locks. A mount beneath comes between the present one and what was put beneath before.
		if tree >= 0 {
			_ = unix.MoveMount(tree, "", p.at, "", byFD|moveMountBeneath)
		}
		if unix.MoveMount(mount, "", p.at, "", byFD|moveMountBeneath) == nil {
			return p.unmount()
		}
	}
	return os.NewSyscallError("move_mount", unix.MoveMount(mount, "", p.at, "", byFD))
}

// below opens the mounts at the place. Then stacks prepares them to stay below the view, and reports whether they do.
func (in Inside) below(p *place, now mounts) (stacks func() bool, done func()) {
	if in.Stack == StackNone || len(in.Own) == 0 {
		return func() bool { return in.Stack == StackAll }, func() {}
	}
	all, err := p.cgroups(now, in.Own)
	useful := slices.ContainsFunc(all, func(b below) bool { return b.own })
	stacks = func() bool {
		if err == nil && (useful || in.Stack == StackAll) {
			err = p.tidy(all, in.Stack == StackOwn)
		}
		return in.Stack == StackAll || err == nil && useful
	}
	return stacks, func() {
		for _, b := range all {
			unix.Close(b.fd)
		}
	}
}

// Detach unmounts the view if it is at the place; the guest may have unmounted it before. The error names the step that
// failed.
func (in Inside) Detach(device uint64) error {
	cgroupsErr := in.detachCgroups()
	err := in.unmountOurs(func(p *place) (bool, error) { return in.isView(p.at, device) })
	return errors.Join(err, cgroupsErr)
}

// unmountOurs unmounts the mount at the place if it is ours.
func (in Inside) unmountOurs(ours func(p *place) (bool, error)) error {
	_, err := in.do(func(p *place) (bool, error) {
		is, err := ours(p)
		if err != nil || !is {
			return false, err
		}
		now, err := p.mount()
		if err == nil {
			err = p.private(now)
		}
		if err != nil {
			return false, err
		}
		if err := p.claim(); err != nil {
			return false, err
		}
		return true, p.unmount()
	}, nil)
	return err
}

// Has reports that the guest finds the view at the place. The error is of reaching the place.
func (in Inside) Has(device uint64) (bool, error) {
	return in.do(func(p *place) (bool, error) { return in.isView(p.at, device) }, nil)
}

// isView reports that the mount at the place is the view, or the tmpfs with its directories.
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

// place is an entered Inside: the thread is in the mount namespace of the process.
type place struct {
	ns, root int         // descriptors of the process's mount namespace and root
	mounts   *os.File    // the process's mountinfo
	own      *os.File    // this process's mountinfo
	fds      int         // the directory of this process's descriptors, in the host's /proc
	at       int         // the file at the place, O_PATH
	settled  atomic.Bool // a change was begun, or the thread was given up
}

// errGivenUp stops a thread that comes too late: its caller has returned, and would not know of a change.
var errGivenUp = errors.New("the guest does not let its paths be looked up: a file system of its own does not answer")

var errHostMounts = errors.New(
	"the process is in the host's own mount namespace; mount the view at a directory (--target DIR)")

// claim must succeed before any change.
func (p *place) claim() error {
	if !p.settled.CompareAndSwap(false, true) {
		return errGivenUp
	}
	return nil
}

// private returns an error if changes of the mounts at the place would propagate into this process's own mount
// namespace.
func (p *place) private(now mounts) error {
	found, id := false, now.id
	// First the mount that the place is in; then, if the place is its root, the mount below.
	for range 2 {
		i := slices.IndexFunc(now.table, func(m *mountinfo.Info) bool { return m.ID == id })
		if i < 0 {
			break
		}
		if ours, err := p.reachesOurs(now.table[i]); err != nil {
			return err
		} else if ours {
			return fmt.Errorf(
				"its mount at %s is shared with the host's: what is attached there would be attached here, too; "+
					"make the guest's mounts private or slaves (mount --make-rslave /)", now.table[i].Mountpoint)
		}
		found, id = true, now.table[i].Parent
		if !now.covered {
			break
		}
	}
	if !found {
		return errors.New("its mount is not in the mountinfo of the process")
	}
	return nil
}

// reachesOurs reports that a mount on a mount of the guest propagates into this process's namespace: a mount there is
// in the same peer group, or a slave of it (mount_namespaces(7)).
func (p *place) reachesOurs(m *mountinfo.Info) (bool, error) {
	found, err := notify.Reaches(m, p.own)
	if err == nil {
		_, err = p.own.Seek(0, io.SeekStart)
	}
	return found, err
}

// unmount unmounts the mount at the place.
func (p *place) unmount() error { return os.NewSyscallError("umount2", p.unmountFD(p.at)) }

func (p *place) close() {
	for _, fd := range []int{p.ns, p.root, p.at, p.fds} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	for _, f := range []*os.File{p.mounts, p.own} {
		if f != nil {
			f.Close()
		}
	}
}

// do calls f in the mount namespace of the process, with the place opened, and then calls after (visit).
func (in Inside) do(f func(p *place) (bool, error), after func()) (bool, error) {
	return visit(in.Pid, in.Start, func(p *place) (bool, error) {
		if err := in.enter(p); err != nil {
			return false, err
		}
		return f(p)
	}, after)
}

// visit calls f with the descriptors of a process, on a thread that may enter its namespaces, and then calls after if
// it is not nil. The descriptors that after closes are in use until then, also beyond the timeout. The guest
// controls its paths, but none of them leads out of its root.
func visit(pid int, start uint64, f func(p *place) (bool, error), after func()) (bool, error) {
	p, err := reach(pid, start)
	if err != nil {
		if after != nil {
			after()
		}
		return false, err
	}
	type answer struct {
		is  bool
		err error
	}
	done := make(chan answer, 1)
	go func() {
		var a answer
		a.err = host.OnThread(func() (err error) {
			a.is, err = f(p)
			return err
		})
		p.close()
		if after != nil {
			after()
		}
		done <- a
	}()
	select {
	case a := <-done:
		return a.is, a.err
	case <-time.After(insideTimeout):
	}
	if p.claim() == nil {
		return false, errGivenUp
	}
	// The thread is at work, and needs no answer of the guest any more.
	a := <-done
	return a.is, a.err
}

// reach opens the namespaces and files of the process. The error reports a process that is gone, or one in this
// process's own mount namespace, where nothing must be unmounted.
func reach(pid int, start uint64) (p *place, err error) {
	proc := "/proc/" + strconv.Itoa(pid)
	p = &place{ns: -1, root: -1, at: -1, fds: -1}
	if p.ns, err = unix.Open(proc+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		p.root, err = unix.Open(proc+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		p.mounts, err = os.Open(proc + "/mountinfo")
	}
	if err == nil {
		p.own, err = os.Open("/proc/self/mountinfo")
	}
	if err == nil {
		p.fds, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	// StartOf comes last: with the expected start time, everything before was opened of the same process.
	if now, serr := host.StartOf(pid); serr != nil || now != start {
		err = fmt.Errorf("no such process %d", pid)
	}
	if err == nil {
		err = p.notHosts()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// join brings the thread into the mount namespace.
func (p *place) join() error {
	// setns of a mount namespace fails while the thread shares its file system attributes.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("setns", unix.Setns(p.ns, unix.CLONE_NEWNS))
}

func (in Inside) enter(p *place) error {
	if err := p.join(); err != nil {
		return err
	}
	root := p.root
	if in.Rootfs != "" {
		rootfs, err := openIn(root, in.Rootfs, unix.O_DIRECTORY)
		switch {
		case err == nil:
			defer unix.Close(rootfs)
			root = rootfs
		case !in.Later || !errors.Is(err, unix.ENOENT):
			return err
		}
	}
	flags := unix.O_DIRECTORY
	if in.file {
		flags = 0
	}
	var err error
	p.at, err = openIn(root, in.Path, flags)
	return err
}

// openIn opens a path inside a root, as after chroot.
func openIn(root int, path string, flags int) (int, error) {
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: uint64(unix.O_PATH | unix.O_CLOEXEC | flags), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
