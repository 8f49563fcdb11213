// Package cgroups is the host's hand in a guest's cgroups: it lists them with their figures and processes, sets
// limits, freezes, thaws and kills, and counts how often a limit was reached.
//
// It acts on the guest's open boundaries, one for each hierarchy that the guest is shown. Of the host it touches
// nothing else but to read the names of the processes that it finds there. A guest's own policy does not count: the
// host may do what the guest may not.
//
// # What always holds
//
// Constants bound everything: a guest that makes many cgroups, or nests them deeply, costs no more than those say. Set
// changes all that it was asked for or nothing, and never leaves a cgroup with more than it had unless that was asked
// for. Freeze and Kill refuse a guest that the calling process or its parent is in.
//
// Errors have a kind (package fault). The functions may be called from many goroutines, but Set, Freeze, Thaw and Kill
// of one guest only one at a time.
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
	maxCgroups = 10_000 // of a guest that are looked at, in each hierarchy
	maxDepth   = 100    // levels below the boundary that are looked at; each holds a descriptor
)

// cgroup is a stop of a walk.
type cgroup struct {
	dir  *host.Dir // open until the visit returns
	path string    // from the boundary, "" for that
	leaf bool      // the leaf of a v2 boundary: a part of the boundary, as the guest sees it, so its path is "" too
}

// walk visits a boundary and every cgroup below it, parents first and siblings by name. visit says whether to go on below.
// cut, which may be nil, is called with the path of a cgroup that has more below than is visited. What vanishes on the way
// is left out; the error is the first other one, after which what can be visited still is.
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
		child := cgroup{dir: dir, leaf: w.v2 && depth == 0 && name == hierarchy.LeafName}
		if !child.leaf {
			child.path = strings.TrimPrefix(c.path+"/"+name, "/")
		}
		w.down(child, depth+1)
		dir.Release()
	}
}

func (w *walker) note(err error) {
	if err != nil && w.err == nil && !gone(err) {
		w.err = err
	}
}

// children are the names of the cgroups in a directory, sorted. A directory that was removed has none; its descriptor tells.
func children(d *host.Dir) ([]string, error) {
	var st unix.Stat_t
	if err := d.Stat(&st); err != nil {
		return nil, err
	}
	if st.Nlink <= 2 {
		return nil, nil // kernfs counts subdirectories in the link count
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

// pids are the processes in a cgroup by the caller's numbers: of a threaded v2 cgroup none, for they are those of the domain
// above, and none that the caller's pid namespace does not have.
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

// read reads a control file without the blanks around it.
func read(d *host.Dir, file string) (string, error) {
	raw, err := d.ReadFile(file)
	return strings.TrimSpace(string(raw)), err
}

// viewPath is a cgroup's path in the guest's view.
func viewPath(path string) string { return "/" + path }

// gone says whether an error is that of a cgroup that was removed.
func gone(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) }

// names lists the hierarchies of a guest, for messages.
func names(bs []*host.Boundary) string {
	var all []string
	for _, b := range bs {
		all = append(all, b.Hierarchy().String())
	}
	return strings.Join(all, ", ")
}

// Processes lists the processes of a boundary and below, at most so many.
func Processes(b *host.Boundary, most int) (all []int) {
	_ = walk(b, func(c cgroup) bool { // what can be listed is
		found, _ := pids(c.dir)
		all = append(all, found...)
		return len(all) < most
	}, nil)
	return all[:min(len(all), most)]
}
