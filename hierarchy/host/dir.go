package host

import (
	"container/list"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Dir is one cgroup at or below a boundary, held by a descriptor until it is released. Names are single components;
// EINVAL for any other. Operations on a removed cgroup are ENOENT or ENODEV, as on cgroupfs.
type Dir struct {
	boundary *Boundary
	id       uint64 // immutable
	fd       int    // immutable; O_PATH

	depth atomic.Int32 // 0 until known

	refs    int           // guarded by boundary.mu
	element *list.Element // guarded by boundary.mu; nil outside the cache
}

// ID returns the cgroup's kernfs id, its inode number and on v2 its cgroup id.
func (d *Dir) ID() uint64 { return d.id }

// Boundary returns the boundary that the directory was opened below.
func (d *Dir) Boundary() *Boundary { return d.boundary }

// FD returns the descriptor, O_PATH. Release closes it.
func (d *Dir) FD() int { return d.fd }

// Release ends the use of the directory.
func (d *Dir) Release() {
	d.boundary.mu.Lock()
	defer d.boundary.mu.Unlock()
	d.boundary.drop(d)
}

// IsBoundary reports the boundary itself.
func (d *Dir) IsBoundary() bool { return d.id == d.boundary.root.id }

// Stat is fstat.
func (d *Dir) Stat(st *unix.Stat_t) error { return unix.Fstat(d.fd, st) }

// Lookup stats a name in the directory. ENOENT also for one with a mount over it.
func (d *Dir) Lookup(name string, st *unix.Stat_t) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := unix.Fstatat(d.fd, name, st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Dev != d.boundary.hier.device {
		return unix.ENOENT
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		d.boundary.learn(st.Ino, d, name)
	}
	return nil
}

// OpenDir opens a child cgroup.
func (d *Dir) OpenDir(name string) (*Dir, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	fd, err := openBelow(d.fd, name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	child, err := d.boundary.keepOpen(fd)
	if err == nil {
		d.boundary.learn(child.id, d, name)
	}
	return child, err
}

// Child is OpenDir for a child cgroup whose kernfs id is known.
func (d *Dir) Child(name string, id uint64) (*Dir, error) {
	if child := d.boundary.cached(id); child != nil {
		return child, nil
	}
	return d.OpenDir(name)
}

// OpenFile opens a control file; the caller closes the descriptor.
func (d *Dir) OpenFile(name string, flags int) (int, error) {
	if err := checkName(name); err != nil {
		return -1, err
	}
	fd, err := openBelow(d.fd, name, flags)
	return fd, pathError("open", name, err)
}

// ReadFile reads a control file.
func (d *Dir) ReadFile(name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	raw, err := readBelow(d.fd, name)
	return raw, pathError("read", name, err)
}

// WriteFile writes one command to a control file.
func (d *Dir) WriteFile(name string, data []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	return pathError("write", name, writeBelow(d.fd, name, data))
}

// ReadDir lists the directory without "." and "..".
func (d *Dir) ReadDir() ([]Entry, error) {
	entries, err := listFD(d.fd)
	return entries, pathError("readdir", "", err)
}

// Mkdir makes a child cgroup and opens it. A v1 child does not notify on release, whatever the directory's setting.
func (d *Dir) Mkdir(name string, mode uint32) (*Dir, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := unix.Mkdirat(d.fd, name, mode); err != nil {
		return nil, pathError("mkdir", name, err)
	}
	child, err := d.OpenDir(name)
	if err == nil {
		if err = child.Silence(); err == nil {
			return child, nil
		}
		child.Release()
	}
	unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
	return nil, err
}

// Silence keeps a v1 cgroup from notifying on release, as Mkdir does.
func (d *Dir) Silence() error {
	if d.boundary.hier.Version != hierarchy.V1 {
		return nil
	}
	return pathError("silence", "", silence(d.fd))
}

// Chmod changes the mode of the directory (name "") or of a child cgroup.
func (d *Dir) Chmod(name string, mode uint32) error {
	n, err := d.Node(name)
	if err == nil {
		defer n.Close()
		err = unix.Chmod(n.path, mode)
	}
	return pathError("chmod", name, err)
}

// Chown changes the owner of the directory (name "") or of a control file or child cgroup.
func (d *Dir) Chown(name string, uid, gid uint32) error {
	n, err := d.Node(name)
	if err == nil {
		defer n.Close()
		err = unix.Chown(n.path, int(uid), int(gid))
	}
	return pathError("chown", name, err)
}

// Rmdir removes a child cgroup. EBUSY while it has tasks or children.
func (d *Dir) Rmdir(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return pathError("rmdir", name, unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR))
}

// Rename renames a child cgroup of a v1 hierarchy.
func (d *Dir) Rename(from, to string) error {
	if err := checkName(from); err != nil {
		return err
	}
	if err := checkName(to); err != nil {
		return err
	}
	err := unix.Renameat(d.fd, from, d.fd, to)
	if err == nil {
		d.boundary.renamed(d, from, to)
	}
	return pathError("rename", from, err)
}

// Path returns the directory's path from the boundary, "" for the boundary itself: text, not authority. ENOENT once
// it is removed.
func (d *Dir) Path() (string, error) {
	if d.IsBoundary() {
		return "", nil
	}
	rel, err := relative(d.boundary.root.fd, d.fd)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if unix.Fstatat(d.boundary.root.fd, rel, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Ino != d.id {
		// " (deleted)" follows the path of a removed cgroup.
		return "", unix.ENOENT
	}
	return rel, nil
}

// Depth returns the number of levels below the boundary, 0 for the boundary itself. It never changes: a v1 cgroup
// can only be renamed within its parent.
func (d *Dir) Depth() (int, error) {
	if n := d.depth.Load(); n > 0 || d.IsBoundary() {
		return int(n), nil
	}
	rel, err := d.Path()
	if err != nil {
		return 0, err
	}
	n := strings.Count(rel, "/") + 1
	d.depth.Store(int32(n))
	return n, nil
}

// Parent opens the directory above. EINVAL for the boundary.
func (d *Dir) Parent() (*Dir, error) {
	rel, err := d.Path()
	if err != nil {
		return nil, err
	}
	if rel == "" {
		return nil, unix.EINVAL
	}
	up := strings.Trim(path.Dir("/"+rel), "/")
	if up == "" {
		return d.boundary.Root()
	}
	fd, err := openBelow(d.boundary.root.fd, up, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return d.boundary.keepOpen(fd)
}
