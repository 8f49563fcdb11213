package notify

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// maxPath is PATH_MAX, with the terminator.
const maxPath = 4096

// resolveCached is RESOLVE_CACHED of include/uapi/linux/openat2.h.
const resolveCached = 0x20

// resolve opens the target of a caller's path, O_PATH. The error is the errno that the caller would get, or
// errElsewhere.
func (c *Caller) resolve(name string) (int, error) {
	if name == "" {
		return -1, unix.ENOENT
	}
	if fd, mine, err := c.own(name); mine {
		return fd, err
	}
	from, how := "cwd", uint64(unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	if strings.HasPrefix(name, "/") {
		from, how = "root", unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS
	}
	at, err := c.Open(from, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, errElsewhere
	}
	defer unix.Close(at)
	return c.below(at, name, how)
}

// below opens a path from a directory with the caller's rights. A path that leaves the directory, or passes through one
// that the caller may search by its capabilities alone, is walked as the caller would.
func (c *Caller) below(at int, name string, how uint64) (fd int, err error) {
	r, err := c.rights()
	if err != nil {
		return -1, err
	}
	if c.cached {
		// Linux 5.12; EINVAL before.
		how |= resolveCached
	}
	err = r.with(func() error {
		fd, err = open(at, name, 0, how)
		return err
	})
	switch {
	case err == nil:
		return fd, nil
	case !c.cached && (errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EACCES) && r.searches()):
		return c.walk(at, name, r)
	}
	return -1, err
}

// open is openat2 for an O_PATH descriptor. A forbidden magic link gives ELOOP: it may name another process, by a
// number of a pid namespace that is not ours.
func open(at int, name string, flags, how uint64) (int, error) {
	for range 8 {
		fd, err := unix.Openat2(at, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: how})
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN) && how&resolveCached == 0:
			// A rename meanwhile, on a path that goes up.
			continue
		case errors.Is(err, unix.ELOOP):
			return -1, errElsewhere
		}
		return -1, err
	}
	return -1, errElsewhere
}

// walk opens a path from a directory of the caller, with the caller's rights and with its root as the thread's own:
// ".." and links lead the thread where they lead the caller.
func (c *Caller) walk(at int, name string, r *rights) (fd int, err error) {
	root, err := c.Open("root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, errElsewhere
	}
	defer unix.Close(root)
	own, err := ownRights()
	if err == nil && r.searches() {
		err = r.outer.read(c)
	}
	if err != nil {
		return -1, err
	}
	err = host.OnThread(func() error {
		if unix.Unshare(unix.CLONE_FS) != nil || unix.Fchdir(root) != nil || unix.Chroot(".") != nil {
			// Without CAP_SYS_CHROOT.
			return errElsewhere
		}
		if err := r.adopt(own); err != nil {
			return err
		}
		if fd, err = open(at, name, 0, unix.RESOLVE_NO_MAGICLINKS); errors.Is(err, unix.EACCES) && r.searches() {
			fd, err = r.search(at, name)
		}
		return err
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// own opens a path through the caller's own directory in /proc. The links there depend on the process that follows
// them, and a guest's /proc has its own numbers.
func (c *Caller) own(name string) (fd int, mine bool, err error) {
	words := strings.Split(strings.TrimPrefix(name, "/proc/"), "/")
	if !strings.HasPrefix(name, "/proc/") || !c.isSelf(words[0]) {
		return -1, false, nil
	}
	if c.cached {
		// Any file system may be at the caller's /proc, and checking its type sends it a request.
		return -1, true, unix.EAGAIN
	}
	if len(words) > 3 && words[1] == "task" {
		if _, tid := c.ids(); words[2] != tid {
			return -1, true, errElsewhere
		}
		words = words[2:]
	}
	link, rest := "", []string(nil)
	switch {
	case len(words) > 2 && words[1] == "fd" && isNumber(words[2]):
		// ".." there would lead into this process's own /proc.
		link, rest = "fd/"+words[2], words[3:]
	case len(words) > 1 && (words[1] == "cwd" || words[1] == "root"):
		link, rest = words[1], words[2:]
	default:
		return -1, true, errElsewhere
	}
	if err := c.procIsMounted(); err != nil {
		return -1, true, err
	}
	fd, err = c.Open(link, unix.O_PATH)
	below := strings.TrimLeft(strings.Join(rest, "/"), "/")
	if err != nil || below == "" {
		return fd, true, err
	}
	defer unix.Close(fd)
	fd, err = c.below(fd, below, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	return fd, true, err
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// isSelf reports that a name in /proc is the caller's.
func (c *Caller) isSelf(name string) bool {
	switch {
	case name == "self" || name == "thread-self":
		return true
	case name == "" || name[0] < '0' || name[0] > '9':
		return false
	}
	tgid, tid := c.ids()
	return name == tgid || name == tid
}

// procIsMounted checks that the caller's /proc is the kernel's. errElsewhere, or the caller's errno on the way.
func (c *Caller) procIsMounted() error {
	root, err := c.Open("root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return errElsewhere
	}
	defer unix.Close(root)
	fd, err := c.below(root, "proc", unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return errElsewhere
	}
	return nil
}
