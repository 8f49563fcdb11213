// Package target opens the directory at which a view is mounted, and finds the mount again to unmount it.
//
// # Words
//
//   - target: the directory, by its path on the host, or by the guest's root on the host and a path from there.
//   - mount: one mount, identified by its file system's device and its number, not by a path.
//
// # What always holds
//
//   - A guest can change everything below its root at any time, also between two of our system calls. So a target is
//     resolved once, to a descriptor, and the view is mounted on that. Later the mount is found by its number. Runtimes
//     that checked a path and then mounted at it were led out of the root by an exchanged link (CVE-2021-30465,
//     CVE-2023-27561).
//   - A guest's link is followed inside its root only, and onto no other mount: a mount below the root may be a
//     directory of the host, and a mount on it would appear there, too.
//   - No directory is kept open: an open one makes umount fail.
//
// # What it will not do
//
// It does not distrust the path of a root: by naming the root, the caller vouches that the host controls the
// directories above it.
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
	// Rootfs is the guest's root on the host; "" for a Path of the host, no part of which may be a symbolic link.
	Rootfs string
	Path   string // absolute; from Rootfs
}

// Beside returns the target for a path whose parent directory the host controls. The links on the way to the parent are
// followed.
func Beside(path string) Target { return Target{filepath.Dir(path), "/" + filepath.Base(path)} }

// String returns the path on the host, for messages.
func (t Target) String() string { return filepath.Join(t.Rootfs, t.Path) }

// Open opens the directory (O_PATH), or the root of the mount on it. The error tells the remedy for a missing
// directory, for a file, and for a link of the guest that leads out.
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
	// The path as it is written may cross other mounts: the host's administrator has made them, and names them.
	fd, err := openAt(root, "."+t.Path, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if !errors.Is(err, unix.ELOOP) {
		return fd, err
	}
	return openAt(root, t.Path, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_XDEV)
}

// explain adds the remedy to an error of open.
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

// link returns the first part of the path that is a symbolic link now.
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

// openAt opens a directory below another one. It repeats the lookup when a rename disturbs it (EAGAIN).
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

// maxAgain bounds the lookups of a path that a guest keeps changing.
const maxAgain = 1000

// maxPart bounds the part of a path for one call, below PATH_MAX. A guest that makes directories by descriptor can make
// longer paths.
const maxPart = 4000

// OpenPath opens a directory (O_PATH) by an absolute path of any length without symbolic links. An *os.PathError; ELOOP
// for a link.
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
