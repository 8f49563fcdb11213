package fs

import (
	"errors"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
)

// mkdirBridged is Mkdir in a directory of a bridge.
func (v *View) mkdirBridged(n node, d *host.Dir, name string, in *fuse.MkdirIn, out *fuse.EntryOut) fuse.Status {
	ch := v.begin("mkdir", &in.InHeader, func() (a, b, c uint64) { return 0, 0, 0 })
	if !ch.done {
		leave := n.hier.bridge.enter()
		ch.finish(v.makeBridged(n, d, name, in, ch))
		leave()
	}
	return v.answerMkdir(n, d, name, in, ch, out)
}

// makeBridged makes a directory: a new cgroup, or one more hierarchy for a cgroup that others have. Called with the
// slot held.
func (v *View) makeBridged(n node, d *host.Dir, name string, in *fuse.MkdirIn, ch *change) fuse.Status {
	hier := n.hier
	defer ch.made()
	if hier.has(d, name) && v.decide(hier, d.ID(), name).Verdict != hierarchy.Hidden {
		return errExists
	}
	if st := v.mayName(hier, d, name); !st.Ok() {
		v.deny(&in.InHeader, "mkdir", n, name, "reserved name")
		return st
	}
	own, entered, err := v.enterExisting(hier, d, name, in, ch)
	if entered || err != nil {
		return v.mkdirError(n, name, in, err)
	}
	if bound, st := hier.reserveCgroup(d, own); !st.Ok() {
		if st == errQuota {
			v.exceeded(&in.InHeader, "mkdir", n, name, bound)
		}
		return st
	}
	if err = v.makeCgroup(hier, d, name, in, own, ch); err != nil {
		hier.quotaOf().free()
	}
	if errors.Is(err, unix.EEXIST) {
		// There after all: made by the host meanwhile, or missed.
		if _, entered, again := v.enterExisting(hier, d, name, in, ch); entered {
			err = again
		}
	}
	return v.mkdirError(n, name, in, err)
}

// enterExisting adds the hierarchy to a cgroup that is there; entered is false without one. own: the previous server
// was making it for this request.
func (v *View) enterExisting(
	hier *viewHierarchy, d *host.Dir, name string, in *fuse.MkdirIn, ch *change,
) (own, entered bool, err error) {
	child, err := d.OpenDir(name)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return false, false, nil
	case err != nil:
		return false, false, err
	}
	defer child.Release()
	if _, known := staysOf(child); ch.again && !known && unfinished(child) {
		return true, false, nil
	}
	ch.entry.B = child.ID()
	return false, true, v.enterHierarchy(hier, d, child, name, in, ch)
}

// mkdirError turns the error of a mkdir into an errno, and reports one that exceeded the guest's budget.
func (v *View) mkdirError(n node, name string, in *fuse.MkdirIn, err error) fuse.Status {
	if isQuota(err) {
		v.exceeded(&in.InHeader, "mkdir", n, name, boundAttributes)
	}
	return status(err)
}

// makeCgroup makes a new cgroup, in one hierarchy. own: the previous server may have made it.
func (v *View) makeCgroup(
	hier *viewHierarchy, d *host.Dir, name string, in *fuse.MkdirIn, own bool, ch *change,
) error {
	if err := hier.bridge.prepare(hier, d); err != nil {
		return err
	}
	never := hier.bridge.expect(d.ID(), name)
	child, err := makeDir(d, name, own)
	if err != nil {
		never()
		return err
	}
	defer child.Release()
	failpoint("bridge-mkdir")
	ch.entry.B = child.ID()
	if err := v.firstStay(hier, d, child, in, own); err != nil {
		_ = v.removeCounted(d, name, func() error { return d.Rmdir(name) })
		return err
	}
	hier.linked(d, 1, 1, ch)
	return nil
}

// linked notes that a directory has more links, or less, on the host and in the hierarchy.
func (hier *viewHierarchy) linked(d *host.Dir, onHost, here int, ch *change) {
	if links := &hier.bridge.links; ch.again {
		// The previous server may have begun to.
		links.forget(d.ID())
	} else {
		links.add(hier, d.ID(), onHost, here)
	}
}

// firstStay stores the owner of a new cgroup, and its hierarchy.
func (v *View) firstStay(hier *viewHierarchy, d, child *host.Dir, in *fuse.MkdirIn, again bool) error {
	if err := v.own(hier, d, child, in, again); err != nil {
		return err
	}
	failpoint("bridge-owned")
	return v.setStays(child, viewsAttr, []stay{{name: hier.name, life: 1}}, again)
}

