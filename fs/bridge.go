package fs

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// bridge shows the one v2 tree of a host as several v1 hierarchies. Package translate has what stands for the control
// files; the bridge has the structure:
//
//   - A cgroup of the host is a directory in those hierarchies in which the guest made it. The cgroup lives until it is
//     removed from the last of them. A cgroup that the host made is in all.
//   - A task has one place on the host. In each hierarchy it is in the deepest directory there that is its place or
//     above it. A write to tasks or cgroup.procs moves it only if it is not there already, so of two moves to
//     different paths the last one wins.
//   - v2 allows no tasks beside enabled controllers. So each cgroup with children has a leaf for its own tasks, as the
//     boundary of every v2 view has (vroot.go), which no hierarchy shows.
//   - Controllers are enabled when the first child is made: then the child has all files that the hierarchies show.
type bridge struct {
	boundary    *host.Boundary   // immutable
	names       []string         // immutable: of the hierarchies
	hierarchies []*viewHierarchy // immutable once the view is made
	controllers []string         // immutable: the controllers of v2 behind them
	quota       quota            // of all hierarchies together, because their directories are the same cgroups

	// slot is held while the structure changes or a task moves: the directory of two hierarchies is one cgroup, but the
	// guest's kernel locks each by itself.
	slot chan struct{}

	changes changes
	links   linkCounts
}

func newBridge(b *host.Boundary, all []hierarchy.Hierarchy, q policy.Quota) *bridge {
	x := &bridge{boundary: b, quota: quota{bound: q, count: -1}, slot: make(chan struct{}, 1)}
	for _, h := range all {
		x.names = append(x.names, h.Dir)
		for _, c := range b.Hierarchy().Controllers {
			if slices.Contains(h.Controllers, hierarchy.LegacyNames(c)[0]) {
				x.controllers = append(x.controllers, c)
			}
		}
	}
	return x
}

// enter acquires the slot. A signal does not end the wait: mkdir, rmdir and moves have no EINTR.
func (b *bridge) enter() (leave func()) {
	b.slot <- struct{}{}
	return func() { <-b.slot }
}

// expect notes a change of the host that the guest's kernel needs no telling of, whichever hierarchy's watch reports
// it: of the hierarchy at hand it knows, and in the others nothing has changed.
func (b *bridge) expect(dir uint64, name string) (never func()) {
	for _, hier := range b.hierarchies {
		hier.expected.add(dir, name)
	}
	return func() {
		for _, hier := range b.hierarchies {
			hier.expected.remove(dir, name)
		}
	}
}

// removeLeaf removes the boundary's leaf if it is empty.
func (b *bridge) removeLeaf() {
	if root, err := b.boundary.Root(); err == nil {
		_ = root.Rmdir(hierarchy.LeafName)
		root.Release()
	}
}

// attrIn is an attribute of a cgroup that a guest made through a bridge: the hierarchies that it is or was in, each
// with its life there, as in "memory:1 pids:2-". '-' follows one that it was removed from. A life is part of the node
// ids, so that what is open of a removed directory is not of the one that was made in its place.
const attrIn = host.AttrIn

// stay is a cgroup's time in one hierarchy.
type stay struct {
	name string
	life uint64
	over bool
}

// maxStays bounds attrIn: maxHierarchies names of at most 63 bytes (MAX_CGROUP_ROOT_NAMELEN, linux/cgroup-defs.h).
const maxStays = 1 << 13

// staysOf reads attrIn. False for a cgroup of the host. A cgroup whose attribute cannot be read is in no hierarchy.
func staysOf(d *host.Dir) (all []stay, known bool) { return staysIn(d, attrIn) }

func staysIn(d *host.Dir, attr string) (all []stay, known bool) {
	return readStays(func(buf []byte) (int, error) { return d.Self().GetXattr(attr, buf) })
}

func readStays(get func(buf []byte) (int, error)) (all []stay, known bool) {
	buf := make([]byte, 256)
	n, err := get(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, maxStays)
		n, err = get(buf)
	}
	if err != nil {
		return nil, !errors.Is(err, unix.ENODATA)
	}
	for word := range strings.FieldsSeq(string(buf[:n])) {
		name, life, _ := strings.Cut(word, ":")
		s := stay{name: name}
		life, s.over = strings.CutSuffix(life, "-")
		if s.life, err = strconv.ParseUint(life, 10, lifeBits); err == nil {
			all = append(all, s)
		}
	}
	return all, true
}

