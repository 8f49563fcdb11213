package notify

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// searches reports that capabilities of a user namespace below may allow the search of a directory.
func (r *rights) searches() bool { return r.outer != nil && r.caps&searchCaps != 0 }

// Constants of include/linux/namei.h and include/uapi/linux/statfs.h.
const (
	maxLinks     = 40     // MAXSYMLINKS
	noSymFollow  = 0x2000 // ST_NOSYMFOLLOW
	stickyPublic = unix.S_ISVTX | unix.S_IWOTH
)

// search opens a path from a directory, O_PATH, name by name, as the kernel does for a thread in the user namespace
// below. The thread has taken these rights, and has the caller's root as its own.
func (r *rights) search(at int, path string) (int, error) {
	here, err := r.step(at, beginning(path))
	for links := 0; err == nil && strings.Trim(path, "/") != ""; {
		if links > maxLinks {
			unix.Close(here)
			return -1, errElsewhere
		}
		var next int
		var link bool
		next, path, link, err = r.enter(here, path)
		unix.Close(here)
		here = next
		if link {
			links++
		}
	}
	return here, err
}

// beginning returns the start of a path: its root or the working directory.
func beginning(path string) string {
	if strings.HasPrefix(path, "/") {
		return "/"
	}
	return "."
}

// enter opens the first name of a path in a directory. rest leads on from there. For a link, it opens the beginning of
// the link's target, and rest is the target joined with the path's remainder.
func (r *rights) enter(dir int, path string) (next int, rest string, link bool, err error) {
	name, rest, more := strings.Cut(strings.TrimLeft(path, "/"), "/")
	if next, err = r.step(dir, name); err != nil {
		return -1, "", false, err
	}
	st, err := attributes(next)
	kind := st.Mode & unix.S_IFMT
	switch {
	case err == nil && kind == unix.S_IFLNK:
		defer unix.Close(next)
		target, err := r.target(dir, next, &st)
		if err != nil {
			return -1, "", true, err
		}
		if more {
			target += "/" + rest
		}
		begin, err := r.step(dir, beginning(target))
		return begin, target, true, err
	case err == nil && more && kind != unix.S_IFDIR:
		err = unix.ENOTDIR
	}
	if err != nil {
		unix.Close(next)
		return -1, "", false, err
	}
	return next, rest, false, nil
}

// step opens a name in a directory. If the search is refused, it tries again with the capabilities that hold for the
// directory.
func (r *rights) step(dir int, name string) (int, error) {
	next, err := open(dir, name, unix.O_NOFOLLOW, unix.RESOLVE_NO_MAGICLINKS)
	if !errors.Is(err, unix.EACCES) {
		return next, err
	}
	st, serr := attributes(dir)
	if serr != nil || !r.outer.has(&st) {
		return -1, err
	}
	if err := setCaps(r.caps & searchCaps); err != nil {
		return -1, err
	}
	next, err = open(dir, name, unix.O_NOFOLLOW, unix.RESOLVE_NO_MAGICLINKS)
	if cerr := setCaps(0); cerr != nil {
		if err == nil {
			unix.Close(next)
		}
		return -1, cerr
	}
	return next, err
}

// attributes returns an inode's cached attributes. It sends no request to the inode's file system.
func attributes(fd int) (st unix.Statx_t, err error) {
	const mask = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_UID | unix.STATX_GID
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, mask, &st)
	return st, err
}

// target returns the target of a link in a directory. Links of a /proc are not followed: their targets depend on the
// reader. Another user's link in a world-writable sticky directory is refused, whatever fs.protected_symlinks is
// (may_follow_link, fs/namei.c).
func (r *rights) target(dir, link int, st *unix.Statx_t) (string, error) {
	var fs unix.Statfs_t
	if err := fstatfs(link, &fs); err != nil {
		return "", err
	}
	switch {
	case fs.Type == unix.PROC_SUPER_MAGIC:
		return "", ErrPassOn
	case fs.Flags&noSymFollow != 0:
		return "", unix.ELOOP
	}
	in, err := attributes(dir)
	if err != nil {
		return "", err
	}
	if in.Mode&stickyPublic == stickyPublic && int64(st.Uid) != int64(r.uid) && st.Uid != in.Uid {
		return "", unix.EACCES
	}
	b := make([]byte, maxPath)
	n, err := unix.Readlinkat(link, "", b)
	switch {
	case err != nil:
		return "", err
	case n == 0:
		return "", unix.ENOENT
	}
	return string(b[:n]), nil
}
