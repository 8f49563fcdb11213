package fs

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// perThread reports that a membership file lists threads, not processes.
func perThread(file string) bool { return file == "tasks" || file == "cgroup.threads" }

// members returns the content of cgroup.procs, cgroup.threads or tasks in the reader's pid numbers. A task outside
// the reader's pid namespace is left out on v1 and 0 on v2, as from the kernel (pidlist_array_load; task_pid_vnr in
// cgroup_procs_show).
func (v *View) members(h *handle, tid uint32) ([]byte, error) {
	raw, err := h.readHost()
	if err != nil {
		return nil, err
	}
	leaf, err := h.hier.leafMembers(h.dir, h.file)
	if err != nil {
		return nil, err
	}
	raw = append(raw, leaf...)
	ns, err := v.callerOf(tid)
	if err != nil {
		return nil, err
	}
	if ns.Own() {
		return raw, nil
	}
	pids := ns.FromHost(parsePids(raw), perThread(h.file))
	if h.hier.version == hierarchy.V1 {
		slices.Sort(pids)
		pids = slices.Compact(pids)
	}
	out := make([]byte, 0, len(raw))
	for _, pid := range pids {
		if pid == 0 && !h.hier.v2() {
			continue
		}
		out = append(strconv.AppendInt(out, int64(pid), 10), '\n')
	}
	return out, nil
}

func parsePids(raw []byte) []int {
	var pids []int
	for line := range strings.Lines(string(raw)) {
		if n, err := strconv.Atoi(strings.TrimSuffix(line, "\n")); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// parsePid parses a number as cgroup_procs_write_start does: kstrtoint(strstrip(buf), 0), not negative. EINVAL for
// anything else.
func parsePid(data []byte) (int, error) {
	n, err := hierarchy.ParseUint(strings.TrimSpace(untilNUL(data)))
	if err != nil || n > math.MaxInt32 {
		return 0, unix.EINVAL
	}
	return int(n), nil
}

// move answers a write of a pid (rule 5): the number is the writer's, 0 is the writer, and the task moves only from
// inside the boundary to inside the boundary.
func (v *View) move(h *handle, tid uint32, data []byte) error {
	dst, err := h.acquire()
	if err != nil {
		// cgroup_kn_lock_live checks this first.
		return unix.ENODEV
	}
	defer dst.Release()
	if v.removed(dst, h.file) {
		return unix.ENODEV
	}
	nr, err := parsePid(data)
	if err != nil {
		return err
	}
	ns, err := v.callerOf(tid)
	if err != nil {
		return unix.ESRCH
	}
	thread := perThread(h.file)
	pid := int(tid)
	if nr != 0 {
		if pid, err = ns.ToHost(nr, true); err != nil {
			return unix.ESRCH
		}
	}
	if !thread {
		if pid, err = host.ThreadGroup(pid); err != nil {
			return unix.ESRCH
		}
	}
	move := func() error {
		if h.hier.isRoot(h.dir) {
			return v.moveToRoot(h, dst, pid, thread)
		}
		return v.moveTo(h, dst, pid, thread)
	}
	if h.hier.lent != nil {
		return h.hier.lent.move(h.hier, dst, pid, thread, move)
	}
	return move()
}

// removed reports that a directory was removed. In a nested view the kernel's caches find its files for another
// second, but not its path.
func (v *View) removed(d *host.Dir, file string) bool {
	if v.nested() {
		_, err := d.Path()
		return err != nil
	}
	var st unix.Stat_t
	return d.Lookup(file, &st) != nil
}

// moveTo moves a task of the guest into dst, the directory of the open.
func (v *View) moveTo(h *handle, dst *host.Dir, pid int, thread bool) error {
	fd, err := h.host()
	if err != nil {
		return err
	}
	n, err := v.moveBy(h, dst, fd, pid, thread)
	h.wrote(n)
	return err
}

// moveBy writes a task's number to fd, a membership file of dst.
func (v *View) moveBy(h *handle, dst *host.Dir, fd, pid int, thread bool) (int, error) {
	return h.hier.boundary.Move(dst, h.file, fd, pid, thread, func(t *host.Task) error {
		return v.mayMove(h, dst, pid, t)
	})
}

// mayMove repeats the kernel's check of the mover, which the server's credentials would always pass. v1
// (cgroup1_procs_write): root, or the task's own real or saved user. v2 (cgroup_attach_permissions): write
// permission on cgroup.procs of the common ancestor.
func (v *View) mayMove(h *handle, dst *host.Dir, pid int, t *host.Task) error {
	if h.opener.uid == 0 || h.opener.uid == v.owner.UID {
		return nil
	}
	if h.hier.v2() {
		return v.mayMoveUnder(h, dst, pid)
	}
	uid, suid, err := t.UIDs()
	if err != nil {
		return unix.ESRCH
	}
	if h.opener.uid != uid && h.opener.uid != suid {
		return refuse(unix.EACCES, "another user's task")
	}
	return nil
}

// mayMoveUnder checks write permission on cgroup.procs of the common ancestor of the task's cgroup and dst.
func (v *View) mayMoveUnder(h *handle, dst *host.Dir, pid int) error {
	from, err := h.hier.boundary.PathOf(pid)
	if err != nil {
		return unix.ENOENT
	}
	to, err := dst.Path()
	if err != nil {
		return unix.ENODEV
	}
	common := commonPath(from, to)
	d, err := h.hier.boundary.Root()
	if err != nil {
		return unix.ENODEV
	}
	for name := range strings.SplitSeq(common, "/") {
		if name == "" {
			continue
		}
		child, err := d.OpenDir(name)
		d.Release()
		if err != nil {
			return unix.ENOENT
		}
		d = child
	}
	defer d.Release()
	r := v.ownerOf(h.hier, d, "cgroup.procs", 0o644)
	if r.allows(h.opener, 0o2) {
		return nil
	}
	return refuse(unix.EACCES, "another user's cgroups")
}

// commonPath returns the longest path at or above both; paths start at the boundary, without a leading slash.
func commonPath(a, b string) string {
	as, bs := strings.Split(strings.Trim(a, "/"), "/"), strings.Split(strings.Trim(b, "/"), "/")
	n := 0
	for n < len(as) && n < len(bs) && as[n] == bs[n] {
		n++
	}
	return strings.Join(as[:n], "/")
}

// callerOf returns the pid namespace of a request's caller.
func (v *View) callerOf(tid uint32) (*host.PidNamespace, error) {
	if tid == 0 {
		// Not visible in the server's pid namespace.
		return nil, unix.ESRCH
	}
	return v.host.PidNamespaceOf(int(tid))
}
