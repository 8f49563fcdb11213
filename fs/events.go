package fs

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// put takes an event of a hierarchy's watcher.
func (q *eventQueue) put(hier *viewHierarchy, e host.Event) {
	if (e.Created || e.Deleted || e.Modified) && hier.expected.remove(e.Dir, e.Name) {
		return
	}
	if e.Modified && e.Name != subtreeFile && !pollable(hier, e.Name) {
		return
	}
	q.do(func() { q.view.changed(hier, e) })
}

// subtreeFile enables controllers, and so makes control files of the children come and go.
const subtreeFile = "cgroup.subtree_control"

func pollable(hier *viewHierarchy, file string) bool {
	f, ok := hierarchy.Lookup(hier.version, file)
	return ok && f.Pollable
}

// watch has changes that the host makes in a directory reported.
func (v *View) watch(hier *viewHierarchy, d *host.Dir) {
	if err := hier.watcher.Watch(d); err != nil {
		v.log.WithError(err).Debug("cannot watch a cgroup; what the host changes there shows within the cache timeout")
	}
}

// watchFile has a file's own changes reported: a guest that has looked it up may wait for them.
func (v *View) watchFile(hier *viewHierarchy, d *host.Dir, name string) {
	if err := hier.watcher.WatchFile(d, name); err != nil && !errors.Is(err, unix.ENOENT) {
		v.log.WithError(err).Debugf("cannot watch %s; a guest's inotify does not see it change", name)
	}
}

// changed tells the guest's kernel what the host changed in a directory.
func (v *View) changed(hier *viewHierarchy, e host.Event) {
	switch {
	case e.Overflow:
		v.log.Warn("the kernel dropped events of watched cgroups; what the host changed shows within the cache timeout")
	case e.Created, e.Deleted:
		if e.Deleted && !v.alone {
			v.conn.InvalEntry(v.dirNode(hier, e.Dir), e.Name)
		}
		v.conn.InvalInode(v.dirNode(hier, e.Dir))
	case e.Modified && e.Name == subtreeFile:
		if d, err := hier.boundary.Acquire(e.Dir); err == nil {
			v.invalidateFiles(hier, d)
			d.Release()
		}
	case e.Modified && pollable(hier, e.Name):
		v.poke(hier, e.Dir, e.Name)
	}
}

// forget has the kernel drop what it knows of the control files in or below a directory, after a guest changed which there
// are. It waits for that at most until the kernel forgets by itself, so the guest never finds what it has switched off.
func (v *View) forget(cancel <-chan struct{}, hier *viewHierarchy, dir uint64, invalidate func(hier *viewHierarchy, d *host.Dir)) {
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

// invalidateFiles drops the entries of every known control file in d's children that is gone now.
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

// invalidateGone drops the entries of every known control file in d that is gone now and can come and go while d is there. One
// that can be watched may be there anew: inotify would go on watching the earlier file, while an open of that is ESTALE and
// finds the new one.
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

// poke makes a guest's inotify watch on a control file fire. FUSE has no way for a server to say it; a truncate through
// the mount does, and the view takes one from its own process for nothing else (truncate in attr.go).
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
