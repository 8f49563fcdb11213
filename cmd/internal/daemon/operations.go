package daemon

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Info says what this daemon is.
func (d *Daemon) Info() api.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	return api.Info{
		Version: d.version, Pid: os.Getpid(), Holder: d.start.Holder, Since: d.since, Guests: len(d.guests),
		Restarts: d.start.Restarts, Resend: conn.CanResend(), TypeByBPF: d.worker.Types().Loaded, TypeRefused: d.worker.Types().Reason,
		Notify: d.settings.Notify,
	}
}

// sorted lists the guests that are served, by name.
func (d *Daemon) sorted() []*guest {
	all := slices.DeleteFunc(d.all(), func(g *guest) bool { return g.served() == nil })
	slices.SortFunc(all, func(a, b *guest) int { return strings.Compare(a.record.Name, b.record.Name) })
	return all
}

// Guests lists the guests by name.
func (d *Daemon) Guests() []api.Guest {
	list := []api.Guest{}
	for _, g := range d.sorted() {
		list = append(list, g.info())
	}
	return list
}

// Guest finds a guest.
func (d *Daemon) Guest(name string) (api.Guest, error) {
	g, err := d.find(name)
	if err != nil {
		return api.Guest{}, err
	}
	return g.info(), nil
}

// with calls f with a guest's boundaries while the guest is not taken away.
func (d *Daemon) with(name string, f func(g *guest, boundaries []*host.Boundary) error) error {
	g, err := d.find(name)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.boundaries()
	if b == nil {
		return notFound(name)
	}
	return f(g, b)
}

// Tree is a guest's cgroups.
func (d *Daemon) Tree(name string) (tree api.Cgroup, err error) {
	err = d.with(name, func(_ *guest, b []*host.Boundary) error {
		of, err := cgroups.Tree(b)
		tree = cgroupOf(of)
		return err
	})
	return tree, err
}

// cgroupOf is a tree of cgroups as it goes over the wire.
func cgroupOf(c cgroups.Cgroup) api.Cgroup {
	out := api.Cgroup{Name: c.Name, Hierarchies: c.Hierarchies, Figures: api.Figures(c.Figures), Cut: c.Cut}
	for _, p := range c.Processes {
		out.Processes = append(out.Processes, api.Process(p))
	}
	for _, child := range c.Children {
		out.Children = append(out.Children, cgroupOf(child))
	}
	return out
}

// Top is what each guest uses.
func (d *Daemon) Top() []api.Usage {
	list := []api.Usage{}
	for _, g := range d.sorted() {
		b := g.boundaries()
		if b == nil {
			continue
		}
		list = append(list, api.Usage{Name: g.record.Name, Figures: api.Figures(cgroups.FiguresOf(b)), Requests: g.requests.Load(), Denials: g.denials.Load()})
	}
	return list
}

// Set sets limits of a guest.
func (d *Daemon) Set(name string, limits []api.Limit) (changes []api.Change, err error) {
	err = d.with(name, func(_ *guest, b []*host.Boundary) error {
		var set []cgroups.Limit
		for _, l := range limits {
			set = append(set, cgroups.Limit(l))
		}
		made, err := cgroups.Set(b, set)
		for _, c := range made {
			changes = append(changes, api.Change(c))
		}
		return err
	})
	return changes, err
}

// Freeze stops every process of a guest.
func (d *Daemon) Freeze(ctx context.Context, name string) error {
	return d.with(name, func(_ *guest, b []*host.Boundary) error { return cgroups.Freeze(ctx, b) })
}

// Thaw lets them go on.
func (d *Daemon) Thaw(ctx context.Context, name string) error {
	return d.with(name, func(_ *guest, b []*host.Boundary) error { return cgroups.Thaw(ctx, b) })
}

// Kill kills every process of a guest.
func (d *Daemon) Kill(ctx context.Context, name string) error {
	return d.with(name, func(_ *guest, b []*host.Boundary) error { return cgroups.Kill(ctx, b) })
}

// Subscribe gives events. Who listened to the worker before, and comes back, is told that it was replaced.
func (d *Daemon) Subscribe(guest string) (<-chan api.Event, func()) {
	defer d.lookNow() // what is counted from here on is new to the subscriber
	if d.start.Reason == "" || time.Since(d.since) > restartedFor {
		return d.hub.Subscribe(guest)
	}
	return d.hub.SubscribeAfter(guest, api.Event{Time: d.since, Kind: api.EventRestarted, Reason: d.start.Reason})
}

// restartedFor is how long whoever subscribes is told of a restart.
const restartedFor = 5 * time.Second

// Upgrade goes on with another program. Where that works this worker ends before it can say so: who asked finds the new one.
func (d *Daemon) Upgrade(ctx context.Context, program string) error {
	return d.worker.Upgrade(program, ctx.Done())
}

// InGuest says whether a process is inside a guest's boundary.
func (d *Daemon) InGuest(pid int) bool {
	for _, g := range d.all() {
		for _, b := range g.boundaries() {
			if in, err := b.Contains(pid); err == nil && in {
				return true
			}
		}
	}
	return false
}
