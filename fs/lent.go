package fs

import (
	"errors"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// lent are controllers that the host has in v1 hierarchies and the guest finds in its v2 tree. The tree itself, its
// membership, events, pressure, freezing and killing are those of the host's own v2 hierarchy, so the kernel notifies
// of them, and /proc/<pid>/cgroup has the guest's paths. Each v1 hierarchy has the same directories (a part): mkdir,
// rmdir and moves are done there, too. Package translate has what stands for the control files.
//
// Which controllers are enabled for a cgroup's children the kernel does not know: an attribute keeps it
// (attrSubtree), and the view keeps the kernel's rule that a cgroup other than the root has no tasks beside enabled
// controllers, but for those that can have threads apart (hierarchy.ThreadedController).
type lent struct {
	parts       []*part
	controllers []string // as v2 has them, in the kernel's order

	// slot is held while a task moves, a directory is made or removed, or controllers change, so that all hierarchies
	// agree.
	slot chan struct{}

	changes changes
	ooms    oomWatches

	above memo[uint64] // the directory above: a cgroup of v2 is never moved
	stays memo[[]stay] // attrSubtree
}

// part is a v1 hierarchy that lends controllers.
type part struct {
	boundary    *host.Boundary
	controllers []string // as v2 has them

	ids memo[uint64] // by the id in the v2 tree
}

// newLent finds the controllers that v1 boundaries lend to a v2 hierarchy; nil for none.
func newLent(boundaries []*host.Boundary, to *viewHierarchy, p *policy.Policy) *lent {
	l := &lent{slot: make(chan struct{}, 1)}
	for _, b := range boundaries {
		has := slices.DeleteFunc(b.Hierarchy().Lends(), func(c string) bool {
			return !p.Permits(c) || slices.Contains(to.boundary.Hierarchy().Controllers, c)
		})
		if len(has) > 0 {
			l.parts = append(l.parts, &part{boundary: b, controllers: has})
			l.controllers = append(l.controllers, has...)
		}
	}
	if len(l.parts) == 0 {
		return nil
	}
	slices.SortFunc(l.controllers, hierarchy.CompareUnified)
	return l
}

// lends reports that a control file belongs to a controller that is lent.
func (hier *viewHierarchy) lends(file string) bool {
	if hier.lent == nil || file == "" {
		return false
	}
	f, ok := hierarchy.Lookup(hierarchy.V2, file)
	return ok && slices.Contains(hier.lent.controllers, f.Controller) || hier.lent.counts(file)
}

// counts reports a file that every cgroup of v2 has, and in which the kernel tells what a cpu controller did.
func (l *lent) counts(file string) bool {
	return (file == "cpu.stat" || file == "cpu.stat.local") && slices.Contains(l.controllers, "cpu")
}

// readCounts returns the content of such a file: the host's, and with the cpu controller enabled what its quota did.
func (l *lent) readCounts(c bridged, h *handle, d *host.Dir) ([]byte, error) {
	raw, err := d.ReadFile(h.file)
	if err != nil {
		return nil, err
	}
	if _, enabled := l.lifeIn(d, "cpu.max"); !enabled {
		return raw, nil
	}
	if h.file == "cpu.stat.local" {
		return h.row.Read(c, h.file)
	}
	more, err := translate.Throttled(c)
	if err != nil {
		// The host made the cgroup in the v2 tree alone.
		return raw, nil
	}
	return append(raw, more...), nil
}

// partWith returns the part that has a control file of v1, or nil.
func (l *lent) partWith(file string) *part {
	f, _ := hierarchy.Lookup(hierarchy.V1, file)
	i := slices.IndexFunc(l.parts, func(p *part) bool { return p.boundary.Hierarchy().Holds(f.Controller) })
	if i < 0 {
		return nil
	}
	return l.parts[i]
}

// pathOf returns the path of a directory from the boundary. The leaf's tasks are the boundary's.
func pathOf(d *host.Dir) (string, error) {
	rel, err := d.Path()
	if rel == hierarchy.LeafName {
		rel = ""
	}
	return rel, err
}

// at opens the directory of a part that belongs to one of the v2 tree. ENOENT for a cgroup that the host made there
// alone.
func (p *part) at(d *host.Dir) (*host.Dir, error) {
	if d.IsBoundary() {
		return p.boundary.Root()
	}
	id, err := p.idOf(d)
	if err != nil {
		return nil, err
	}
	found, err := p.boundary.Acquire(id)
	var st unix.Stat_t
	if err == nil && found.Lookup("tasks", &st) == nil {
		return found, nil
	} else if err == nil {
		found.Release()
	}
	// The host has removed it, and may have made another in its place.
	p.ids.forget(d.ID())
	if id, err = p.idOf(d); err != nil {
		return nil, err
	}
	return p.boundary.Acquire(id)
}

// idOf returns the kernfs id of what at opens.
func (p *part) idOf(d *host.Dir) (uint64, error) {
	return p.ids.get(d.ID(), func() (uint64, error) {
		rel, err := pathOf(d)
		if err != nil {
			return 0, err
		}
		found, err := p.boundary.At(rel)
		if err != nil {
			return 0, err
		}
		defer found.Release()
		return found.ID(), nil
	})
}

// nearest is at, or the nearest directory above.
func (p *part) nearest(d *host.Dir) (*host.Dir, error) {
	rel, err := pathOf(d)
	for err == nil {
		var found *host.Dir
		if found, err = p.boundary.At(rel); err == nil || !errors.Is(err, unix.ENOENT) || rel == "" {
			return found, err
		}
		rel, err = strings.Trim(path.Dir("/"+rel), "/"), nil
	}
	return nil, err
}

// attrSubtree is an attribute of a cgroup: the lent controllers that are or were enabled for its children, as attrIn
// has hierarchies. A controller's life is that of its files in the children.
const attrSubtree = "subtree"

// enabledFor returns the lent controllers of a directory, each with its life.
func (l *lent) enabledFor(d *host.Dir) (all []stay, err error) {
	if d.IsBoundary() {
		for _, c := range l.controllers {
			all = append(all, stay{name: c})
		}
		return all, nil
	}
	above, err := l.above.get(d.ID(), func() (uint64, error) {
		up, err := d.Parent()
		if err != nil {
			return 0, err
		}
		defer up.Release()
		return up.ID(), nil
	})
	if err != nil {
		return nil, err
	}
	if all, err = l.subtreeOf(d.Boundary(), above); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(s stay) bool { return s.over }), nil
}

