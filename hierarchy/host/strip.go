package host

// Stripper holds a cgroup and those of its files that have attributes of this project. An open file of a removed
// cgroup keeps the cgroup's files in memory, and their attributes with them.
type Stripper struct {
	dir   *Dir
	nodes []Node // of the files
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
		file, err := child.Node(e.Name)
		if err != nil {
			// Removed with its controller.
			continue
		}
		if names, err := file.ListXattr(); err != nil || len(names) == 0 {
			file.Close()
			continue
		}
		s.nodes = append(s.nodes, file)
	}
	return s, nil
}

// Strip removes the attributes. It works on a removed cgroup, because kernfs requires no active reference there.
func (s *Stripper) Strip() {
	for _, n := range append([]Node{s.dir.Self()}, s.nodes...) {
		names, err := n.ListXattr()
		if err != nil {
			continue
		}
		for _, name := range names {
			_ = n.RemoveXattr(name)
		}
	}
}

// Release closes the descriptors.
func (s *Stripper) Release() {
	for _, n := range s.nodes {
		n.Close()
	}
	s.dir.Release()
}