// enterHierarchy adds a hierarchy to a cgroup that is there. EEXIST if it has it already.
func (v *View) enterHierarchy(
	hier *viewHierarchy, d, child *host.Dir, name string, in *fuse.MkdirIn, ch *change,
) error {
	stays, known := staysOf(child)
	if _, there := hier.bridge.lifeIn(hier, child); there {
		if ch.again && known {
			// The previous server made it.
			return nil
		}
		return unix.EEXIST
	}
	life := uint64(1)
	if i := slices.IndexFunc(stays, func(s stay) bool { return s.name == hier.name }); i >= 0 {
		life = v.nextLife(hier, child, stays[i].life)
		stays = slices.Delete(stays, i, i+1)
	}
	// What a server that died in the middle has left.
	v.stripPart(child, hier.name)
	err := v.beginPart(hier, d, child, name, in, ch)
	if err == nil {
		failpoint("bridge-owned")
		err = v.setStays(child, viewsAttr, append(stays, stay{name: hier.name, life: life}), ch.again)
	}
	if err != nil {
		v.stripPart(child, hier.name)
		return err
	}
	hier.linked(d, 0, 1, ch)
	return nil
}

// nextLife returns the life after one, and passes over those that an open is still of.
func (v *View) nextLife(hier *viewHierarchy, d *host.Dir, life uint64) uint64 {
	for range lives - 1 {
		life = life%(lives-1) + 1
		if !v.handles.uses(node{hier: hier, dir: d.ID(), life: life}) {
			break
		}
	}
	return life
}

// beginPart stores the owner of a hierarchy's part of a cgroup, and sets its counters to 0.
func (v *View) beginPart(hier *viewHierarchy, d, child *host.Dir, name string, in *fuse.MkdirIn, ch *change) error {
	if err := v.own(hier, d, child, in, ch.again); err != nil {
		return err
	}
	c, done := v.cgroupOf(hier, child, nil, ch.again)
	defer done()
	for _, controller := range hier.controllers {
		if err := translate.Begin(c, controller); err != nil {
			return err
		}
	}
	return nil
}

// prepare enables the controllers of the bridge for the children of a cgroup, and moves its own tasks to its leaf
// before. Only those of the hierarchy at hand must be enabled: the files of others are not there otherwise. Called with
// the slot held.
func (b *bridge) prepare(hier *viewHierarchy, d *host.Dir) error {
	for tries := 0; ; tries++ {
		missing, err := b.missing(d)
		if err != nil || len(missing) == 0 {
			return err
		}
		if err := vacateTo(d); err != nil {
			return err
		}
		failpoint("bridge-vacated")
		busy := false
		for _, c := range missing {
			err := d.WriteFile("cgroup.subtree_control", []byte("+"+c))
			switch {
			case err == nil:
			case errors.Is(err, unix.EBUSY) && tries < evacuations:
				busy = true
			case slices.Contains(hier.controllers, hierarchy.LegacyNames(c)[0]):
				return err
			}
		}
		failpoint("bridge-enabled")
		if !busy {
			return nil
		}
	}
}

// missing returns the controllers of the bridge that a cgroup has and that are not enabled for its children.
func (b *bridge) missing(d *host.Dir) (all []string, err error) {
	available, err := d.ReadFile("cgroup.controllers")
	if err != nil {
		return nil, err
	}
	enabled, err := d.ReadFile("cgroup.subtree_control")
	if err != nil {
		return nil, err
	}
	on := strings.Fields(string(enabled))
	for c := range strings.FieldsSeq(string(available)) {
		if slices.Contains(b.controllers, c) && !slices.Contains(on, c) {
			all = append(all, c)
		}
	}
	return all, nil
}

// vacateTo moves the tasks of a cgroup to its leaf.
func vacateTo(d *host.Dir) error {
	raw, err := d.ReadFile("cgroup.procs")
	if err != nil || len(raw) == 0 {
		return err
	}
	leaf, err := leafOf(d)
	if err != nil {
		return err
	}
	defer leaf.Release()
	return moveAll(d, leaf)
}

// leafOf opens the leaf of a cgroup, and makes a missing one.
func leafOf(d *host.Dir) (*host.Dir, error) {
	leaf, err := d.Mkdir(hierarchy.LeafName, madeMode)
	if errors.Is(err, unix.EEXIST) {
		return d.OpenDir(hierarchy.LeafName)
	}
	return leaf, err
}