// subtreeOf reads attrSubtree of a directory.
func (l *lent) subtreeOf(b *host.Boundary, id uint64) ([]stay, error) {
	return l.stays.get(id, func() ([]stay, error) {
		d, err := b.Acquire(id)
		if err != nil {
			return nil, err
		}
		defer d.Release()
		all, _ := staysIn(d, attrSubtree)
		return all, nil
	})
}

// lifeIn returns the life of a control file in a directory. False if its controller is not enabled there.
func (l *lent) lifeIn(d *host.Dir, file string) (life uint64, there bool) {
	if l.counts(file) {
		return 0, true
	}
	f, _ := hierarchy.Lookup(hierarchy.V2, file)
	all, err := l.enabledFor(d)
	i := slices.IndexFunc(all, func(s stay) bool { return s.name == f.Controller })
	if err != nil || i < 0 {
		return 0, false
	}
	return all[i].life, true
}

// markersV1 are files of v1 that tell whether a controller is there.
var markersV1 = map[string]string{"memory": "memory.limit_in_bytes", "cpuset": "cpuset.cpus", "cpu": "cpu.shares"}

// has reports that a directory has a control file of a lent controller.
func (l *lent) has(hier *viewHierarchy, d *host.Dir, file string) bool {
	row, ok := hier.rowOf(file)
	var st unix.Stat_t
	if !ok || l.counts(file) {
		return ok && d.Lookup(file, &st) == nil
	}
	if _, there := l.lifeIn(d, file); !there {
		return false
	}
	f, _ := hierarchy.Lookup(hierarchy.V2, file)
	behind := row.HostFile(file)
	if behind == "" {
		behind = markersV1[f.Controller]
	}
	p := l.partWith(behind)
	if p == nil {
		return false
	}
	at, err := p.at(d)
	if err != nil {
		return false
	}
	defer at.Release()
	return at.Lookup(behind, &st) == nil
}

// listLent returns the entries of the lent controllers' files in a directory.
func (v *View) listLent(hier *viewHierarchy, d *host.Dir) (out []dirEntry) {
	enabled, err := hier.lent.enabledFor(d)
	if err != nil || len(enabled) == 0 {
		return nil
	}
	there := hier.lent.files(d)
	for _, row := range translate.Rows() {
		f, _ := hierarchy.Lookup(row.Version, row.Name)
		if row.Version != hierarchy.V2 || row.Absent != "" ||
			!slices.ContainsFunc(enabled, func(s stay) bool { return s.name == f.Controller }) {
			continue
		}
		for _, name := range shownBy(row, f, there) {
			if v.decide(hier, d.ID(), name).Verdict != hierarchy.Hidden {
				n := node{hier: hier, dir: d.ID(), file: name}
				out = append(out, dirEntry{name: name, ino: n.inode(), mode: unix.S_IFREG})
			}
		}
	}
	return out
}

