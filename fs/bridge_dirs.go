package fs

import (
	"cmp"
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
func (v *View) mkdirBridged(
	cancel <-chan struct{}, n node, d *host.Dir, name string, in *fuse.MkdirIn, out *fuse.EntryOut,
) fuse.Status {
	ch := v.begin("mkdir", &in.InHeader, func() (a, b, c uint64) { return 0, 0, 0 })
	if !ch.done {
		leave, err := n.hier.bridge.enter(cancel)
		if err != nil {
			return ch.finish(status(err))
		}
		ch.finish(v.makeBridged(cancel, n, d, name, in, ch))
		leave()
	}
	if st := ch.outcome(); !st.Ok() {
		return st
	}
	if err := setMadeMode(d, name); err != nil {
		v.log.WithError(err).Warnf("cannot give a new cgroup its mode")
	}
	if st := v.lookup(n.hier, d, name, in.Pid, out); st.Ok() {
		return st
	}
	// Removed by the host since.
	out.NodeId = v.dirNode(n.hier, cmp.Or(ch.entry.B, goneDir))
	v.fillRemoved(node{hier: n.hier, dir: ch.entry.B}, &out.Attr)
	return fuse.OK
}

// makeBridged makes a directory: a new cgroup, or one more hierarchy for a cgroup that others have. Called with the
// slot held.
func (v *View) makeBridged(
	cancel <-chan struct{}, n node, d *host.Dir, name string, in *fuse.MkdirIn, ch *change,
) fuse.Status {
	hier, b := n.hier, n.hier.bridge
	defer ch.made()
	if hier.has(d, name) && v.decide(hier, d.ID(), name).Verdict != hierarchy.Hidden {
		return errExists
	}
	if st := v.mayName(hier, d, name); !st.Ok() {
		v.deny(&in.InHeader, "mkdir", n, name, "reserved name")
		return st
	}
	var st unix.Stat_t
	found := d.Lookup(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	own := found && st.Mode == unix.S_IFDIR|makingMode && ch.again
	if found && !own {
		return v.enterHierarchy(hier, d, name, in, ch)
	}
	if bound, st := hier.reserveCgroup(d, own); !st.Ok() {
		if st == errQuota {
			v.exceeded(&in.InHeader, "mkdir", n, name, bound)
		}
		return st
	}
	err := b.prepare(cancel, hier, d)
	if err == nil {
		hier.expected.add(d.ID(), name)
		err = d.Mkdir(name, makingMode)
		if own && status(err) == errExists {
			err = nil
		}
	}
	if err != nil {
		hier.quotaOf().free()
		return status(err)
	}
	failpoint("bridge-mkdir")
	if err = d.Lookup(name, &st); err == nil {
		ch.entry.B = st.Ino
		err = v.firstStay(hier, d, name, in, own)
	}
	if err != nil {
		_ = v.removeCounted(d, name, func() error { return d.Rmdir(name) })
		hier.quotaOf().free()
		if isQuota(err) {
			v.exceeded(&in.InHeader, "mkdir", n, name, boundAttributes)
		}
		return status(err)
	}
	return fuse.OK
}

// firstStay stores the owner of a new cgroup, and its hierarchy.
func (v *View) firstStay(hier *viewHierarchy, d *host.Dir, name string, in *fuse.MkdirIn, again bool) error {
	if err := v.own(hier, d, name, in, again); err != nil {
		return err
	}
	child, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	defer child.Release()
	return v.setStays(child, []stay{{name: hier.name, life: 1}}, again)
}

// enterHierarchy adds a hierarchy to a cgroup. EEXIST if it is there.
func (v *View) enterHierarchy(
	hier *viewHierarchy, d *host.Dir, name string, in *fuse.MkdirIn, ch *change,
) fuse.Status {
	child, err := d.OpenDir(name)
	if err != nil {
		return status(err)
	}
	defer child.Release()
	if _, there := hier.bridge.lifeIn(hier, child); there {
		if ch.again {
			// The previous server made it.
			return fuse.OK
		}
		return errExists
	}
	ch.entry.B = child.ID()
	stays, _ := staysOf(child)
	life := uint64(1)
	i := slices.IndexFunc(stays, func(s stay) bool { return s.name == hier.name })
	if i >= 0 {
		life = stays[i].life%(lives-1) + 1
		stays = slices.Delete(stays, i, i+1)
	}
	if err := v.own(hier, d, name, in, ch.again); err != nil {
		return status(err)
	}
	c, done := v.cgroupOf(hier, child, nil, ch.again)
	defer done()
	for _, controller := range hier.controllers {
		if err := translate.Begin(c, controller); err != nil {
			return status(err)
		}
	}
	return status(v.setStays(child, append(stays, stay{name: hier.name, life: life}), ch.again))
}

// prepare enables the controllers of the bridge for the children of a cgroup, and moves its own tasks to its leaf before.
// Only those of the hierarchy at hand must be enabled: the files of others are not there otherwise. Called with the slot
// held.
func (b *bridge) prepare(cancel <-chan struct{}, hier *viewHierarchy, d *host.Dir) error {
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
		select {
		case <-cancel:
			return unix.EINTR
		default:
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
	if err := d.Mkdir(hierarchy.LeafName, madeMode); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return d.OpenDir(hierarchy.LeafName)
}

// rmdirBridged is Rmdir in a directory of a bridge.
func (v *View) rmdirBridged(
	cancel <-chan struct{}, n node, d *host.Dir, name string, in *fuse.InHeader,
) fuse.Status {
	ch := v.begin("rmdir", in, func() (a, b, c uint64) {
		child, st := n.hier.child(d, name)
		if !st.Ok() {
			return n.dir, 0, 0
		}
		defer child.Release()
		return n.dir, child.ID(), 0
	})
	if ch.done {
		return ch.outcome()
	}
	leave, err := n.hier.bridge.enter(cancel)
	if err != nil {
		return ch.finish(status(err))
	}
	defer leave()
	child, st := n.hier.child(d, name)
	if ch.again && ch.entry.B != 0 && (!st.Ok() || child.ID() != ch.entry.B) {
		// The previous server removed it.
		if st.Ok() {
			child.Release()
		}
		return ch.finish(fuse.OK)
	}
	if !st.Ok() {
		return ch.finish(st)
	}
	defer child.Release()
	return ch.finish(v.removeBridged(cancel, n.hier, d, child, name, ch))
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
func (v *View) removeBridged(
	cancel <-chan struct{}, hier *viewHierarchy, d, child *host.Dir, name string, ch *change,
) fuse.Status {
	defer ch.made()
	b := hier.bridge
	below, err := b.children(hier, child, true)
	releaseAll(below)
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
		return status(v.leaveHierarchy(cancel, hier, child, stays, ch.again))
	}
	if err := child.Rmdir(hierarchy.LeafName); err != nil && !errors.Is(err, unix.ENOENT) {
		return status(err)
	}
	failpoint("bridge-rmdir")
	hier.expected.add(d.ID(), name)
	if err := v.removeCounted(d, name, func() error { return d.Rmdir(name) }); err != nil {
		hier.expected.remove(d.ID(), name)
		return status(err)
	}
	hier.quotaOf().free()
	return fuse.OK
}

// leaveHierarchy undoes what the directory of one hierarchy set in a cgroup that others have.
func (v *View) leaveHierarchy(
	cancel <-chan struct{}, hier *viewHierarchy, child *host.Dir, stays []stay, again bool,
) error {
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
	c, done := v.cgroupOf(hier, child, cancel, again)
	defer done()
	for _, controller := range hier.controllers {
		if err := translate.Reset(c, controller, files); err != nil {
			return err
		}
	}
	failpoint("bridge-reset")
	v.stripPart(child, hier.name)
	return v.setStays(child, stays, again)
}

// populated reports tasks in a cgroup or below it.
func populated(d *host.Dir) bool {
	raw, err := d.ReadFile("cgroup.events")
	return err == nil && strings.Contains(string(raw), "populated 1")
}