// rmdirBridged is Rmdir in a directory of a bridge.
func (v *View) rmdirBridged(n node, d *host.Dir, name string, in *fuse.InHeader) fuse.Status {
	ch := v.begin("rmdir", in, func() (a, b, c uint64) {
		child, st := n.hier.child(d, name)
		if !st.Ok() {
			return n.dir, 0, 0
		}
		defer child.Release()
		return n.dir, child.ID(), 0
	})
	for !ch.done {
		leave := n.hier.bridge.enter()
		ended := v.rmdirOnce(n, d, name, ch)
		leave()
		if ended == nil {
			break
		}
		<-ended
	}
	return ch.outcome()
}

// rmdirOnce finishes an rmdir, or returns the end of changes that it must wait for. Called with the slot held.
func (v *View) rmdirOnce(n node, d *host.Dir, name string, ch *change) (ended <-chan struct{}) {
	child, st := n.hier.child(d, name)
	if st.Ok() {
		defer child.Release()
	}
	if ch.again && ch.entry.B != 0 && (!st.Ok() || child.ID() != ch.entry.B) {
		// The previous server removed it.
		ch.finish(fuse.OK)
		return nil
	}
	if !st.Ok() {
		ch.finish(st)
		return nil
	}
	open, ended := n.hier.bridge.changes.close(changed{n.hier, child.ID()})
	if ended != nil {
		return ended
	}
	defer open()
	ch.finish(v.removeBridged(n.hier, d, child, name, ch))
	return nil
}

// child opens a child that is in the hierarchy. ENOENT without one.
func (hier *viewHierarchy) child(d *host.Dir, name string) (*host.Dir, fuse.Status) {
	if name == hierarchy.LeafName {
		return nil, fuse.ENOENT
	}
	child, err := d.OpenDir(name)
	if err != nil {
		return nil, status(err)
	}
	if _, there := hier.bridge.lifeIn(hier, child); !there {
		child.Release()
		return nil, fuse.ENOENT
	}
	return child, fuse.OK
}

// removeBridged removes a directory from its hierarchy, and the cgroup with it if no other has it. EBUSY with tasks, or
// children in the hierarchy. Called with the slot held.
func (v *View) removeBridged(hier *viewHierarchy, d, child *host.Dir, name string, ch *change) fuse.Status {
	defer ch.made()
	b := hier.bridge
	below, err := b.children(hier, child, true)
	if err != nil {
		return status(err)
	}
	if len(below) > 0 || populated(child) {
		return errBusy
	}
	stays, known := staysOf(child)
	if !known {
		for _, one := range b.names {
			stays = append(stays, stay{name: one})
		}
	}
	i := slices.IndexFunc(stays, func(s stay) bool { return s.name == hier.name })
	stays[i].over = true
	if slices.ContainsFunc(stays, func(s stay) bool { return !s.over }) {
		err := v.leaveHierarchy(hier, child, stays, ch.again)
		if err == nil {
			hier.linked(d, 0, -1, ch)
		}
		return status(err)
	}
	if err := child.Rmdir(hierarchy.LeafName); err != nil && !errors.Is(err, unix.ENOENT) {
		return status(err)
	}
	failpoint("bridge-rmdir")
	never := b.expect(d.ID(), name)
	if err := v.removeCounted(d, name, func() error { return d.Rmdir(name) }); err != nil {
		never()
		return status(err)
	}
	hier.quotaOf().free()
	hier.linked(d, -1, -1, ch)
	return fuse.OK
}

// leaveHierarchy undoes what the directory of one hierarchy set in a cgroup that others have.
func (v *View) leaveHierarchy(hier *viewHierarchy, child *host.Dir, stays []stay, again bool) error {
	found, err := child.ReadDir()
	if err != nil {
		return err
	}
	var files []string
	for _, e := range found {
		if !e.IsDir {
			files = append(files, e.Name)
		}
	}
	c, done := v.cgroupOf(hier, child, nil, again)
	defer done()
	// What a new cgroup has is no policy's to forbid.
	c.free = true
	for _, controller := range hier.controllers {
		if err := translate.Reset(c, controller, files); err != nil {
			return err
		}
	}
	failpoint("bridge-reset")
	v.stripPart(child, hier.name)
	return v.setStays(child, endsAttr, stays, again)
}

// populated reports tasks in a cgroup or below it.
func populated(d *host.Dir) bool {
	raw, err := d.ReadFile("cgroup.events")
	return err == nil && strings.Contains(string(raw), "populated 1")
}
