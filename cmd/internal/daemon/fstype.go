package daemon

import (
	"context"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

// typesOf prepares the new mount of a guest's view before it is attached. statfs then reports the cgroup type from the
// start, and a worker that takes over in the middle recognises the mount by its device.
func (d *Daemon) typesOf(g *guest, about fstype.View) func(mountFD int) {
	return func(mountFD int) {
		g.remember()
		d.showType(g, mountFD, about)
	}
}

// showType makes statfs of a guest's view report the cgroup type. On failure the view reports FUSE, and still serves
// programs that do not check the type.
func (d *Daemon) showType(g *guest, view int, about fstype.View) {
	if !d.worker.Types().Loaded {
		// The holder has logged the reason.
		return
	}
	if err := d.worker.Show(view, about); err != nil {
		g.log.WithError(err).Warn("statfs of the guest's view says FUSE")
	}
}

// showAll does so for every guest of the previous worker. The kernel knows them already, unless the holder had to load
// its programs again.
func (d *Daemon) showAll() {
	for _, g := range d.all() {
		g.mu.Lock()
		if s := g.served(); s != nil && !g.gone {
			// The open descriptor keeps the device number from being reused meanwhile.
			if view, release, err := g.at.Open(); err == nil {
				d.showType(g, view, fstype.ViewOf(s.View))
				release()
			}
		}
		g.mu.Unlock()
	}
}

// ShowType makes statfs report a cgroup type for a file system that another process has open. fault.Unsupported without
// BPF.
func (d *Daemon) ShowType(_ context.Context, pid int, r api.TypeRequest) error {
	if t := d.worker.Types(); !t.Loaded {
		return fault.New(fault.Unsupported, "statfs of views cannot be answered by BPF: %s", t.Reason)
	}
	return d.worker.ShowOf(pid, r.FD, fstype.View{Types: r.Types, Cgroup: r.Cgroup})
}
