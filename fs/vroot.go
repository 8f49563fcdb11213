package fs

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// The root of a v2 hierarchy may hold processes and have controllers enabled at once; another cgroup may not
// (no-internal-process rule, Documentation/admin-guide/cgroup-v2.rst). The guest sees its boundary as the root. So
// before a controller is enabled there, the boundary's processes move to the leaf, and from then on the leaf holds
// the root's processes: the root's cgroup.procs lists them, and no listing shows the leaf.
//
// Only the real root can have threaded children and domains with processes side by side (cgroup_is_mixable in
// kernel/cgroup/cgroup.c, Linux 4.14). Next to threaded children a boundary keeps its processes, because the leaf is
// a domain; the kernel then enables threaded controllers only.

// evacuations bounds the readings of the boundary's processes while they fork.
const evacuations = 1000

// findLeaf finds the leaf of an earlier server.
func (hier *viewHierarchy) findLeaf() {
	if !hier.v2() {
		return
	}
	d, err := hier.boundary.Root()
	if err != nil {
		return
	}
	defer d.Release()
	var st unix.Stat_t
	if d.Lookup(hierarchy.LeafName, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		hier.leafID.Store(st.Ino)
	}
}

// leaf opens the leaf, and makes a missing one.
func (hier *viewHierarchy) leaf() (*host.Dir, error) {
	root, err := hier.boundary.Root()
	if err != nil {
		return nil, err
	}
	defer root.Release()
	d, err := leafOf(root)
	if err != nil {
		return nil, err
	}
	hier.leafID.Store(d.ID())
	return d, nil
}

// removeLeaf removes an empty leaf.
func (hier *viewHierarchy) removeLeaf() {
	if hier.leafID.Load() == 0 {
		return
	}
	root, err := hier.boundary.Root()
	if err != nil {
		return
	}
	defer root.Release()
	if root.Rmdir(hierarchy.LeafName) == nil {
		hier.leafID.Store(0)
	}
}

// leafMembers returns the members of the leaf if dir is the root.
func (hier *viewHierarchy) leafMembers(dir uint64, file string) ([]byte, error) {
	if !hier.v2() || !hier.isRoot(dir) || hier.leafID.Load() == 0 {
		return nil, nil
	}
	d, err := hier.boundary.Acquire(hier.leafID.Load())
	if err != nil {
		// The host removed it.
		return nil, nil
	}
	defer d.Release()
	return d.ReadFile(file)
}

// vacate moves the boundary's processes to the leaf, so that controllers can be enabled. In a threaded subtree they
// stay, and the kernel decides which controllers can be enabled. EBUSY as moveAll.
func (hier *viewHierarchy) vacate(cancel <-chan struct{}) error {
	return hier.evacuation(cancel, func(root *host.Dir) error {
		raw, err := root.ReadFile("cgroup.procs")
		if len(raw) == 0 && err == nil || inThreads(root) {
			// A threaded cgroup's cgroup.procs cannot be read.
			return nil
		}
		if err != nil {
			return err
		}
		leaf, err := hier.leaf()
		if err != nil {
			return err
		}
		defer leaf.Release()
		return moveAll(root, leaf)
	})
}

// rejoin moves the leaf's processes back to the boundary. The kernel allows that while no controller is enabled
// there.
func (hier *viewHierarchy) rejoin(cancel <-chan struct{}) error {
	return hier.evacuation(cancel, func(root *host.Dir) error {
		leaf, err := hier.boundary.Acquire(hier.leafID.Load())
		if err != nil {
			return err
		}
		defer leaf.Release()
		return moveAll(leaf, root)
	})
}

// evacuation runs move, one at a time, with the boundary's directory.
func (hier *viewHierarchy) evacuation(cancel <-chan struct{}, move func(root *host.Dir) error) error {
	select {
	case hier.evacuate <- struct{}{}:
	case <-cancel:
		return unix.EINTR
	}
	defer func() { <-hier.evacuate }()
	root, err := hier.boundary.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	return move(root)
}

// moveAll moves all processes of a cgroup. EBUSY if they fork faster than it moves them, or for one that the server
// cannot see.
func moveAll(from, to *host.Dir) error {
	for range evacuations {
		raw, err := from.ReadFile("cgroup.procs")
		if err != nil {
			return err
		}
		if len(raw) == 0 {
			return nil
		}
		for _, pid := range parsePids(raw) {
			if pid == 0 {
				return unix.EBUSY
			}
			if err := to.WriteFile("cgroup.procs", []byte(strconv.Itoa(pid))); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return unix.EBUSY
}

// inThreads reports that a boundary is threaded or the root of a threaded subtree, that is, it has threaded
// children, or processes and threaded controllers.
func inThreads(root *host.Dir) bool {
	kind, err := root.ReadFile("cgroup.type")
	return err == nil && (string(kind) == "threaded\n" || string(kind) == "domain threaded\n")
}

// makeThreaded answers a write to cgroup.type. The kernel refuses it while a domain next to the cgroup holds
// processes (cgroup_can_be_thread_root), as the leaf does even after the last controller was disabled.
func (h *handle) makeThreaded(cancel <-chan struct{}, data []byte) error {
	err := h.command(data)
	if !errors.Is(err, unix.EOPNOTSUPP) || h.hier.leafID.Load() == 0 || !h.besideLeaf() || h.hier.rejoin(cancel) != nil {
		return err
	}
	return h.command(data)
}

// besideLeaf reports that the open's directory is a child of the boundary.
func (h *handle) besideLeaf() bool {
	d, err := h.acquire()
	if err != nil {
		return false
	}
	defer d.Release()
	path, err := d.Path()
	return err == nil && !strings.Contains(strings.Trim(path, "/"), "/")
}

// moveToRoot moves a task to the guest's root: the boundary, or the leaf if it exists or controllers are enabled.
func (v *View) moveToRoot(h *handle, root *host.Dir, pid int, thread bool) error {
	hier := h.hier
	if !hier.v2() || inThreads(root) {
		return v.moveTo(h, root, pid, thread)
	}
	if hier.leafID.Load() == 0 {
		enabled, err := root.ReadFile("cgroup.subtree_control")
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(enabled)) == "" {
			return v.moveTo(h, root, pid, thread)
		}
	}
	leaf, err := hier.leaf()
	if err != nil {
		return err
	}
	defer leaf.Release()
	fd, err := v.leafFile(h, leaf)
	if err != nil {
		return err
	}
	n, err := v.moveBy(h, leaf, fd, pid, thread)
	h.mu.Lock()
	h.leafPos += int64(n)
	h.mu.Unlock()
	return err
}

// leafFile returns the open's descriptor of the leaf's file, to move tasks with.
func (v *View) leafFile(h *handle, leaf *host.Dir) (int, error) {
	h.mu.Lock()
	fd := h.leaf
	h.mu.Unlock()
	if fd >= 0 {
		return fd, nil
	}
	fd, err := leaf.OpenFile(h.file, unix.O_WRONLY)
	if err != nil {
		return -1, err
	}
	h.mu.Lock()
	// Another write of the same open was quicker.
	if h.leaf >= 0 {
		have := h.leaf
		h.mu.Unlock()
		unix.Close(fd)
		return have, nil
	}
	h.leaf, h.leafPos = fd, 0
	h.mu.Unlock()
	v.hold(h.fh|leafKey, fd)
	return fd, nil
}
