package fs

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// put queues an event of a hierarchy's watcher.
func (q *eventQueue) put(hier *viewHierarchy, e host.Event) {
	if (e.Created || e.Deleted || e.Modified) && hier.expected.remove(e.Dir, e.Name) {
		return
	}
	if e.Modified && e.Name != subtreeFile && !pollable(hier, e.Name) {
		return
	}
	q.do(func() { q.view.changed(hier, e) })
}

// subtreeFile enables controllers, which adds and removes control files of the children.
const subtreeFile = "cgroup.subtree_control"

func pollable(hier *viewHierarchy, file string) bool {
	f, ok := hierarchy.Lookup(hier.version, file)
	return ok && f.Pollable
}

// watch reports changes by the host in a directory.
func (v *View) watch(hier *viewHierarchy, d *host.Dir) {
	if err := hier.watcher.Watch(d); err != nil {
		v.log.WithError(err).Debug("cannot watch a cgroup; changes by the host there show within the cache timeout")
	}
}

// watchFile reports changes of a file itself: a guest that has looked it up may wait for them.
func (v *View) watchFile(hier *viewHierarchy, d *host.Dir, name string) {
	if hier.lends(name) {
		v.watchLent(hier, d, name)
		return
	}
	if err := hier.watcher.WatchFile(d, name); err != nil && !errors.Is(err, unix.ENOENT) {
		v.log.WithError(err).Debugf("cannot watch %s; a guest's inotify does not see it change", name)
	}
}

// changed tells the guest's kernel of a change by the host.
func (v *View) changed(hier *viewHierarchy, e host.Event) {
	switch {
	case e.Overflow:
		v.log.Warn("the kernel dropped events of watched cgroups; changes by the host show within the cache timeout")
	case e.Created, e.Deleted:
		if hier.bridge != nil {
			hier.bridge.links.forget(e.Dir)
		}
		dir := v.presentNode(hier, e.Dir)
		if e.Deleted && !v.alone {
			v.conn.InvalEntry(dir, e.Name)
		}
		v.conn.InvalInode(dir)
	case e.Modified && e.Name == subtreeFile && hier.bridge == nil:
		if d, err := hier.boundary.Acquire(e.Dir); err == nil {
			v.invalidateFiles(hier, d)
			d.Release()
		}
	case e.Modified && pollable(hier, e.Name):
		v.poke(hier, e.Dir, e.Name)
	}
}

// presentNode returns the node id of a directory in its present life.
func (v *View) presentNode(hier *viewHierarchy, dir uint64) uint64 {
	if hier.bridge == nil {
		return v.dirNode(hier, dir)
	}
	d, err := hier.acquire(dir)
	if err != nil {
		return v.dirNode(hier, dir)
	}
	defer d.Release()
	life, _ := hier.bridge.lifeIn(hier, d)
	return v.lifeNode(hier, dir, life)
}

// forget makes the kernel drop its entries of the control files in or below a directory, after a guest changed the
// set of files. It waits at most as long as the entries would live anyway, so the guest never finds a file that it
// has disabled.
func (v *View) forget(
	cancel <-chan struct{}, hier *viewHierarchy, dir uint64, invalidate func(hier *viewHierarchy, d *host.Dir),
) {
	done := make(chan struct{})
	if !v.queue.do(func() {
		defer close(done)
		if d, err := hier.acquire(dir); err == nil {
			invalidate(hier, d)
			d.Release()
		}
	}) {
		return
	}
	select {
	case <-done:
	case <-cancel:
	case <-time.After(cacheTimeout):
	}
}

// invalidateFiles drops the entries of all removed control files in d's children.
func (v *View) invalidateFiles(hier *viewHierarchy, d *host.Dir) {
	children, err := d.ReadDir()
	if err != nil {
		return
	}
	for _, c := range children {
		if !c.IsDir {
			continue
		}
		child, err := hier.boundary.Acquire(c.ID)
		if err != nil {
			continue
		}
		v.invalidateGone(hier, child)
		child.Release()
	}
}

// invalidateGone drops the entries of all removed control files in d, of those that come and go during d's life. It
// also drops those of files with events, which may have been made again: inotify would continue to watch the earlier
// file, whereas an open of that gets ESTALE and finds the new one.
func (v *View) invalidateGone(hier *viewHierarchy, d *host.Dir) {
	if v.alone {
		return
	}
	files, err := d.ReadDir()
	if err != nil {
		return
	}
	there := make(map[string]bool, len(files))
	for _, f := range files {
		there[f.Name] = true
	}
	parent := v.dirNode(hier, d.ID())
	for _, name := range v.names.Names() {
		comes := hierarchy.ControllerOf(name) != "" || strings.HasSuffix(name, ".pressure")
		if comes && (!there[name] || pollable(hier, name)) {
			v.conn.InvalEntry(parent, name)
		}
	}
}

// poke makes a guest's inotify watch on a control file fire. FUSE has no such notification, but a truncate through
// the mount fires it, and the view accepts one from its own process for nothing else (truncate in attr.go).
func (v *View) poke(hier *viewHierarchy, dir uint64, name string) {
	if v.ref == nil || v.alone {
		return
	}
	d, err := hier.boundary.Acquire(dir)
	if err != nil {
		return
	}
	path, err := d.Path()
	d.Release()
	if err != nil {
		return
	}
	ref, release, err := v.ref()
	if err != nil {
		v.log.WithError(err).Debug("cannot reach the view's own mount")
		return
	}
	defer release()
	if v.layout != hierarchy.LayoutV2 {
		path = hier.name + "/" + path
	}
	if path != "" && path[len(path)-1] != '/' {
		path += "/"
	}
	if err := host.TruncateBelow(ref, path+name); err != nil && err != unix.ENOENT {
		v.log.WithError(err).Debug("cannot wake the guest's watches")
	}
}
