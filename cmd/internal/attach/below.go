package attach

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Stack is the fate of the mounts that are at a place before a view is attached there. Programs that look for cgroups
// in mountinfo find the kernel's own mounts there; the paths that they open lead to the view.
type Stack int

const (
	StackNone Stack = iota // they go
	StackOwn               // the kernel's own mounts of the shown cgroups stay, read-only; without such a mount all go
	StackAll               // they stay, except the kernel's own mounts of cgroups that the view does not show
)

// OwnMounts are the cgroups whose mounts may stay below a view, by the view's directory that shows them; "" for the
// view itself.
type OwnMounts map[string]nodeID

type nodeID struct{ device, inode uint64 }

// OwnMountsOf returns the boundaries of a view, except closed ones. A mount that begins at any other cgroup is useless
// below the view: readers of mountinfo join its root with the path in /proc/self/cgroup, and the view lacks that path.
func OwnMountsOf(boundaries []*host.Boundary, layout hierarchy.Layout) OwnMounts {
	own := OwnMounts{}
	for _, b := range boundaries {
		if layout == hierarchy.LayoutV2 && b.Hierarchy().Version == hierarchy.V1 {
			// It lends controllers to the tree.
			continue
		}
		root, err := b.Root()
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = root.Stat(&st)
		root.Release()
		if err != nil {
			continue
		}
		dir := b.Hierarchy().Dir
		if layout == hierarchy.LayoutV2 {
			dir = ""
		}
		own[dir] = nodeID{st.Dev, st.Ino}
	}
	return own
}

// TreeOf returns the boundary whose mount a view lacks below: that of a v2 tree with the controllers of v1 hierarchies,
// since runtimes mount v1 hierarchies alone. nil for other views.
func TreeOf(boundaries []*host.Boundary, layout hierarchy.Layout) *host.Boundary {
	i := slices.IndexFunc(boundaries, func(b *host.Boundary) bool { return b.Hierarchy().Version == hierarchy.V2 })
	if layout != hierarchy.LayoutV2 || i < 0 || len(boundaries) == 1 {
		return nil
	}
	return boundaries[i]
}

// cloneTree makes the mount of Tree, read-only and attached nowhere; -1 for none. It is private, so that what is
// mounted on it in the guest is not mounted on the host's, too.
func (in Inside) cloneTree() int {
	if in.Tree == nil || in.Stack != StackOwn {
		return -1
	}
	root, err := in.Tree.Root()
	if err != nil {
		return -1
	}
	defer root.Release()
	fd, err := unix.OpenTree(root.FD(), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1
	}
	const safe = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	attr := unix.MountAttr{Attr_set: safe, Propagation: unix.MS_PRIVATE}
	if unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr) != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

// below is one of the kernel's cgroup mounts at a place or under it.
type below struct {
	fd    int // O_PATH, the mount's root
	own   bool
	shown bool // the view has a directory there
	goes  bool // useless below the view
}

// maxBelow exceeds the number of cgroup mounts that any runtime makes. A guest may have made any number.
const maxBelow = 64

var errNotTidy = errors.New("a mount of cgroups there cannot be taken away by itself")

// cgroups opens the kernel's cgroup mounts at the place and under it, and decides which ones go. If some mounts are of
// the view's own cgroups, all others go; else the ones without a directory in the view, which a reader of mountinfo
// could not find there. errNotTidy if there are too many mounts, or if the unmount would reach the host.
func (p *place) cgroups(now mounts, own OwnMounts) (all []below, err error) {
	table := now.table
	top := slices.IndexFunc(table, func(m *mountinfo.Info) bool { return m.ID == now.id })
	if top < 0 || !now.covered {
		return nil, nil
	}
	found := cgroupsUnder(table, table[top])
	for _, m := range found {
		if len(all) == maxBelow {
			return all, errNotTidy
		}
		dir := strings.Trim(strings.TrimPrefix(m.Mountpoint, table[top].Mountpoint), "/")
		b, err := p.openBelow(m, dir, own)
		if err != nil {
			return all, err
		}
		all = append(all, b)
	}
	useful := slices.ContainsFunc(all, func(b below) bool { return b.own })
	for i, m := range found {
		all[i].goes = m != table[top] && !all[i].own && (useful || !all[i].shown)
		if !all[i].goes {
			continue
		}
		if ours, err := p.reachesOurs(parentOf(table, m)); err != nil || ours {
			return all, errors.Join(err, errNotTidy)
		}
	}
	return all, nil
}

// cgroupsUnder returns the cgroup mounts among a mount and all mounts on it, directly or not.
func cgroupsUnder(table []*mountinfo.Info, top *mountinfo.Info) (all []*mountinfo.Info) {
	under := map[int]bool{top.ID: true}
	for grown := true; grown; {
		grown = false
		for _, m := range table {
			if under[m.Parent] && !under[m.ID] {
				under[m.ID], grown = true, true
			}
		}
	}
	for _, m := range table {
		if under[m.ID] && (m.FSType == "cgroup" || m.FSType == "cgroup2") {
			all = append(all, m)
		}
	}
	return all
}

func parentOf(table []*mountinfo.Info, m *mountinfo.Info) *mountinfo.Info {
	return table[slices.IndexFunc(table, func(p *mountinfo.Info) bool { return p.ID == m.Parent })]
}

// openBelow opens the root of a mount, at a path from the place.
func (p *place) openBelow(m *mountinfo.Info, dir string, own OwnMounts) (b below, err error) {
	path := dir
	if dir == "" {
		path = "."
	}
	b.fd, err = unix.Openat2(p.at, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_DIRECTORY,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return b, PathError("open", dir, err)
	}
	var st unix.Statx_t
	err = unix.Statx(b.fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_MNT_ID, &st)
	if err == nil && int(st.Mnt_id) != m.ID {
		// Another mount covers it.
		err = errNotTidy
	}
	if err != nil {
		unix.Close(b.fd)
		return b, fmt.Errorf("cannot look at the mount at %s: %w", m.Mountpoint, err)
	}
	want, shown := own[dir]
	b.shown = shown
	b.own = shown && want == nodeID{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	return b, nil
}

// tidy unmounts the mounts that go. With readOnly it makes the view's own ones read-only: when the guest loses the
// view, as at the end of the daemon, it must not write to the real cgroups with the rights of the host's root. The
// error names the first failure.
func (p *place) tidy(all []below, readOnly bool) error {
	for _, b := range all {
		var err error
		switch {
		case b.goes:
			err = p.unmountFD(b.fd)
		case readOnly && b.own:
			// Linux 5.12.
			err = unix.MountSetattr(b.fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unmountFD unmounts the mount with this root. The guest controls every path to it except the descriptor's own in the
// host's /proc.
func (p *place) unmountFD(fd int) error {
	if err := unix.Fchdir(p.fds); err != nil {
		return err
	}
	return unix.Unmount(strconv.Itoa(fd), unix.MNT_DETACH)
}
