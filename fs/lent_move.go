package fs

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// maxRounds bounds how often tasks are moved after others, which can fork or clone meanwhile. One that has moved
// leaves no more behind, so that mostly one round finds all.
const maxRounds = 4

// move moves a task in the v2 tree and in all parts, to the directories of dst: everywhere or nowhere. EBUSY for a
// cgroup other than the root with lent controllers enabled for its children.
func (l *lent) move(hier *viewHierarchy, dst *host.Dir, pid int, thread bool, own func() error) error {
	defer l.hold()()
	if stays, _ := staysIn(dst, attrSubtree); !dst.IsBoundary() &&
		slices.ContainsFunc(stays, func(s stay) bool { return !s.over && !hierarchy.ThreadedController(s.name) }) {
		return unix.EBUSY
	}
	from, _ := hier.boundary.PathOf(pid)
	if err := own(); err != nil {
		return err
	}
	failpoint("lent-own-moved")
	var moved []func()
	for _, p := range l.parts {
		back, err := p.move(dst, pid, thread)
		if err != nil {
			for _, undo := range slices.Backward(moved) {
				undo()
			}
			moveBack(hier.boundary, from, pid, thread)
			return err
		}
		moved = append(moved, back)
		failpoint("lent-moved")
	}
	if !dst.IsBoundary() {
		for _, p := range l.parts {
			p.gather(hier.boundary, dst)
		}
	}
	return nil
}

// finishMove has the tasks of a directory of the v2 tree in the same one of all parts.
func (v *View) finishMove(h *handle) {
	dst, err := h.acquire()
	if err != nil {
		return
	}
	defer dst.Release()
	all := []*host.Dir{dst}
	if dst.IsBoundary() {
		if leaf, err := dst.OpenDir(hierarchy.LeafName); err == nil {
			defer leaf.Release()
			all = append(all, leaf)
		}
	}
	l := h.hier.lent
	defer l.hold()()
	for _, p := range l.parts {
		for _, d := range all {
			p.gather(h.hier.boundary, d)
		}
	}
}

// move moves a task in the part. back undoes that. A process moves even if its leader is there: other threads may be
// elsewhere.
func (p *part) move(dst *host.Dir, pid int, thread bool) (back func(), err error) {
	from, err := p.boundary.PathOf(pid)
	if errors.Is(err, unix.ESRCH) {
		// It has exited since it moved.
		return func() {}, nil
	}
	to, err := p.nearest(dst)
	if err != nil {
		return nil, err
	}
	defer to.Release()
	if rel, err := to.Path(); thread && err == nil && rel == from && from != "" {
		return func() {}, nil
	}
	file := "cgroup.procs"
	if thread {
		file = "tasks"
	}
	fd, err := to.OpenFile(file, unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	_, err = p.boundary.Move(to, file, fd, pid, thread, nil)
	var outside *host.OutsideError
	if err != nil && (errors.As(err, &outside) || !errors.Is(err, unix.ESRCH)) {
		return nil, err
	}
	return func() { moveBack(p.boundary, from, pid, thread) }, nil
}

// moveBack moves a task to a path from the boundary, as far as that is possible.
func moveBack(b *host.Boundary, path string, pid int, thread bool) {
	d, err := b.At(path)
	if err != nil {
		return
	}
	defer d.Release()
	file := "cgroup.procs"
	if thread && b.Hierarchy().Version == hierarchy.V1 {
		file = "tasks"
	} else if thread {
		file = "cgroup.threads"
	}
	if fd, err := d.OpenFile(file, unix.O_WRONLY); err == nil {
		_, _ = b.Move(d, file, fd, pid, thread, nil)
		unix.Close(fd)
	}
}

// gather moves the tasks that are at dst in the v2 tree, and elsewhere in the part: what a task forks or clones between
// its move in the tree and that in the part begins where the part still has it, and would be outside dst's limits.
func (p *part) gather(tree *host.Boundary, dst *host.Dir) {
	for range maxRounds {
		if p.gatherOnce(tree, dst) == 0 {
			return
		}
	}
}

// gatherOnce returns how many it has moved.
func (p *part) gatherOnce(tree *host.Boundary, dst *host.Dir) (moved int) {
	to, err := p.nearest(dst)
	if err != nil {
		return 0
	}
	defer to.Release()
	all, err := dst.ReadFile("cgroup.threads")
	if err != nil {
		return 0
	}
	there, err := to.ReadFile("tasks")
	if err != nil {
		return 0
	}
	has := map[int]bool{}
	for _, tid := range parsePids(there) {
		has[tid] = true
	}
	for _, tid := range parsePids(all) {
		if !has[tid] && p.rejoin(tree, tid) {
			moved++
		}
	}
	return moved
}

// rejoin moves a thread to where it is in the v2 tree. False if that is not possible.
func (p *part) rejoin(tree *host.Boundary, tid int) bool {
	path, err := tree.PathOf(tid)
	if err != nil {
		return false
	}
	to, err := tree.At(path)
	if err != nil {
		return false
	}
	defer to.Release()
	_, err = p.move(to, tid, true)
	return err == nil
}

// clear removes a directory that the v2 tree does not have, with those below it. Tasks that are still there rejoin
// those of the tree first.
func (p *part) clear(tree *host.Boundary, above *host.Dir, name string) error {
	err := above.Rmdir(name)
	for n := 0; n < maxRounds && errors.Is(err, unix.EBUSY); n++ {
		err = p.clearOnce(tree, above, name)
	}
	return err
}

func (p *part) clearOnce(tree *host.Boundary, above *host.Dir, name string) error {
	d, err := above.OpenDir(name)
	if err != nil {
		return err
	}
	defer d.Release()
	entries, err := d.ReadDir()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir {
			_ = p.clearOnce(tree, d, e.Name)
		}
	}
	raw, err := d.ReadFile("tasks")
	if err != nil {
		return err
	}
	for _, tid := range parsePids(raw) {
		p.rejoin(tree, tid)
	}
	return above.Rmdir(name)
}
