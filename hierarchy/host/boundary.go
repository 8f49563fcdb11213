package host

import (
	"container/list"
	"errors"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

const (
	maxOpenDirs   = 256     // bound of the descriptors that a Boundary keeps for unused directories
	maxKnownPaths = 1 << 16 // bound of the directories that a Boundary knows by path, without handles
)

// Boundary is a guest's boundary in one hierarchy. It may be used by many goroutines.
type Boundary struct {
	hier *Hierarchy
	root *Dir // immutable

	mu     sync.Mutex
	dirs   map[uint64]*list.Element // guarded by mu; of *Dir, by kernfs id
	recent *list.List               // guarded by mu; most recently used first
	paths  map[uint64]string        // guarded by mu; without handles: paths from the boundary, by kernfs id
	closed bool                     // guarded by mu
}

// Boundary opens the cgroup at a path as a boundary. ENOENT if there is none, EINVAL for the hierarchy's root: its
// files can be global, and nothing bounds a guest there.
func (hier *Hierarchy) Boundary(dir string) (*Boundary, error) {
	fd, err := hier.open(dir)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Ino == hier.id {
		err = unix.EINVAL
	}
	if err != nil {
		unix.Close(fd)
		return nil, pathError("use as a boundary", dir, err)
	}
	return hier.newBoundary(fd, st.Ino), nil
}

// BoundaryByID opens the cgroup with a kernfs id as a boundary: wherever it is in the hierarchy, or, without
// handles, only at path. ENOENT if the cgroup was removed: the kernel never reuses an id.
func (hier *Hierarchy) BoundaryByID(id uint64, path string) (*Boundary, error) {
	if !hier.host.features.Handles {
		b, err := hier.Boundary(path)
		if err == nil && b.ID() != id {
			b.Close()
			return nil, pathError("open", path, unix.ENOENT)
		}
		return b, err
	}
	found, err := hier.openHandle(id)
	if errors.Is(err, unix.ESTALE) {
		err = unix.ENOENT
	}
	if err != nil {
		return nil, os.NewSyscallError("open_by_handle_at", err)
	}
	defer unix.Close(found)
	rel, err := relative(hier.root, found)
	if err != nil {
		return nil, err
	}
	fd, err := openBelow(hier.root, rel, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, pathError("open", rel, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != id || rel == "" {
		unix.Close(fd)
		return nil, pathError("open", rel, unix.ENOENT)
	}
	return hier.newBoundary(fd, id), nil
}

func (hier *Hierarchy) newBoundary(fd int, id uint64) *Boundary {
	b := &Boundary{hier: hier, dirs: map[uint64]*list.Element{}, recent: list.New(), paths: map[uint64]string{}}
	b.root = &Dir{boundary: b, id: id, fd: fd, refs: 1}
	return b
}

// Hierarchy returns the boundary's hierarchy.
func (b *Boundary) Hierarchy() *Hierarchy { return b.hier }

// ID returns the boundary's kernfs id.
func (b *Boundary) ID() uint64 { return b.root.id }

// Path returns the boundary's path from the root of the hierarchy, for messages and comparisons. "" if it was
// removed.
func (b *Boundary) Path() string {
	rest, err := relative(b.hier.root, b.root.fd)
	if err != nil {
		return ""
	}
	return "/" + rest
}

// Close closes the boundary. Dirs in use stay open until they are released.
func (b *Boundary) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	for e := b.recent.Front(); e != nil; e = e.Next() {
		if d := e.Value.(*Dir); d.refs == 0 {
			unix.Close(d.fd)
		}
	}
	b.hier.host.openDirs.Add(-int64(len(b.dirs)))
	b.dirs, b.recent = map[uint64]*list.Element{}, list.New()
	b.drop(b.root)
}

// Root returns the boundary's own directory. ENODEV after Close.
func (b *Boundary) Root() (*Dir, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, unix.ENODEV
	}
	b.root.refs++
	return b.root, nil
}

// Acquire opens the directory with a kernfs id. ENOENT if there is none at or below the boundary.
func (b *Boundary) Acquire(id uint64) (*Dir, error) {
	if id == b.root.id {
		return b.Root()
	}
	if d := b.cached(id); d != nil {
		return d, nil
	}
	fd, err := b.open(id)
	if err != nil {
		return nil, err
	}
	return b.keep(id, fd)
}

// At opens the directory at a path from the boundary, "" for the boundary itself. ENOENT if there is none.
func (b *Boundary) At(rel string) (*Dir, error) {
	root, err := b.Root()
	if err != nil || rel == "" {
		return root, err
	}
	defer root.Release()
	fd, err := openBelow(root.fd, rel, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return b.keepOpen(fd)
}

// cached returns a directory that is open already, or nil.
func (b *Boundary) cached(id uint64) *Dir {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.dirs[id]
	if e == nil {
		return nil
	}
	b.recent.MoveToFront(e)
	d := e.Value.(*Dir)
	d.refs++
	return d
}

// keepOpen is keep for a directory with an unknown id.
func (b *Boundary) keepOpen(fd int) (*Dir, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return b.keep(st.Ino, fd)
}

// keep adds an open directory to the cache, or closes it if another call was quicker.
func (b *Boundary) keep(id uint64, fd int) (*Dir, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		unix.Close(fd)
		return nil, unix.ENODEV
	}
	if e := b.dirs[id]; e != nil {
		unix.Close(fd)
		d := e.Value.(*Dir)
		d.refs++
		return d, nil
	}
	d := &Dir{boundary: b, id: id, fd: fd, refs: 1}
	d.element = b.recent.PushFront(d)
	b.dirs[id] = d.element
	b.hier.host.openDirs.Add(1)
	if len(b.dirs) > maxOpenDirs || len(b.dirs) > 1 && b.hier.host.crowded() {
		last := b.recent.Back().Value.(*Dir)
		b.forget(last)
		if last.refs == 0 {
			unix.Close(last.fd)
		}
	}
	return d, nil
}

// forget removes a directory from the cache. Called with mu held.
func (b *Boundary) forget(d *Dir) {
	b.recent.Remove(d.element)
	delete(b.dirs, d.id)
	b.hier.host.openDirs.Add(-1)
	d.element = nil
}

// drop ends one use of a directory. Called with mu held.
func (b *Boundary) drop(d *Dir) {
	d.refs--
	if d.refs == 0 && (d.element == nil || b.closed) {
		unix.Close(d.fd)
	}
}

// open opens a directory by its id: the handle finds it, a path from the boundary's descriptor contains it.
func (b *Boundary) open(id uint64) (int, error) {
	rel, err := b.find(id)
	if err != nil {
		return -1, err
	}
	fd, err := openBelow(b.root.fd, rel, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != id || st.Dev != b.hier.device {
		unix.Close(fd)
		// Another cgroup has that path now.
		return -1, unix.ENOENT
	}
	return fd, nil
}

// find returns the path from the boundary of the directory with an id. Without handles ESTALE for an unknown id: the
// kernel then looks the path up again (retry_estale).
func (b *Boundary) find(id uint64) (string, error) {
	if !b.hier.host.features.Handles {
		b.mu.Lock()
		defer b.mu.Unlock()
		if rel, ok := b.paths[id]; ok {
			return rel, nil
		}
		return "", unix.ESTALE
	}
	fd, err := b.hier.openHandle(id)
	if errors.Is(err, unix.ESTALE) {
		err = unix.ENOENT
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return relative(b.root.fd, fd)
}

// learn stores the path of a directory, if there are no handles to find it by.
func (b *Boundary) learn(id uint64, parent *Dir, name string) {
	if b.hier.host.features.Handles {
		return
	}
	rel, err := parent.Path()
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.paths) >= maxKnownPaths {
		clear(b.paths)
	}
	b.paths[id] = path.Join(rel, name)
}

// renamed updates the paths of a renamed directory and of all below it.
func (b *Boundary) renamed(parent *Dir, from, to string) {
	if b.hier.host.features.Handles {
		return
	}
	above, err := parent.Path()
	if err != nil {
		return
	}
	from, to = path.Join(above, from), path.Join(above, to)
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, rel := range b.paths {
		if below, ok := pathBelow("/"+from, "/"+rel); ok {
			b.paths[id] = path.Join(to, below)
		}
	}
}

// CountCgroups counts the cgroups below the boundary without its leaf, and without those of cgroups that Bridged
// reports.
func (b *Boundary) CountCgroups() (int, error) {
	v2, attr := b.hier.Version == hierarchy.V2, b.hier.attrName(AttrIn)
	return b.count(func(dir int) bool {
		if !v2 || dir == b.root.fd {
			return v2
		}
		_, err := unix.Getxattr(procPath(dir), attr, nil)
		return err == nil
	})
}

// CountVisible counts the cgroups below the boundary without any leaf, of the boundary or of a cgroup below it.
func (b *Boundary) CountVisible() (int, error) { return b.count(func(int) bool { return true }) }

func (b *Boundary) count(hasLeaf func(dir int) bool) (int, error) {
	root, err := b.Root()
	if err != nil {
		return 0, err
	}
	defer root.Release()
	return countBelow(root.fd, hasLeaf)
}

// countBelow counts the cgroups below a directory. hasLeaf says that the one named as a leaf in a directory does not
// count.
func countBelow(dir int, hasLeaf func(dir int) bool) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return 0, err
	}
	if st.Nlink <= 2 {
		// The link count of kernfs includes subdirectories.
		return 0, nil
	}
	entries, err := listFD(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		if !e.IsDir || e.Name == hierarchy.LeafName && hasLeaf(dir) {
			continue
		}
		n++
		child, err := openBelow(dir, e.Name, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			// Removed meanwhile.
			continue
		}
		below, err := countBelow(child, hasLeaf)
		unix.Close(child)
		if err != nil {
			return 0, err
		}
		n += below
	}
	return n, nil
}
