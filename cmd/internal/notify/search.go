package notify

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// searches says whether there may be directories that are searched by the capabilities of a user namespace below.
func (r *rights) searches() bool { return r.outer != nil && r.caps&searchCaps != 0 }

// Of include/linux/namei.h and include/uapi/linux/statfs.h.
const (
	maxLinks     = 40     // MAXSYMLINKS
	noSymFollow  = 0x2000 // ST_NOSYMFOLLOW
	stickyPublic = unix.S_ISVTX | unix.S_IWOTH
)

// search opens, O_PATH, a path from a directory name by name, as the kernel does for a thread in the user namespace below. The thread has
// taken these rights, and has the caller's root for its own.
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

// beginning is where a path begins.
func beginning(path string) string {
	if strings.HasPrefix(path, "/") {
		return "/"
	}
	return "."
}

// enter opens the first name of a path in a directory. rest leads on from there. Of a link it is the beginning that is opened, and rest is
// all of what the link and the path say.
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

// step opens a name in a directory. Where the directory is not to be searched otherwise, it is by the capabilities that hold for it.
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

// attributes are what is known of an inode. Its file system is not asked.
func attributes(fd int) (st unix.Statx_t, err error) {
	const mask = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_UID | unix.STATX_GID
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, mask, &st)
	return st, err
}

// target is what a link in a directory says. Links of a /proc are not followed: they say what they lead the reader to. Those that another
// user has put where all may write are refused, whatever fs.protected_symlinks is (may_follow_link, fs/namei.c).
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