// shownBy returns the control files of a row that stand on files of the host.
func shownBy(row translate.Row, f hierarchy.ControlFile, there []string) (names []string) {
	if !row.Many() {
		behind := row.Host
		if behind == "" {
			behind = markersV1[f.Controller]
		}
		if slices.Contains(there, behind) {
			return []string{row.Name}
		}
		return nil
	}
	for _, file := range there {
		if name, ok := row.Shown(file); ok {
			names = append(names, name)
		}
	}
	return names
}

// files lists the control files of all parts of a directory.
func (l *lent) files(d *host.Dir) (names []string) {
	for _, p := range l.parts {
		at, err := p.at(d)
		if err != nil {
			continue
		}
		entries, err := at.ReadDir()
		at.Release()
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !e.IsDir {
				names = append(names, e.Name)
			}
		}
	}
	return names
}

// children lists the directories directly below one by their ids, without the leaf. There can be thousands, so they are
// opened one at a time.
func (l *lent) children(d *host.Dir) (ids []uint64, err error) {
	entries, err := d.ReadDir()
	for _, e := range entries {
		if e.IsDir && !(d.IsBoundary() && e.Name == hierarchy.LeafName) {
			ids = append(ids, e.ID)
		}
	}
	return ids, err
}

// list adds the lent controllers to those of cgroup.controllers or cgroup.subtree_control.
func (l *lent) list(h *handle, kept []string) ([]string, error) {
	d, err := h.acquire()
	if err != nil {
		return nil, unix.ENODEV
	}
	defer d.Release()
	var all []stay
	if h.file == subtreeFile {
		all, _ = l.subtreeOf(d.Boundary(), d.ID())
	} else if all, err = l.enabledFor(d); err != nil {
		return nil, unix.ENODEV
	}
	for _, s := range all {
		if !s.over && slices.Contains(l.controllers, s.name) {
			kept = append(kept, s.name)
		}
	}
	slices.SortFunc(kept, hierarchy.CompareUnified)
	return kept, nil
}

// hold acquires the slot. A signal does not end the wait: neither mkdir, rmdir and moves nor a write to
// cgroup.subtree_control has an EINTR. A nil lent has nothing to hold.
func (l *lent) hold() (leave func()) {
	if l == nil {
		return func() {}
	}
	l.slot <- struct{}{}
	return func() { <-l.slot }
}

// delegateLent carries out a write to cgroup.subtree_control where controllers are lent: the words for those by
// itself, and the others by own. It refuses as the kernel does: ENOENT for a controller that the cgroup does not
// have, EBUSY with tasks in a cgroup other than the root, or for one that a child has enabled. Done again it changes
// nothing more.
func (v *View) delegateLent(
	cancel <-chan struct{}, h *handle, d *host.Dir, words []string, own func(words []string) error,
) error {
	l := h.hier.lent
	var ours, others []string
	for _, word := range words {
		if slices.Contains(l.controllers, word[1:]) {
			ours = append(ours, word)
		} else {
			others = append(others, word)
		}
	}
	defer l.hold()()
	if err := l.mayChange(d, ours); err != nil {
		return err
	}
	if len(others) > 0 {
		if err := own(others); err != nil {
			return err
		}
	}
	return v.enableLent(cancel, h.hier, d, ours)
}

// enableLent enables and disables lent controllers for the children of a cgroup. Called with the slot held.
func (v *View) enableLent(cancel <-chan struct{}, hier *viewHierarchy, d *host.Dir, ours []string) error {
	children, err := hier.lent.children(d)
	if err != nil {
		return err
	}
	all, _ := staysIn(d, attrSubtree)
	if disabled(ours) != nil {
		// A late write would set what the controller has when it is enabled again.
		for _, child := range children {
			defer hier.lent.changes.wait(changed{hier, child})()
		}
	}
	for _, word := range ours {
		i := slices.IndexFunc(all, func(s stay) bool { return s.name == word[1:] })
		switch {
		case word[0] == '+' && i < 0:
			all = append(all, stay{name: word[1:], life: 1})
		case word[0] == '+' && all[i].over:
			all[i].over, all[i].life = false, all[i].life%(lives-1)+1
		case word[0] == '-' && i >= 0 && !all[i].over:
			for _, child := range children {
				if err := v.resetLent(cancel, hier, child, word[1:]); err != nil {
					return err
				}
			}
			all[i].over = true
		}
	}
	failpoint("lent-subtree")
	kind := viewsAttr
	if len(disabled(ours)) == len(ours) {
		kind = endsAttr
	}
	if err := v.setSubtree(d, all, kind); err != nil {
		hier.lent.stays.forget(d.ID())
		return err
	}
	hier.lent.stays.set(d.ID(), all)
	v.forget(cancel, hier, d.ID(), v.invalidateFiles)
	return nil
}

