package host

import (
	"container/list"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxWatches bounds the directories that one Watcher watches.
const maxWatches = 512

// watchMask is what a Watcher asks for. Control files that come and go with cgroup.subtree_control make no event: kernfs
// adds and removes them without the VFS. Nor does a removed directory of its own, before Linux 7.1; its parent tells.
const watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_ONLYDIR

// Event is something that happened in a watched directory. The server's own doings are reported as well.
type Event struct {
	Dir      uint64 // kernfs id of the directory; 0 with Overflow
	Name     string // what it happened to, "" for the directory itself
	Created  bool   // a cgroup was made or, on v1, renamed to Name
	Deleted  bool   // a cgroup was removed or, on v1, renamed from Name
	Modified bool   // a control file was written, or the kernel says that its value changed (cgroup.events)
	Attrib   bool   // owner, mode, times or extended attributes changed
	Overflow bool   // events were lost
}

// Watcher reports what changes in host directories.
type Watcher struct {
	sink func(Event)
	file *os.File // immutable; inotify
	raw  syscall.RawConn
	done chan struct{} // closed when no event will be reported any more

	mu      sync.Mutex
	byID    map[uint64]*list.Element // guarded by mu; of *watch
	byWatch map[int]*list.Element    // guarded by mu
	recent  *list.List               // guarded by mu; the directory that was asked for last is in front
	limit   int                      // immutable
}

type watch struct {
	wd   int
	id   uint64
	pins map[string]int // watches that hold the inodes of files in memory, by the files' names
}

// populatedFile changes when a v2 cgroup becomes empty. It is what systemd waits for.
const populatedFile = "cgroup.events"

// pinMask asks for what kernfs does not send before Linux 7.1, and is nobody's after: a watch with it only holds the inode.
const pinMask = unix.IN_DELETE_SELF

// NewWatcher starts a watcher. It calls sink for one event after another, on one goroutine; sink must not call Close. EMFILE
// when there are too many inotify instances (fs.inotify.max_user_instances).
func NewWatcher(sink func(Event)) (*Watcher, error) { return newWatcher(sink, maxWatches) }

func newWatcher(sink func(Event), limit int) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &Watcher{
		sink: sink, file: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{}), limit: limit,
		byID: map[uint64]*list.Element{}, byWatch: map[int]*list.Element{}, recent: list.New(),
	}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil, err
	}
	go w.run()
	return w, nil
}

// Watch has changes in a directory reported, on v2 also that cgroup.events has changed. Asked again for the same one it does
// nothing but remember that; over 512 directories the one that was asked for longest ago is no longer watched. ENOSPC when
// the user has too many watches (fs.inotify.max_user_watches), os.ErrClosed after Close.
func (w *Watcher) Watch(d *Dir) error { return w.watch(d.ID(), d.FD(), populatedFile) }

// WatchFile is Watch that also has the kernel's own changes of one control file reported: memory.events, pids.events. The
// kernel tells of those only while the file's inode is in memory (kernfs_notify_workfn), so that is held there. Errors as of
// Watch, ENOENT when there is no such file, EINVAL when the name is no single component.
func (w *Watcher) WatchFile(d *Dir, name string) error {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return unix.EINVAL
	}
	if err := w.watch(d.ID(), d.FD(), populatedFile); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.byID[d.ID()]; e != nil {
		return w.pin(e.Value.(*watch), d.FD(), name)
	}
	return nil // so many are watched that this one no longer is
}

// watch is Watch, and holds the inode of a file when there is one.
func (w *Watcher) watch(id uint64, dir int, file string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.byID[id]; e != nil {
		w.recent.MoveToFront(e)
		return nil
	}
	// With mu held, so that the goroutine that reads finds the watch in the maps. Adding one does not wait for anybody.
	wd, err := w.add(dir, "", watchMask)
	if err != nil {
		return err
	}
	if e := w.byWatch[wd]; e != nil {
		w.forget(e) // cannot be: another id for the same inode
	}
	e := w.recent.PushFront(&watch{wd: wd, id: id, pins: map[string]int{}})
	w.byID[id], w.byWatch[wd] = e, e
	for len(w.byID) > w.limit {
		w.end(w.recent.Back())
	}
	if err := w.pin(e.Value.(*watch), dir, file); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil // v1, or the root of v2
}

