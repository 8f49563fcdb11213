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

// Stack says what becomes of what is mounted at a place where a view is attached. Programs that look for cgroups in
// mountinfo find the kernel's own mounts there; what they open by path is the view's.
type Stack int

const (
	StackNone Stack = iota // it goes
	StackOwn               // the kernel's own mounts of what is shown stay, read-only; without such a mount it goes
	StackAll               // it stays, but for the kernel's own mounts of what the view does not show
)

// OwnMounts are the cgroups whose mounts may stay below a view, by the directory of the view that shows them; "" for
// the view itself.
type OwnMounts map[string]nodeID

type nodeID struct{ device, inode uint64 }

// OwnMountsOf are the boundaries of a view, less those that are closed. A mount that begins at any other cgroup is of no
// use below it: readers of mountinfo join its root with the path in /proc/self/cgroup, and find nothing there in the view.
func OwnMountsOf(boundaries []*host.Boundary, layout hierarchy.Layout) OwnMounts {
	own := OwnMounts{}
	for _, b := range boundaries {
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

// below is a mount of the kernel's cgroups at a place or under it.
type below struct {
	fd    int // O_PATH, its root
	own   bool
	shown bool // the view has a directory there
	goes  bool // it is of no use below the view
}

// maxBelow is more mounts of cgroups than any runtime makes: a guest may have made any number.
const maxBelow = 64

var errNotTidy = errors.New("a mount of cgroups there cannot be taken away by itself")

// cgroups opens the kernel's cgroup mounts at the place and under it, and says which are to go: where some are the view's own all others,
// else those that the view has no directory for, which a program that reads mountinfo would not find. The error says that not all can
// be dealt with.
func (p *place) cgroups(own OwnMounts) (all []below, err error) {
	id, covered, table, err := p.mount()
	if err != nil || !covered {
		return nil, err
	}
	top := slices.IndexFunc(table, func(m *mountinfo.Info) bool { return m.ID == id })
	if top < 0 {
		return nil, nil
	}
	mounts := cgroupsUnder(table, table[top])
	for _, m := range mounts {
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
	for i, m := range mounts {
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

// cgroupsUnder are the cgroup mounts among a mount and those on it, or on one of them.
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
	if err == nil && int(st.Mnt_id) != m.ID { // something is mounted over it
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

// tidy takes away those of some mounts that are to go. The view's own it makes read-only where that is asked for: whoever loses the view,
// as when the daemon stops, is not to write to the real cgroups with the rights of the host's root. The error says that not all
// can be taken away.
func (p *place) tidy(all []below, readOnly bool) error {
	for _, b := range all {
		var err error
		switch {
		case b.goes:
			err = p.unmountFD(b.fd)
		case readOnly && b.own: // Linux 5.12
			err = unix.MountSetattr(b.fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unmountFD unmounts what a descriptor is the root of. There is no path that could be trusted, but the descriptor's
// own in the host's /proc.
func (p *place) unmountFD(fd int) error {
	if err := unix.Fchdir(p.fds); err != nil {
		return err
	}
	return unix.Unmount(strconv.Itoa(fd), unix.MNT_DETACH)
}
