package fs

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// membersBridged returns the content of tasks or cgroup.procs: the tasks of the cgroup and of its leaf, and those of
// the cgroups below that are not in this hierarchy.
func (v *View) membersBridged(h *handle, d *host.Dir, tid uint32) ([]byte, error) {
	ns, err := v.callerOf(tid)
	if err != nil {
		return nil, err
	}
	file := "cgroup.procs"
	if perThread(h.file) {
		file = "cgroup.threads"
	}
	pids, err := h.hier.bridge.collect(h.hier, d, file)
	if err != nil {
		return nil, err
	}
	if !ns.Own() {
		pids = ns.FromHost(pids, perThread(h.file))
	}
	slices.Sort(pids)
	var out []byte
	for _, pid := range slices.Compact(pids) {
		if pid != 0 {
			out = append(strconv.AppendInt(out, int64(pid), 10), '\n')
		}
	}
	return out, nil
}

// collect returns the members of a directory in a hierarchy.
func (b *bridge) collect(hier *viewHierarchy, d *host.Dir, file string) ([]int, error) {
	raw, err := d.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pids := parsePids(raw)
	if leaf, err := d.OpenDir(hierarchy.LeafName); err == nil {
		if raw, err = leaf.ReadFile(file); err == nil {
			pids = append(pids, parsePids(raw)...)
		}
		leaf.Release()
	}
	others, err := b.children(hier, d, false)
	for _, name := range others {
		one, err := d.OpenDir(name)
		if err != nil {
			// Removed meanwhile: it has no tasks.
			continue
		}
		if more, err := b.collect(hier, one, file); err == nil {
			pids = append(pids, more...)
		}
		one.Release()
	}
	return pids, err
}

// moveBridged answers a write of a pid to a directory of a bridge, as move does. The whole process moves: a thread that
// does not lead it can only stay (EOPNOTSUPP).
func (v *View) moveBridged(h *handle, tid uint32, data []byte) error {
	nr, err := parsePid(data)
	if err != nil {
		return err
	}
	ns, err := v.callerOf(tid)
	if err != nil {
		return unix.ESRCH
	}
	pid := int(tid)
	if nr != 0 {
		if pid, err = ns.ToHost(nr, true); err != nil {
			return unix.ESRCH
		}
	}
	leader, err := host.ThreadGroup(pid)
	if err != nil {
		return unix.ESRCH
	}
	defer h.hier.bridge.enter()()
	// Only now no rmdir can come between.
	dst, err := h.acquire()
	if err != nil {
		return unix.ENODEV
	}
	defer dst.Release()
	target, motion, err := h.hier.bridge.target(h.hier, dst, leader)
	if err != nil {
		return err
	}
	defer target.Release()
	if perThread(h.file) && leader != pid && motion == moves {
		return unix.EOPNOTSUPP
	}
	fd, err := target.OpenFile("cgroup.procs", unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = v.moveBy(h, target, fd, leader, false)
	failpoint("bridge-moved")
	return err
}

// motion is what a write of a process's number to a directory does to it.
type motion int

const (
	moves   motion = iota
	stays          // it is there already
	unfound        // it is outside the boundary or gone: the move itself tells
)

// target returns the cgroup of the host that a process moves to with a move to dst in a hierarchy: the one that it is
// in if it stays there, else the one that holds dst's own tasks.
func (b *bridge) target(hier *viewHierarchy, dst *host.Dir, pid int) (target *host.Dir, m motion, err error) {
	place, member, err := b.placeOf(hier, pid)
	switch {
	case err != nil:
		m = unfound
	case member == dst.ID():
		return place, stays, nil
	default:
		place.Release()
	}
	if leaf, err := dst.OpenDir(hierarchy.LeafName); err == nil {
		return leaf, m, nil
	}
	enabled, err := dst.ReadFile("cgroup.subtree_control")
	if err != nil {
		return nil, m, err
	}
	if strings.TrimSpace(string(enabled)) != "" {
		target, err = leafOf(dst)
		return target, m, err
	}
	target, err = b.boundary.Acquire(dst.ID())
	return target, m, err
}

// placeOf returns the cgroup of a process, and the id of the directory that it is in, in a hierarchy.
func (b *bridge) placeOf(hier *viewHierarchy, pid int) (place *host.Dir, member uint64, err error) {
	path, err := b.boundary.PathOf(pid)
	if err != nil {
		return nil, 0, err
	}
	if place, err = b.boundary.Root(); err != nil {
		return nil, 0, err
	}
	member, above := place.ID(), true
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		next, err := place.OpenDir(name)
		place.Release()
		if err != nil {
			return nil, 0, err
		}
		place = next
		// What a hierarchy lacks it lacks with all below.
		if above = above && name != hierarchy.LeafName && b.inHierarchy(hier, place); above {
			member = place.ID()
		}
	}
	return place, member, nil
}

func (b *bridge) inHierarchy(hier *viewHierarchy, d *host.Dir) bool {
	_, there := b.lifeIn(hier, d)
	return there
}
