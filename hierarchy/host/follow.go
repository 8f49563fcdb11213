package host

import (
	"errors"
	"os"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// A boundary's removal is told by its parent directory: before Linux 7.1 kernfs reports no removal of a watched
// directory itself (watchMask). So the boundaries of many guests in one cgroup need one watch.

// followMask selects the events of a parent.
const followMask = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_ATTRIB | unix.IN_ONLYDIR

// followTries bounds the attempts to watch the parent of a boundary that is renamed meanwhile.
const followTries = 3

// Following reports what happens to one boundary itself.
type Following struct {
	boundary *Boundary   // immutable
	sink     func(Event) // immutable

	mu     sync.Mutex
	at     place  // guarded by mu; zero for none
	path   string // guarded by mu; of the boundary, from the hierarchy's root
	closed bool   // guarded by mu
}

// place is a name in a directory.
type place struct {
	dir  uint64 // kernfs id
	name string
}

// parents are the watched parents of a hierarchy's boundaries.
type parents struct {
	mu      sync.Mutex
	watcher *Watcher               // guarded by mu; nil before the first Following
	places  map[place][]*Following // guarded by mu
	users   map[uint64]int         // guarded by mu; places in use, by directory
}

// Follow calls sink when the boundary may have been removed or renamed (Deleted), when its owner, mode or attributes
// have changed (Attrib), and when events were lost (Overflow). What happened before Follow has returned is not
// reported. sink is called as that of NewWatcher, and may be called once more after Close.
//
// ENOENT for a boundary that was removed, errors.ErrUnsupported in a hierarchy whose changes by others inotify does not
// report, ENODEV after Close of the Boundary, and the errors of NewWatcher and Watch; the bound of SetMaxWatches does
// not count.
func (b *Boundary) Follow(sink func(Event)) (*Following, error) {
	if b.hier.View {
		// FUSE reports what passes through this mount alone.
		return nil, errors.ErrUnsupported
	}
	f := &Following{boundary: b, sink: sink}
	return f, f.Renew()
}

// Renew follows the boundary to another name, or once its watch has ended. It costs little if neither is so. Errors as
// of Follow; os.ErrClosed after Close.
func (f *Following) Renew() error {
	root, err := f.boundary.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	hier := f.boundary.hier
	for range followTries {
		rel, err := relative(hier.root, root.fd)
		if err != nil || f.follows(rel) {
			return err
		}
		if err = f.follow(rel); !errors.Is(err, unix.ENOENT) {
			return err
		}
		// Removed, or renamed since.
	}
	return unix.ENOENT
}

// follows reports that the boundary is watched at a path.
func (f *Following) follows(rel string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.path == rel && f.boundary.hier.parents.watches(f.at)
}

// follow watches the boundary at a path from the hierarchy's root.
func (f *Following) follow(rel string) error {
	p := &f.boundary.hier.parents
	dir, name := path.Split(rel)
	// Without a lock: this looks names up.
	parent, err := openBelow(f.boundary.hier.root, path.Clean(dir+"."), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return pathError("open", dir, err)
	}
	defer unix.Close(parent)
	var st unix.Stat_t
	if err := unix.Fstat(parent, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return os.ErrClosed
	}
	p.remove(f.at, f)
	f.at, f.path = place{st.Ino, name}, rel
	err = p.add(f.boundary.hier.host, f.at, parent, f)
	if err == nil {
		// After the watch has begun. The path of a removed directory ends with " (deleted)", as a name can, too.
		err = unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Ino != f.boundary.root.id {
			err = unix.ENOENT
		}
	}
	if err != nil {
		p.remove(f.at, f)
		f.at, f.path = place{}, ""
	}
	return err
}

// Close ends the following. It may be called again.
func (f *Following) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.boundary.hier.parents.remove(f.at, f)
	f.at = place{}
}

// watches reports that the directory of a place is watched.
func (p *parents) watches(at place) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watcher != nil && p.watcher.watches(at.dir)
}

// add has a place's events passed to f, and watches its directory, open as dir.
func (p *parents) add(h *Host, at place, dir int, f *Following) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watcher == nil {
		w := &Watcher{hub: &h.watches, sink: p.tell, limit: 1 << 30, mask: followMask, exempt: true}
		if err := h.watches.register(w); err != nil {
			return explainInstances(err)
		}
		p.watcher, p.places, p.users = w, map[place][]*Following{}, map[uint64]int{}
	}
	if _, err := p.watcher.addDir(at.dir, dir); err != nil {
		return err
	}
	p.places[at] = append(p.places[at], f)
	p.users[at.dir]++
	return nil
}

// remove undoes add.
func (p *parents) remove(at place, f *Following) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.places[at]
	i := slices.Index(all, f)
	if i < 0 {
		return
	}
	if all = slices.Delete(all, i, i+1); len(all) > 0 {
		p.places[at] = all
	} else {
		delete(p.places, at)
	}
	if p.users[at.dir]--; p.users[at.dir] == 0 {
		delete(p.users, at.dir)
		p.watcher.forget(at.dir)
	}
}

// tell passes an event of a parent on.
func (p *parents) tell(e Event) {
	for _, f := range p.of(e) {
		f.sink(e)
	}
}

// of returns the receivers of an event.
func (p *parents) of(e Event) (all []*Following) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case e.Overflow:
		for _, some := range p.places {
			all = append(all, some...)
		}
	case e.Deleted, e.Attrib:
		all = slices.Clone(p.places[place{e.Dir, e.Name}])
	}
	return all
}
