package daemon

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Events of a directory with files, and of one on the way to it: of that only the next name counts.
const (
	filesMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_ATTRIB |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	wayMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF |
		unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

// dirWatch tells of changes in a directory, also of one that does not exist yet.
type dirWatch struct {
	told func()          // immutable; must not wait
	file *os.File        // immutable; inotify
	raw  syscall.RawConn // immutable

	mu    sync.Mutex       // held while a path is looked up; only run waits for it
	names map[int32]string // guarded by mu; by watch: the only name that counts, "" for all
}

// newDirWatch opens inotify. EMFILE if there are too many instances (fs.inotify.max_user_instances).
func newDirWatch(told func()) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &dirWatch{told: told, file: os.NewFile(uintptr(fd), "inotify"), names: map[int32]string{}}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil, err
	}
	go w.run()
	return w, nil
}

// follow watches a directory and its parent; of one that does not exist the nearest directory above. The caller looks
// at the directory afterwards. ENOSPC if the user has too many watches (fs.inotify.max_user_watches).
func (w *dirWatch) follow(dir string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.names
	w.names = map[int32]string{}
	defer func() {
		for wd := range before {
			if _, still := w.names[wd]; !still {
				w.raw.Control(func(fd uintptr) { unix.InotifyRmWatch(int(fd), uint32(wd)) })
			}
		}
	}()
	if err := w.add(dir, filesMask, ""); err != nil && !missing(err) {
		return err
	}
	for at := filepath.Clean(dir); at != filepath.Dir(at); at = filepath.Dir(at) {
		if err := w.add(filepath.Dir(at), wayMask, filepath.Base(at)); !missing(err) {
			return err
		}
	}
	return nil
}

func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// add watches one directory. Called with mu held.
func (w *dirWatch) add(dir string, mask uint32, name string) (err error) {
	closed := w.raw.Control(func(fd uintptr) {
		var wd int
		if wd, err = unix.InotifyAddWatch(int(fd), dir, mask); err == nil {
			w.names[int32(wd)] = name
		}
	})
	if err == nil {
		err = closed
	}
	return err
}

// run reads events until the end of the process.
func (w *dirWatch) run() {
	buf := make([]byte, 4<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		told := false
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			name := rest[unix.SizeofInotifyEvent:]
			size := min(int(binary.NativeEndian.Uint32(rest[12:])), len(name))
			told = w.counts(int32(binary.NativeEndian.Uint32(rest)), strings.TrimRight(string(name[:size]), "\x00")) || told
			rest = name[size:]
		}
		if told {
			w.told()
		}
	}
}

// counts reports that an event is to be told of. One without a name concerns the directory itself, or lost events.
func (w *dirWatch) counts(wd int32, name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	wanted, ours := w.names[wd]
	return wd < 0 || ours && (wanted == "" || name == "" || name == wanted)
}
