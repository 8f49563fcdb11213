package fs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// memoryEvents is a file of v2 that notifies. v1 has nothing that does, but tells an eventfd when a cgroup runs out of
// memory: that of memory.oom_control, by cgroup.event_control (memcg_write_event_control in mm/memcontrol-v1.c).
// systemd stops a unit of which any process was killed, and waits for that.
const memoryEvents = "memory.events"

// Files of v1 behind it.
const (
	oomControl   = "memory.oom_control"
	eventControl = "cgroup.event_control"
)

const (
	maxOOMWatches = 64 // of one view: each has a descriptor
	oomWait       = time.Second
	oomPace       = 10 * time.Millisecond
)

// oomWatches are the cgroups whose running out of memory fires the guest's watches on memory.events.
type oomWatches struct {
	mu     sync.Mutex
	all    map[uint64]*os.File // guarded by mu; eventfds by the id of the directory
	closed bool                // guarded by mu
}

// watchOOM fires the guest's watches on memory.events of a directory from now on. ENOSPC over the bound.
func (v *View) watchOOM(hier *viewHierarchy, d *host.Dir) error {
	w, p := &hier.lent.ooms, hier.lent.partWith(oomControl)
	if p == nil {
		return nil
	}
	if err := w.mayAdd(d.ID()); err != nil {
		return err
	}
	at, err := p.at(d)
	if err != nil {
		return err
	}
	defer at.Release()
	f, err := oomEvents(at)
	if err != nil {
		return err
	}
	if err := w.add(d.ID(), f); err != nil {
		f.Close()
		return err
	}
	kills, _ := at.ReadFile(oomControl)
	go v.followOOM(hier, d.ID(), f, string(kills))
	return nil
}

// oomEvents has the kernel tell a new eventfd when a cgroup runs out of memory, and when it is removed.
func oomEvents(at *host.Dir) (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	of, err := at.OpenFile(oomControl, unix.O_RDONLY)
	if err == nil {
		err = at.WriteFile(eventControl, fmt.Appendf(nil, "%d %d", fd, of))
		unix.Close(of)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// followOOM fires the guest's watches until the cgroup is gone or the view stops. The kernel tells before it has chosen
// whom it kills, so followOOM waits for the count, since a reader that came earlier would not come again.
func (v *View) followOOM(hier *viewHierarchy, dir uint64, f *os.File, kills string) {
	defer hier.lent.ooms.drop(dir, f)
	for {
		if _, err := f.Read(make([]byte, 8)); err != nil {
			return
		}
		for end := time.Now().Add(oomWait); ; time.Sleep(oomPace) {
			now, err := hier.lent.killsIn(hier, dir)
			if err != nil {
				return
			}
			if now != kills || time.Now().After(end) {
				kills = now
				break
			}
		}
		if !v.queue.do(func() { v.poke(hier, dir, memoryEvents) }) {
			return
		}
	}
}

// killsIn returns memory.oom_control of a directory, whose oom_kill counts. ENOENT or ENODEV once it is gone.
func (l *lent) killsIn(hier *viewHierarchy, dir uint64) (string, error) {
	d, err := hier.boundary.Acquire(dir)
	if err != nil {
		return "", err
	}
	defer d.Release()
	at, err := l.partWith(oomControl).at(d)
	if err != nil {
		return "", err
	}
	defer at.Release()
	raw, err := at.ReadFile(oomControl)
	return string(raw), err
}

// mayAdd returns the error that add will.
func (w *oomWatches) mayAdd(dir uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refuses(dir)
}

// add keeps the eventfd of a directory. ENOSPC over the bound, EEXIST for a second one, os.ErrClosed after close.
func (w *oomWatches) add(dir uint64, f *os.File) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.refuses(dir); err != nil {
		return err
	}
	if w.all == nil {
		w.all = map[uint64]*os.File{}
	}
	w.all[dir] = f
	return nil
}

// refuses is mayAdd with mu held.
func (w *oomWatches) refuses(dir uint64) error {
	switch {
	case w.closed:
		return os.ErrClosed
	case w.all[dir] != nil:
		return unix.EEXIST
	case len(w.all) >= maxOOMWatches:
		return unix.ENOSPC
	}
	return nil
}

// drop closes an eventfd.
func (w *oomWatches) drop(dir uint64, f *os.File) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all[dir] == f {
		delete(w.all, dir)
	}
	f.Close()
}

// close ends all watches.
func (w *oomWatches) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, f := range w.all {
		f.Close()
	}
}

// watchLent is watchFile for a file of a lent controller.
func (v *View) watchLent(hier *viewHierarchy, d *host.Dir, name string) {
	if name != memoryEvents {
		return
	}
	err := v.watchOOM(hier, d)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) {
		v.log.WithError(err).Debugf("cannot watch %s; a guest's inotify does not see it change", name)
	}
}
