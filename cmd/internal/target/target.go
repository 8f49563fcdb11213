// Package target opens the directory that a view is mounted at, and finds the mount again when it is to be unmounted.
//
// # Words
//
//   - target: the directory, by its path on the host, or by the guest's root on the host and a path from there.
//   - mount: one mount, named by its file system's device and its number, not by a path.
//
// # What always holds
//
//   - What lies below a guest's root is the guest's to change, at any time, also between two of our system calls. A target
//     is resolved once, to a descriptor, and the view is mounted on that. Later the mount is found by its number. Runtimes that
//     checked a path and then mounted at it were led out of the root by an exchanged link (CVE-2021-30465, CVE-2023-27561).
//   - A guest's link is followed inside its root only, and onto no other mount: what is mounted below the root may be a directory of
//     the host's, and then what is mounted on it is mounted there, too.
//   - No directory is kept open: an open one keeps umount from succeeding.
//
// # What it will not do
//
// It does not distrust the path of a root: whoever names the root says by this that the directories above are the host's.
package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Target is a directory to mount at.
type Target struct {
	Rootfs string // the guest's root on the host; "" when Path is one of the host's, none of whose parts may be a link
	Path   string // absolute; from Rootfs
}

// Beside is a directory whose parent is the host's own, with whatever links lead there.
func Beside(path string) Target { return Target{filepath.Dir(path), "/" + filepath.Base(path)} }

// String is the path on the host, for messages.
func (t Target) String() string { return filepath.Join(t.Rootfs, t.Path) }

// Open opens the directory (O_PATH), or the root of what is mounted there. The error says what to do: a directory that is missing, a file,
// a link of the guest's that leads out.
func (t Target) Open() (int, error) {
	fd, err := t.open()
	if err == nil {
		return fd, nil
	}
	return -1, fmt.Errorf("cannot mount at %s: %w", t, t.explain(err))
}

func (t Target) open() (int, error) {
	if t.Rootfs == "" {
		return OpenPath(t.Path)
	}
	root, err := unix.Open(t.Rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: t.Rootfs, Err: err}
	}
	defer unix.Close(root)
	// As it is written, other mounts may be on the way: the host's administrator has made them, and names them.
	fd, err := openAt(root, "."+t.Path, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if !errors.Is(err, unix.ELOOP) {
		return fd, err
	}
	return openAt(root, t.Path, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_XDEV)
}

// explain adds what else there is to say of an error of open.
func (t Target) explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w; make the directory first", unix.ENOENT)
	case errors.Is(err, unix.ENOTDIR):
		return errors.New("it is not a directory")
	case errors.Is(err, unix.ELOOP) && t.Rootfs == "":
		return fmt.Errorf("%s is a symbolic link: name the directory itself, or the guest's root with --rootfs", t.link())
	case errors.Is(err, unix.ELOOP):
		return errors.New("its symbolic links lead in a circle, or by /proc out of the root")
	case errors.Is(err, unix.EXDEV):
		return errors.New("a symbolic link of the guest leads to another mount: name the directory itself")
	}
	return err
}

// link is the first part of the path that is a symbolic link now.
func (t Target) link() string {
	for i := 1; i < len(t.Path); i++ {
		if t.Path[i] != '/' {
			continue
		}
		if st, err := os.Lstat(t.Path[:i]); err == nil && st.Mode()&os.ModeSymlink != 0 {
			return t.Path[:i]
		}
	}
	return t.Path
}

// openAt opens a directory below another one. What is renamed meanwhile has the kernel look again (EAGAIN).
func openAt(dir int, path string, resolve uint64) (fd int, err error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve}
	for range maxAgain {
		fd, err = unix.Openat2(dir, path, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// maxAgain is how often a path is resolved that a guest changes all the time.
const maxAgain = 1000

// maxPart is how much of a path one call is given: less than PATH_MAX. A guest that makes directories by descriptor makes longer paths.
const maxPart = 4000

// OpenPath opens a directory (O_PATH) by an absolute path of any length without a link in it. ELOOP where one is. An *os.PathError.
func OpenPath(path string) (int, error) {
	at, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	for rest := strings.Trim(path, "/"); rest != ""; {
		part := rest
		if len(rest) > maxPart {
			part = rest[:max(strings.LastIndexByte(rest[:maxPart], '/'), 1)]
		}
		rest = strings.TrimLeft(rest[len(part):], "/")
		next, err := openAt(at, part, unix.RESOLVE_NO_SYMLINKS)
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}
