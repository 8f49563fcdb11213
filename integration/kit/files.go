package kit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// StatText is what stat says of a path.
func StatText(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return ErrnoName(err)
	}
	return fmt.Sprintf("mode %o nlink %d size %d blocks %d blksize %d owner %d:%d", st.Mode, st.Nlink, st.Size,
		st.Blocks, st.Blksize, st.Uid, st.Gid)
}

// Mkdir makes a cgroup and answers with its stat.
func Mkdir(path string, mode uint32) string {
	if err := unix.Mkdir(path, mode); err != nil {
		return ErrnoName(err)
	}
	return StatText(path)
}

// Rmdir removes a cgroup: "ok" or the errno.
func Rmdir(path string) string { return Word(unix.Rmdir(path)) }

// ReadPieces reads from an open descriptor with small reads.
func ReadPieces(fd, size int) string {
	var b strings.Builder
	buf := make([]byte, size)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return b.String() + ErrnoName(err)
		}
		if n == 0 {
			return b.String()
		}
		b.Write(buf[:n])
	}
}

// TryFile opens a file and answers with what do does.
func TryFile(path string, flags int, do func(fd int) string) string {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return ErrnoName(err)
	}
	defer unix.Close(fd)
	return do(fd)
}

// Procs is the control file with the processes of a cgroup.
const Procs = "cgroup.procs"

// Listing compares d_type and d_ino with what stat says of each entry.
func Listing(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ErrnoName(err)
	}
	bad := 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.IsDir() != e.IsDir() {
			bad++
		}
	}
	return fmt.Sprintf("%d entries that stat disagrees with", bad)
}

// ErrnoName is an error as the tables write it.
func ErrnoName(err error) string {
	if err == nil {
		return ""
	}
	var errno unix.Errno
	switch {
	case !errors.As(err, &errno):
	case errno == unix.EOPNOTSUPP:
		return "EOPNOTSUPP" // the package calls it ENOTSUP, which is the same number
	default:
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// WithFile opens a file, does something with its descriptor and closes it.
func WithFile(path string, flags int, do func(fd int) error) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

// WriteFD writes a value to a descriptor, for WithFile.
func WriteFD(value string) func(fd int) error {
	return func(fd int) error {
		_, err := unix.Write(fd, []byte(value))
		return err
	}
}

// OneOf reports whether want, which has alternatives between bars, has got.
func OneOf(got, want string) bool {
	for w := range strings.SplitSeq(want, "|") {
		if got == w {
			return true
		}
	}
	return false
}

// WriteFile gives one command to a control file: "ok", or the errno of the open or the write.
func WriteFile(path, value string) string {
	return Word(WithFile(path, unix.O_WRONLY, WriteFD(value)))
}

// ReadFile reads a file: its content, or the errno.
func ReadFile(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ErrnoName(err)
	}
	return string(raw)
}

// Word is "ok" or an errno's name.
func Word(err error) string {
	if err == nil {
		return "ok"
	}
	return ErrnoName(err)
}

// Slurp opens, reads to the end and closes.
func Slurp(path string) (string, error) {
	var text []byte
	err := WithFile(path, unix.O_RDONLY, func(fd int) error {
		buf := make([]byte, 512)
		for {
			n, err := unix.Read(fd, buf)
			if n <= 0 {
				return err
			}
			text = append(text, buf[:n]...)
		}
	})
	return string(text), err
}

func pread(fd int) (string, error) {
	buf := make([]byte, 64)
	n, err := unix.Pread(fd, buf, 0)
	return string(buf[:max(n, 0)]), err
}

// WriteFileErr is WriteFile with the error itself.
func WriteFileErr(path, value string) error { return WithFile(path, unix.O_WRONLY, WriteFD(value)) }

// FileWith makes a file with a text.
func FileWith(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Exists reports whether there is anything at a path, if only a link.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