// pin holds the inode of a file in memory as long as its directory is watched. Called with mu held.
func (w *Watcher) pin(of *watch, dir int, file string) error {
	if _, ok := of.pins[file]; ok {
		return nil
	}
	wd, err := w.add(dir, file, pinMask|unix.IN_DONT_FOLLOW)
	if err == nil {
		of.pins[file] = wd
	}
	return err
}

// add adds a watch on a directory given by its descriptor, or on a file in it. Called with mu held.
func (w *Watcher) add(dir int, file string, mask uint32) (wd int, err error) {
	path := "/proc/self/fd/" + strconv.Itoa(dir)
	if file != "" {
		path += "/" + file
	}
	if w.raw.Control(func(fd uintptr) { wd, err = unix.InotifyAddWatch(int(fd), path, mask) }) != nil {
		return 0, os.ErrClosed
	}
	return wd, os.NewSyscallError("inotify_add_watch", err)
}

// end ends a watch and what it holds. Called with mu held.
func (w *Watcher) end(e *list.Element) {
	w.forget(e)
	old := e.Value.(*watch)
	w.raw.Control(func(fd uintptr) {
		unix.InotifyRmWatch(int(fd), uint32(old.wd))
		for _, wd := range old.pins {
			unix.InotifyRmWatch(int(fd), uint32(wd))
		}
	})
}

// forget drops what is known of a watch. Called with mu held.
func (w *Watcher) forget(e *list.Element) {
	old := e.Value.(*watch)
	delete(w.byID, old.id)
	delete(w.byWatch, old.wd)
	w.recent.Remove(e)
}

// Close ends all watches. No event is reported after it has returned.
func (w *Watcher) Close() error {
	err := w.file.Close()
	<-w.done
	return err
}

func (w *Watcher) run() {
	defer close(w.done)
	buf := make([]byte, 16<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return // closed: a read of inotify fails in no other way
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			rest = w.report(rest)
		}
	}
}

// report tells of the first event in buf (struct inotify_event) and answers with the rest.
func (w *Watcher) report(buf []byte) []byte {
	wd := int(int32(binary.NativeEndian.Uint32(buf[0:])))
	mask := binary.NativeEndian.Uint32(buf[4:])
	size := int(binary.NativeEndian.Uint32(buf[12:]))
	buf = buf[unix.SizeofInotifyEvent:]
	if size > len(buf) {
		return nil
	}
	name, rest := strings.TrimRight(string(buf[:size]), "\x00"), buf[size:]
	if mask&unix.IN_Q_OVERFLOW != 0 {
		w.sink(Event{Overflow: true})
		return rest
	}
	id, ok := w.lookup(wd, mask&unix.IN_IGNORED != 0)
	if e := (Event{
		Dir:      id,
		Name:     name,
		Created:  mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0,
		Deleted:  mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0,
		Modified: mask&unix.IN_MODIFY != 0,
		Attrib:   mask&unix.IN_ATTRIB != 0,
	}); ok && (e.Created || e.Deleted || e.Modified || e.Attrib) {
		w.sink(e)
	}
	return rest
}

// lookup is the directory of a watch; of one that the kernel has ended it is the last time. The kernel gives a number of a
// watch out again only after all others (idr_alloc_cyclic), so a late event is not taken for another directory's.
func (w *Watcher) lookup(wd int, ended bool) (uint64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.byWatch[wd]
	if e == nil {
		return 0, false
	}
	if ended {
		w.end(e)
	}
	return e.Value.(*watch).id, true
}