// mayChange checks the words that delegateLent is to carry out.
func (l *lent) mayChange(d *host.Dir, words []string) error {
	available, err := l.enabledFor(d)
	if err != nil {
		return unix.ENODEV
	}
	enables := false
	for _, word := range words {
		has := slices.ContainsFunc(available, func(s stay) bool { return s.name == word[1:] })
		if word[0] == '+' && !has {
			return unix.ENOENT
		}
		enables = enables || word[0] == '+' && !hierarchy.ThreadedController(word[1:])
	}
	children, err := l.children(d)
	if err != nil {
		return err
	}
	for _, child := range children {
		enabled, err := l.subtreeOf(d.Boundary(), child)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		for _, s := range enabled {
			if !s.over && slices.Contains(words, "-"+s.name) {
				return unix.EBUSY
			}
		}
	}
	if procs, err := d.ReadFile("cgroup.procs"); enables && !d.IsBoundary() && err == nil && len(procs) > 0 {
		return unix.EBUSY
	}
	return nil
}

// setSubtree writes attrSubtree. The boundary's is the view's, and no part of the guest's budget.
func (v *View) setSubtree(d *host.Dir, all []stay, kind attrKind) error {
	if d.IsBoundary() {
		return d.Self().SetXattr(attrSubtree, staysText(all), 0)
	}
	return v.setAttrs(d.Self(), kind, true, attrChange{stored: attrSubtree, data: staysText(all)})
}

// resetLent gives a cgroup the standard settings of a controller that it loses. Owners and attributes of its files go
// with them.
func (v *View) resetLent(cancel <-chan struct{}, hier *viewHierarchy, id uint64, controller string) error {
	d, err := hier.boundary.Acquire(id)
	if errors.Is(err, unix.ENOENT) {
		// The host has removed it.
		return nil
	} else if err != nil {
		return err
	}
	defer d.Release()
	c, done := v.cgroupOf(hier, d, cancel, true)
	defer done()
	c.free = true
	var files []string
	there := hier.lent.files(d)
	for _, row := range translate.Rows() {
		f, _ := hierarchy.Lookup(row.Version, row.Name)
		if row.Version == hierarchy.V2 && f.Controller == controller && row.Absent == "" {
			files = append(files, shownBy(row, f, there)...)
		}
	}
	if err := translate.ResetShown(c, controller, files); err != nil {
		return err
	}
	v.stripShown(d, files)
	return nil
}

// mkdir makes a directory in all parts. What an earlier one of the name has left goes first. Called with the slot held.
func (l *lent) mkdir(d *host.Dir, name string) (err error) {
	for _, p := range l.parts {
		above, err := p.at(d)
		if errors.Is(err, unix.ENOENT) {
			// The host made the cgroup above in the v2 tree alone.
			continue
		}
		if err == nil {
			err = p.make(d.Boundary(), above, name)
			above.Release()
		}
		if err != nil {
			l.rmdir(d, name)
			return err
		}
		failpoint("lent-mkdir")
	}
	return nil
}

// make makes a directory of a part. A new cpuset gets its parent's processors and nodes: without it can hold no task.
func (p *part) make(tree *host.Boundary, above *host.Dir, name string) error {
	child, err := above.Mkdir(name, madeMode)
	if errors.Is(err, unix.EEXIST) && p.clear(tree, above, name) == nil {
		child, err = above.Mkdir(name, madeMode)
	}
	if errors.Is(err, unix.EEXIST) {
		child, err = above.OpenDir(name)
	}
	if err != nil {
		return err
	}
	defer child.Release()
	if !slices.Contains(p.controllers, "cpuset") {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := above.ReadFile(file)
		if err == nil {
			err = child.WriteFile(file, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rmdir removes a directory that the v2 tree no longer has from all parts. Called with the slot held.
func (l *lent) rmdir(d *host.Dir, name string) {
	if l == nil {
		return
	}
	for _, p := range l.parts {
		above, err := p.at(d)
		if err != nil {
			continue
		}
		_ = p.clear(d.Boundary(), above, name)
		above.Release()
		failpoint("lent-rmdir")
	}
}

// endRmdir is rmdir for one that the previous server began, unless there is another of the name by now.
func (l *lent) endRmdir(d *host.Dir, name string) {
	defer l.hold()()
	var st unix.Stat_t
	if d.Lookup(name, &st) != nil {
		l.rmdir(d, name)
	}
}
