package daemon

import (
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
)

// types has the holder answer statfs of views.
type types struct {
	worker *holder.Worker // immutable
}

// prepare prepares the new mount of a guest's view before it is attached. statfs then reports the cgroup type from the
// start, and a worker that takes over in the middle recognises the mount by its device.
func (x types) prepare(g *guest, about fstype.View) func(mountFD int) {
	return func(mountFD int) {
		remember(g.region, g.at.View)
		x.show(g, mountFD, about)
	}
}

// show makes statfs of a guest's view report the cgroup type. On failure the view reports FUSE, and still serves
// programs that do not check the type.
func (x types) show(g *guest, view int, about fstype.View) {
	if !x.worker.Types().Loaded {
		// The holder has logged the reason.
		return
	}
	if err := x.worker.Show(view, about); err != nil {
		g.log.WithError(err).Warn("statfs of the guest's view says FUSE")
	}
}

// showAll does so for every guest of the previous worker. The kernel knows them already, unless the holder had to load
// its programs again.
func (x types) showAll(guests []*guest) {
	for _, g := range guests {
		g.mu.Lock()
		if s := g.served(); s != nil && !g.gone {
			// The open descriptor keeps the device number from being reused meanwhile.
			if view, release, err := g.at.Open(); err == nil {
				x.show(g, view, fstype.ViewOf(s.View))
				release()
			}
		}
		g.mu.Unlock()
	}
}

// showOf makes statfs report a cgroup type for a file system that another process has open. fault.Unsupported without
// BPF.
func (x types) showOf(pid int, r api.TypeRequest) error {
	if t := x.worker.Types(); !t.Loaded {
		return fault.New(fault.Unsupported, "statfs of views cannot be answered by BPF: %s", t.Reason)
	}
	return x.worker.ShowOf(pid, r.FD, fstype.View{Types: r.Types, Cgroup: r.Cgroup})
}