// setStays writes attrIn.
func (v *View) setStays(d *host.Dir, kind attrKind, all []stay, again bool) error {
	return v.setAttrs(d.Self(), kind, again, attrChange{stored: attrIn, data: staysText(all)})
}

func staysText(all []stay) []byte {
	var words []string
	for _, s := range all {
		word := s.name + ":" + strconv.FormatUint(s.life, 10)
		if s.over {
			word += "-"
		}
		words = append(words, word)
	}
	return []byte(strings.Join(words, " "))
}

// lifeIn returns the life of a cgroup in a hierarchy. False if it is not there.
func (b *bridge) lifeIn(hier *viewHierarchy, d *host.Dir) (life uint64, there bool) {
	if d.IsBoundary() {
		return 0, true
	}
	all, known := staysOf(d)
	if !known {
		if unfinished(d) {
			return 0, false
		}
		// Finished since, or the host's, or removed: what is removed loses its attributes after that.
		if all, known = staysOf(d); !known {
			_, err := d.Path()
			return 0, err == nil
		}
	}
	i := slices.IndexFunc(all, func(s stay) bool { return s.name == hier.name })
	if i < 0 {
		return 0, false
	}
	return all[i].life, !all[i].over
}

// unfinished reports a cgroup that a server is making, or was making when it died.
func unfinished(d *host.Dir) bool {
	var st unix.Stat_t
	return d.Stat(&st) != nil || st.Mode == unix.S_IFDIR|makingMode
}

// children lists the directories of a hierarchy, or of no hierarchy but others of the bridge, directly below one; the
// leaf is in none. A guest can have thousands, so none is kept open.
func (b *bridge) children(hier *viewHierarchy, d *host.Dir, there bool) (all []string, err error) {
	var st unix.Stat_t
	if err := d.Stat(&st); err != nil || st.Nlink <= 2 {
		// The link count of kernfs includes subdirectories.
		return nil, err
	}
	entries, err := d.ReadDir()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir && e.Name != hierarchy.LeafName && b.shows(hier, d, e.Name) == there {
			all = append(all, e.Name)
		}
	}
	return all, nil
}

// shows reports that a hierarchy has a child of a directory, as lifeIn does.
func (b *bridge) shows(hier *viewHierarchy, d *host.Dir, name string) bool {
	get := func(buf []byte) (int, error) { return d.GetXattr(name, attrIn, buf) }
	all, known := readStays(get)
	if !known {
		var st, later unix.Stat_t
		if d.Lookup(name, &st) != nil || st.Mode == unix.S_IFDIR|makingMode {
			return false
		}
		if all, known = readStays(get); !known {
			return d.Lookup(name, &later) == nil && later.Ino == st.Ino
		}
	}
	return slices.ContainsFunc(all, func(s stay) bool { return s.name == hier.name && !s.over })
}

// children lists the directories directly below one that the hierarchy shows.
func (hier *viewHierarchy) children(d *host.Dir) (names []string, err error) {
	if hier.bridge != nil {
		return hier.bridge.children(hier, d, true)
	}
	entries, err := d.ReadDir()
	for _, e := range entries {
		if e.IsDir && !(d.IsBoundary() && e.Name == hierarchy.LeafName) {
			names = append(names, e.Name)
		}
	}
	return names, err
}

func releaseAll(dirs []*host.Dir) {
	for _, d := range dirs {
		d.Release()
	}
}

// there reports that what the open is of is still there.
func (h *handle) there() bool {
	d, err := h.acquire()
	if err != nil {
		return false
	}
	d.Release()
	return true
}

// rowOf finds what stands for a control file of a hierarchy. False also for a file of another hierarchy's controller.
func (hier *viewHierarchy) rowOf(file string) (*translate.Row, bool) {
	f, ok := hierarchy.Lookup(hier.version, file)
	if hier.lent != nil && !hier.lends(file) ||
		!ok || hier.lent == nil && f.Controller != "" && !slices.Contains(hier.controllers, f.Controller) {
		return nil, false
	}
	return translate.Lookup(hier.version, file)
}
