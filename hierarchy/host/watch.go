package host

import (
	"container/list"
	"errors"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// maxWatches bounds the directories of one Watcher by default.
const maxWatches = 512

// watchMask selects a Watcher's events. Control files that come and go with cgroup.subtree_control cause none:
// kernfs adds and removes them without the VFS. Nor does the removal of a watched directory itself, before Linux
// 7.1; its parent reports it.
const watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_ONLYDIR

// Event is a change in a watched directory, also one by the server itself.
type Event struct {
	Dir      uint64 // kernfs id of the directory; 0 with Overflow
	Name     string // name of the changed entry, "" for the directory itself
	Created  bool   // a cgroup was made or, on v1, renamed to Name
	Deleted  bool   // a cgroup was removed or, on v1, renamed from Name
	Modified bool   // a control file was written, or the kernel says that its value changed (cgroup.events)
	Attrib   bool   // owner, mode, times or extended attributes changed
	Overflow bool   // events were lost
}

// Watcher reports changes in host directories. It costs next to nothing until it watches one.
type Watcher struct {
	hub    *watchHub // immutable
	limit  int       // immutable
	mask   uint32    // immutable; of directories
	exempt bool      // immutable: the bound of SetMaxWatches does not count

	telling sync.Mutex  // held while sink runs, under no other lock
	sink    func(Event) // guarded by telling; nil after Close

	mu     sync.Mutex
	byID   map[uint64]*list.Element // guarded by mu; of *watch
	recent list.List                // guarded by mu; most recently used first
	closed bool                     // guarded by mu
}

// watch is a watched directory.
type watch struct {
	watcher *Watcher // immutable
	id      uint64   // immutable
	wd      int32    // immutable once it is in the hub
	pins    []pin    // guarded by watcher.mu
}

// pin is a watch that only holds a file's inode in memory.
type pin struct {
	file string
	ino  uint64 // a controller makes new files when it is enabled again
	wd   int32
}

// populatedFile changes when a v2 cgroup becomes empty. systemd waits for that.
const populatedFile = "cgroup.events"

// pinMask selects an event that kernfs does not send before Linux 7.1 and that has no receiver after: such a watch
// only holds the inode.
const pinMask = unix.IN_DELETE_SELF

// Watch reports changes in a directory, on v2 also of cgroup.events. A second call for a directory only marks it as
// used; over the limit the least recently used one is dropped. ENOSPC over the bound of SetMaxWatches, or if the
// user has too many watches (fs.inotify.max_user_watches); os.ErrClosed after Close.
func (w *Watcher) Watch(d *Dir) error { return w.watch(d.ID(), d.FD(), populatedFile) }

// WatchFile is Watch that also reports the kernel's own changes of one control file: memory.events, pids.events. The
// kernel reports them only while the file's inode is in memory (kernfs_notify_workfn), so WatchFile holds the inode.
// A file that is made again is another one: call WatchFile again. Errors as of Watch, ENOENT if there is no such
// file, EINVAL if the name is no single component.
func (w *Watcher) WatchFile(d *Dir, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := w.watch(d.ID(), d.FD(), populatedFile); err != nil {
		return err
	}
	return w.pin(d.ID(), d.FD(), name)
}

// Crowded reports that a directory is not watched and half of the limit is used: from there on a new watch may end
// others.
func (w *Watcher) Crowded(d *Dir) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byID[d.ID()] == nil && len(w.byID) >= w.limit/2
}

// watch is Watch, and holds the inode of a file if there is one.
func (w *Watcher) watch(id uint64, dir int, file string) error {
	if again, err := w.addDir(id, dir); again || err != nil {
		return err
	}
	if err := w.pin(id, dir, file); !errors.Is(err, unix.ENOENT) {
		return err
	}
	// v1, or the root of v2.
	return nil
}

// addDir watches a directory, unless it is watched already.
func (w *Watcher) addDir(id uint64, dir int) (again bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false, os.ErrClosed
	}
	if e := w.byID[id]; e != nil {
		w.recent.MoveToFront(e)
		return true, nil
	}
	x := &watch{watcher: w, id: id}
	if _, err := w.hub.add(dir, w.mask, x); err != nil {
		return false, err
	}
	if w.byID == nil {
		w.byID = map[uint64]*list.Element{}
	}
	w.byID[id] = w.recent.PushFront(x)
	for len(w.byID) > w.limit {
		w.end(w.recent.Back())
	}
	return false, nil
}

// pin holds the inode of a file in memory while its directory is watched, in place of an earlier file of that name.
func (w *Watcher) pin(id uint64, dir int, file string) error {
	// Without mu: the lookup of a name in a cgroup waits for creations and removals there.
	fd, err := openBelow(dir, file, unix.O_PATH)
	if err != nil {
		return pathError("watch", file, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("watch", file, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.byID[id]
	if e == nil {
		// Closed, or dropped over the limit.
		return nil
	}
	x := e.Value.(*watch)
	if i := slices.IndexFunc(x.pins, func(p pin) bool { return p.file == file }); i >= 0 {
		old := x.pins[i]
		// kernfs ids grow (__kernfs_new_node): this call is slower and has found an earlier file.
		if old.ino >= st.Ino {
			return nil
		}
		w.hub.drop(old.wd, nil)
		x.pins = slices.Delete(x.pins, i, i+1)
	}
	wd, err := w.hub.add(fd, pinMask, nil)
	if err == nil {
		x.pins = append(x.pins, pin{file: file, ino: st.Ino, wd: wd})
	}
	return err
}

// watches reports that a directory is watched.
func (w *Watcher) watches(id uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byID[id] != nil
}

// forget ends the watch of a directory.
func (w *Watcher) forget(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.byID[id]; e != nil {
		w.end(e)
	}
}

// end ends a watch and its pins. Called with mu held.
func (w *Watcher) end(e *list.Element) {
	x := w.recent.Remove(e).(*watch)
	delete(w.byID, x.id)
	w.hub.drop(x.wd, x)
	for _, p := range x.pins {
		w.hub.drop(p.wd, nil)
	}
}

// ended removes a watch that the kernel has ended.
func (w *Watcher) ended(x *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.byID[x.id]; e != nil && e.Value.(*watch) == x {
		w.end(e)
	}
}

// tell passes an event on.
func (w *Watcher) tell(e Event) {
	w.telling.Lock()
	defer w.telling.Unlock()
	if w.sink != nil {
		w.sink(e)
	}
}

// Close ends all watches. No event is reported after it has returned. It may be called again, also after the Host's.
func (w *Watcher) Close() {
	w.hub.unregister(w)
	w.mu.Lock()
	w.closed = true
	for e := w.recent.Front(); e != nil; e = w.recent.Front() {
		w.end(e)
	}
	w.byID = nil
	w.mu.Unlock()
	w.telling.Lock()
	defer w.telling.Unlock()
	w.sink = nil
}
