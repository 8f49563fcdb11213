package daemon

import (
	"context"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

// typesOf is what is done with the new mount of a guest's view, before anybody sees it: statfs is to say the type that
// the view stands for, and a worker that takes over in the middle is to know the mount by its device.
func (d *Daemon) typesOf(g *guest, about fstype.View) func(mountFD int) {
	return func(mountFD int) {
		g.remember()
		d.showType(g, mountFD, about)
	}
}

// showType has statfs of a guest's view answered. Where that cannot be, the view says FUSE and is of use to programs
// that look for no type.
func (d *Daemon) showType(g *guest, view int, about fstype.View) {
	if !d.worker.Types().Loaded {
		return // the holder has said why
	}
	if err := d.worker.Show(view, about); err != nil {
		g.log.WithError(err).Warn("statfs of the guest's view says FUSE")
	}
}

// showAll does so for every guest that the worker before has left. The kernel knows them already, unless the holder
// had to load its programs anew.
func (d *Daemon) showAll() {
	for _, g := range d.all() {
		g.mu.Lock()
		if s := g.served(); s != nil && !g.gone {
			if view, release, err := g.at.Open(); err == nil { // open, so that its device is no other's meanwhile
				d.showType(g, view, fstype.ViewOf(s.View))
				release()
			}
		}
		g.mu.Unlock()
	}
}

// ShowType has statfs answer for a file system that a process outside has open.
func (d *Daemon) ShowType(_ context.Context, pid int, r api.TypeRequest) error {
	if t := d.worker.Types(); !t.Loaded {
		return fault.New(fault.Unsupported, "statfs of views cannot be answered by BPF: %s", t.Reason)
	}
	return d.worker.ShowOf(pid, r.FD, fstype.View{Types: r.Types, Cgroup: r.Cgroup})
}
