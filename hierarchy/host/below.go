package host

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// containment is the resolution of every path: below the starting descriptor, through no link and no mount.
const containment = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openBelow is the one containment function: it opens everything that the package opens in a cgroup file system.
// path starts at the directory dir; "" is dir itself.
func openBelow(dir int, path string, flags int) (int, error) {
	if path == "" {
		path = "."
	}
	for {
		fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: containment})
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) || err == unix.EAGAIN && flags&unix.O_NONBLOCK != 0 {
			return fd, err
		}
	}
}

// checkName refuses anything but a single name. The kernel never sends such a name, but nothing else would keep it
// below the directory.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return unix.EINVAL
	}
	return nil
}

// pathError wraps an errno; nil stays nil.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// procPath returns a path to a descriptor's object, also for calls that refuse O_PATH.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// pathOf returns the path of a descriptor's directory in the mount tree of the process.
func pathOf(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(procPath(fd), buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// relative returns the path of fd from base, both directories. ENOENT if fd is not below base or was removed.
func relative(base, fd int) (string, error) {
	from, err := pathOf(base)
	if err != nil {
		return "", err
	}
	to, err := pathOf(fd)
	if err != nil {
		return "", err
	}
	rest, ok := pathBelow(from, to)
	if !ok {
		return "", unix.ENOENT
	}
	return rest, nil
}

// ReadAll reads an open file from beginning to end. The host's errno.
func ReadAll(fd int) ([]byte, error) {
	buf := make([]byte, 0, 4096)
	for {
		n, err := unix.Pread(fd, buf[len(buf):cap(buf)], int64(len(buf)))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return buf, nil
		}
		if buf = buf[:len(buf)+n]; len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
	}
}

// readBelow reads a control file below a directory.
func readBelow(dir int, path string) ([]byte, error) {
	fd, err := openBelow(dir, path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return ReadAll(fd)
}

// writeBelow writes one command to a control file below a directory.
func writeBelow(dir int, path string, data []byte) error {
	fd, err := openBelow(dir, path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = WriteCommand(fd, data)
	return err
}

// Entry is a line of a directory's listing.
type Entry struct {
	Name  string
	ID    uint64 // kernfs id
	IsDir bool
}

// listFD lists a directory without "." and "..".
func listFD(dir int) ([]Entry, error) {
	fd, err := openBelow(dir, "", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var entries []Entry
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOENT):
			// A removed directory is empty.
			return entries, nil
		case err != nil:
			return nil, err
		case n == 0:
			return entries, nil
		}
		if entries, err = appendEntries(entries, buf[:n]); err != nil {
			return nil, err
		}
	}
}

// appendEntries parses struct linux_dirent64: inode, offset, length, type, name.
func appendEntries(entries []Entry, buf []byte) ([]Entry, error) {
	const head = 19
	for len(buf) > 0 {
		if len(buf) < head {
			return nil, io.ErrUnexpectedEOF
		}
		size := int(binary.NativeEndian.Uint16(buf[16:]))
		if size < head || size > len(buf) {
			return nil, io.ErrUnexpectedEOF
		}
		name, _, _ := strings.Cut(string(buf[head:size]), "\x00")
		if name != "." && name != ".." {
			entries = append(entries, Entry{name, binary.NativeEndian.Uint64(buf), buf[18] == unix.DT_DIR})
		}
		buf = buf[size:]
	}
	return entries, nil
}
