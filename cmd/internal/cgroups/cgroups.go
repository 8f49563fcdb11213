// Package cgroups acts on a guest's cgroups for the host: it lists them with their figures and processes, sets limits,
// freezes, thaws and kills, and counts reached limits.
//
// It acts on the guest's open boundaries, one for each hierarchy shown to the guest. Elsewhere on the host it only
// reads the names of the processes found there. The guest's policy does not apply: the host may do more than the guest.
//
// # What always holds
//
// Constants bound all work: a guest with many or deeply nested cgroups costs no more than they allow. Set makes all
// requested changes or none, and never leaves a cgroup with more than before unless that was requested. Freeze and Kill
// refuse a guest that contains the calling process or its parent.
//
// Errors have a kind (package fault). Many goroutines may call the functions at once, but Set, Freeze, Thaw and Kill of
// one guest only one at a time.
package cgroups

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

const (
	maxCgroups = 10_000 // visited in a guest, in each hierarchy
	maxDepth   = 100    // levels visited below the boundary; each holds a descriptor
)

// cgroup is one cgroup of a walk.
type cgroup struct {
	dir  *host.Dir // open until the visit returns
	path string    // from the boundary, "" for the boundary itself
	leaf bool      // a leaf: part of the cgroup above to the guest, so it has that one's path
}

// walk visits a boundary and every cgroup below it, parents first and siblings by name. visit reports whether to
// descend. cut, which may be nil, is called with the path of a cgroup with unvisited children. A cgroup removed
// meanwhile is skipped. The error is the first other one; the walk goes on after it.
func walk(b *host.Boundary, visit func(cgroup) bool, cut func(path string)) error {
	root, err := b.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	if cut == nil {
		cut = func(string) {}
	}
	w := walker{v2: b.Hierarchy().Version == hierarchy.V2, left: maxCgroups, visit: visit, cut: cut}
	w.down(cgroup{dir: root}, 0)
	return w.err
}

type walker struct {
	v2    bool
	left  int
	visit func(cgroup) bool
	cut   func(path string)
	err   error
}

func (w *walker) down(c cgroup, depth int) {
	if !w.visit(c) || c.leaf {
		return
	}
	names, err := children(c.dir)
	w.note(err)
	for _, name := range names {
		if w.left == 0 || depth == maxDepth {
			w.cut(c.path)
			return
		}
		w.left--
		dir, err := c.dir.OpenDir(name)
		if err != nil {
			w.note(err)
			continue
		}
		child := cgroup{dir: dir, path: c.path}
		if child.leaf = w.v2 && isLeaf(c.dir, name); !child.leaf {
			child.path = strings.TrimPrefix(c.path+"/"+name, "/")
		}
		w.down(child, depth+1)
		dir.Release()
	}
}

// isLeaf reports that a name is that of the leaf of a cgroup: of a boundary, or of any cgroup where the guest sees v1
// hierarchies.
func isLeaf(d *host.Dir, name string) bool {
	return name == hierarchy.LeafName && (d.IsBoundary() || d.Bridged())
}

func (w *walker) note(err error) {
	if err != nil && w.err == nil && !gone(err) {
		w.err = err
	}
}

// children returns the names of the cgroups in a directory, sorted. A removed directory has none, as its descriptor
// tells.
func children(d *host.Dir) ([]string, error) {
	var st unix.Stat_t
	if err := d.Stat(&st); err != nil {
		return nil, err
	}
	if st.Nlink <= 2 {
		// kernfs counts subdirectories in the link count.
		return nil, nil
	}
	entries, err := d.ReadDir()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// pids returns the processes in a cgroup by the caller's numbers, without those that the caller's pid namespace does
// not have. A threaded v2 cgroup has none: its processes belong to the domain above.
func pids(d *host.Dir) ([]int, error) {
	raw, err := d.ReadFile("cgroup.procs")
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []int
	for line := range strings.Lines(string(raw)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			all = append(all, pid)
		}
	}
	return all, nil
}

// read reads a control file and trims it.
func read(d *host.Dir, file string) (string, error) {
	raw, err := d.ReadFile(file)
	return strings.TrimSpace(string(raw)), err
}

// viewPath returns a cgroup's path in the guest's view.
func viewPath(path string) string { return "/" + path }

// gone reports that an error means a removed cgroup.
func gone(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) }

// names lists the hierarchies of a guest, for messages.
func names(bs []*host.Boundary) string {
	var all []string
	for _, b := range bs {
		all = append(all, b.Hierarchy().String())
	}
	return strings.Join(all, ", ")
}

// Processes lists the processes of a boundary and below, most at the maximum.
func Processes(b *host.Boundary, most int) (all []int) {
	// It lists as many as can be read.
	_ = walk(b, func(c cgroup) bool {
		found, _ := pids(c.dir)
		all = append(all, found...)
		return len(all) < most
	}, nil)
	return all[:min(len(all), most)]
}
