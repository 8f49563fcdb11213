package host

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Walk calls f for the boundary, for each cgroup below it (name "") and for each of their control files: a cgroup
// before its content. It skips what is removed meanwhile. The error is f's, or that of listing a cgroup.
func (b *Boundary) Walk(f func(d *Dir, name string, st *unix.Stat_t) error) error {
	root, err := b.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	return root.walk(f)
}

// WalkCgroups calls f for the boundary and for each cgroup below it, as Walk does, without reading the files.
func (b *Boundary) WalkCgroups(f func(d *Dir) error) error {
	root, err := b.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	return root.walkCgroups(f)
}

func (d *Dir) walkCgroups(f func(d *Dir) error) error {
	if err := f(d); err != nil {
		return unlessGone(err)
	}
	var st unix.Stat_t
	if err := d.Stat(&st); err != nil || st.Nlink <= 2 {
		// The link count of kernfs includes subdirectories.
		return err
	}
	entries, err := d.ReadDir()
	if err != nil {
		return unlessGone(err)
	}
	for _, e := range entries {
		if !e.IsDir {
			continue
		}
		child, err := d.OpenDir(e.Name)
		if err == nil {
			err = child.walkCgroups(f)
			child.Release()
		}
		if unlessGone(err) != nil {
			return err
		}
	}
	return nil
}

func (d *Dir) walk(f func(d *Dir, name string, st *unix.Stat_t) error) error {
	var st unix.Stat_t
	if err := d.Stat(&st); err != nil {
		return err
	}
	if err := f(d, "", &st); err != nil {
		return unlessGone(err)
	}
	entries, err := d.ReadDir()
	if err != nil {
		return unlessGone(err)
	}
	for _, e := range entries {
		if e.IsDir {
			var child *Dir
			if child, err = d.OpenDir(e.Name); err == nil {
				err = child.walk(f)
				child.Release()
			}
		} else if err = d.Lookup(e.Name, &st); err == nil {
			err = f(d, e.Name, &st)
		}
		if unlessGone(err) != nil {
			return err
		}
	}
	return nil
}

// unlessGone drops the errors of a removed cgroup.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
