package fs

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// expectations are changes that the server itself is about to make in host directories: its watch will report them, and
// the guest's kernel knows them already.
type expectations struct {
	mu   sync.Mutex
	want map[expectation]int // guarded by mu
}

type expectation struct {
	dir  uint64
	name string
}

// maxExpected bounds what is waited for when reports do not come (a directory that is not watched).
const maxExpected = 4096

func (e *expectations) init() { e.want = map[expectation]int{} }

func (e *expectations) add(dir uint64, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.want) >= maxExpected {
		clear(e.want)
	}
	e.want[expectation{dir, name}]++
}

// take says whether a change was expected, and expects it once less.
func (e *expectations) take(dir uint64, name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := expectation{dir, name}
	n := e.want[k]
	if n == 0 {
		return false
	}
	if n == 1 {
		delete(e.want, k)
	} else {
		e.want[k] = n - 1
	}
	return true
}

// eventQueue does, off the serving goroutine and one at a time, what must tell the guest's kernel of changes. An
// invalidation can wait for a lock that a request of the guest holds, so no request may wait for it without end.
type eventQueue struct {
	view *View
	jobs chan func()
	stop chan struct{}
	once sync.Once
}

// queueLength bounds the jobs that wait; more are dropped, and the caches' timeout covers them.
const queueLength = 1024

// invalidationWait is how long a guest's write waits for the caches that it made stale.
const invalidationWait = 100 * time.Millisecond

func newEventQueue(v *View) *eventQueue {
	q := &eventQueue{view: v, jobs: make(chan func(), queueLength), stop: make(chan struct{})}
	go q.run()
	return q
}

func (q *eventQueue) run() {
	for {
		select {
		case job := <-q.jobs:
			job()
		case <-q.stop:
			return
		}
	}
}

func (q *eventQueue) close() {
	if q != nil {
		q.once.Do(func() { close(q.stop) })
	}
}

// do queues a job; it says whether there was room.
func (q *eventQueue) do(job func()) bool {
	select {
	case q.jobs <- job:
		return true
	default:
		return false
	}
}

// put takes an event of a tree's watcher.
func (q *eventQueue) put(t *tree, e host.Event) {
	if (e.Created || e.Deleted || e.Modified) && t.expected.take(e.Dir, e.Name) {
		return
	}
	if e.Modified && e.Name != subtreeFile && !pollable(t, e.Name) {
		return
	}
	q.do(func() { q.view.changed(t, e) })
}

// subtreeFile enables controllers, and so makes control files of the children come and go.
const subtreeFile = "cgroup.subtree_control"

func pollable(t *tree, file string) bool {
	f, ok := hierarchy.Lookup(t.version, file)
	return ok && f.Pollable
}

// watch has changes that the host makes in a directory reported.
func (v *View) watch(t *tree, d *host.Dir) {
	if err := t.watcher.Watch(d); err != nil {
		v.log.WithError(err).Debug("cannot watch a cgroup; what the host changes there shows within the cache timeout")
	}
}

// watchFile has a file's own changes reported: a guest that has looked it up may wait for them.
func (v *View) watchFile(t *tree, d *host.Dir, name string) {
	if err := t.watcher.WatchFile(d, name); err != nil && !errors.Is(err, unix.ENOENT) {
		v.log.WithError(err).Debugf("cannot watch %s; a guest's inotify does not see it change", name)
	}
}

// changed tells the guest's kernel what the host changed in a directory.
func (v *View) changed(t *tree, e host.Event) {
	switch {
	case e.Overflow:
		v.log.Warn("the kernel dropped events of watched cgroups; what the host changed shows within the cache timeout")
	case e.Created, e.Deleted:
		if e.Deleted {
			v.conn.InvalEntry(v.dirNode(t, e.Dir), e.Name)
		}
		v.conn.InvalInode(v.dirNode(t, e.Dir))
	case e.Modified && e.Name == subtreeFile:
		if d, err := t.boundary.Acquire(e.Dir); err == nil {
			v.invalidateFiles(t, d)
			d.Release()
		}
	case e.Modified && pollable(t, e.Name):
		v.poke(t, e.Dir, e.Name)
	}
}

// forgetFiles drops what the kernel knows of the control files of d's children, after a guest changed which there are. It
// waits for that a short while only.
func (v *View) forgetFiles(cancel <-chan struct{}, t *tree, d *host.Dir) {
	done := make(chan struct{})
	id := d.ID()
	if !v.queue.do(func() {
		defer close(done)
		if d, err := t.boundary.Acquire(id); err == nil {
			v.invalidateFiles(t, d)
			d.Release()
		}
	}) {
		return
	}
	select {
	case <-done:
	case <-cancel:
	case <-time.After(invalidationWait):
	}
}

// invalidateFiles drops the entries of every known control file in d's children that is gone now.
func (v *View) invalidateFiles(t *tree, d *host.Dir) {
	children, err := d.ReadDir()
	if err != nil {
		return
	}
	for _, c := range children {
		if !c.IsDir {
			continue
		}
		child, err := t.boundary.Acquire(c.ID)
		if err != nil {
			continue
		}
		v.invalidateGone(t, child)
		child.Release()
	}
}

func (v *View) invalidateGone(t *tree, d *host.Dir) {
	files, err := d.ReadDir()
	if err != nil {
		return
	}
	there := make(map[string]bool, len(files))
	for _, f := range files {
		there[f.Name] = true
	}
	parent := v.dirNode(t, d.ID())
	for _, name := range v.names.Names() {
		if !there[name] && hierarchy.ControllerOf(name) != "" {
			v.conn.InvalEntry(parent, name)
		}
	}
}

// poke makes a guest's inotify watch on a control file fire. FUSE has no way for a server to say it; a truncate through
// the mount does, and the view takes one from its own process for nothing else (truncate in attr.go).
func (v *View) poke(t *tree, dir uint64, name string) {
	if v.ref == nil {
		return
	}
	d, err := t.boundary.Acquire(dir)
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
		path = t.name + "/" + path
	}
	if path != "" && path[len(path)-1] != '/' {
		path += "/"
	}
	if err := host.TruncateBelow(ref, path+name); err != nil && err != unix.ENOENT {
		v.log.WithError(err).Debug("cannot wake the guest's watches")
	}
}
