package host

import (
	"golang.org/x/sys/unix"
)

// Stripper holds a cgroup and those of its files that have attributes of this project. An open file of a removed
// cgroup keeps the cgroup's files in memory, and their attributes with them.
type Stripper struct {
	dir *Dir
	fds []int
}

// Stripper makes one for a child. The errors are those of opening and listing it.
func (d *Dir) Stripper(name string) (*Stripper, error) {
	child, err := d.OpenDir(name)
	if err != nil {
		return nil, err
	}
	s := &Stripper{dir: child}
	entries, err := child.ReadDir()
	if err != nil {
		s.Release()
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir {
			continue
		}
		fd, err := openBelow(child.fd, e.Name, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			// Removed with its controller.
			continue
		}
		if names, err := child.listXattr(procPath(fd)); err != nil || len(names) == 0 {
			unix.Close(fd)
			continue
		}
		s.fds = append(s.fds, fd)
	}
	return s, nil
}

// Strip removes the attributes. It works on a removed cgroup, because kernfs requires no active reference there.
func (s *Stripper) Strip() {
	for _, fd := range append([]int{s.dir.fd}, s.fds...) {
		names, err := s.dir.listXattr(procPath(fd))
		if err != nil {
			continue
		}
		for _, name := range names {
			_ = unix.Removexattr(procPath(fd), s.dir.boundary.hier.attrName(name))
		}
	}
}

// Release closes the descriptors.
func (s *Stripper) Release() {
	for _, fd := range s.fds {
		unix.Close(fd)
	}
	s.dir.Release()
}
