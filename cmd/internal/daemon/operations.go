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

// Info describes this daemon.
func (d *Daemon) Info() api.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	return api.Info{
		Version: d.version, Pid: os.Getpid(), Holder: d.start.Holder, Since: d.since, Guests: len(d.guests),
		Restarts: d.start.Restarts, Resend: conn.CanResend(), TypeByBPF: d.worker.Types().Loaded,
		TypeRefused: d.worker.Types().Reason, Notify: d.settings.Notify,
	}
}

// sorted lists the served guests by name.
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

// Guest returns a guest. fault.NotFound.
func (d *Daemon) Guest(name string) (api.Guest, error) {
	g, err := d.find(name)
	if err != nil {
		return api.Guest{}, err
	}
	return g.info(), nil
}

// with calls f with a guest's boundaries, and keeps the guest from being removed meanwhile. fault.NotFound, or the
// error of f.
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

// verb does what a verb says to a guest that is held, with its boundaries.
type verb func(d *Daemon, ctx context.Context, g *guest, b []*host.Boundary) (answer any, err error)

// verbs has each verb of the interface.
var verbs = map[api.Verb]verb{
	api.Tree: func(_ *Daemon, _ context.Context, _ *guest, b []*host.Boundary) (any, error) {
		tree, err := cgroups.Tree(b)
		return cgroupOf(tree), err
	},
	api.Attach: func(d *Daemon, _ context.Context, g *guest, b []*host.Boundary) (any, error) {
		return nil, d.attachAgain(g, b)
	},
	api.Freeze: unanswered(cgroups.Freeze),
	api.Thaw:   unanswered(cgroups.Thaw),
	api.Kill:   unanswered(cgroups.Kill),
}

// unanswered makes a verb without an answer of a function of package cgroups.
func unanswered(do func(context.Context, []*host.Boundary) error) verb {
	return func(_ *Daemon, ctx context.Context, _ *guest, b []*host.Boundary) (any, error) {
		return nil, do(ctx, b)
	}
}

// Do does what a verb says to a guest. fault.NotFound, or the verb's error.
func (d *Daemon) Do(ctx context.Context, verb api.Verb, name string) (answer any, err error) {
	err = d.with(name, func(g *guest, b []*host.Boundary) (err error) {
		answer, err = verbs[verb](d, ctx, g, b)
		return err
	})
	return answer, err
}

// cgroupOf converts a tree of cgroups to the wire's form.
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

// Top returns each guest's usage.
func (d *Daemon) Top() []api.Usage {
	list := []api.Usage{}
	for _, g := range d.sorted() {
		b := g.boundaries()
		if b == nil {
			continue
		}
		list = append(list, api.Usage{Name: g.record.Name, Figures: api.Figures(cgroups.FiguresOf(b)),
			Requests: g.requests.Load(), Denials: g.denials.Load()})
	}
	return list
}

// Set sets limits of a guest, and returns the changes. fault.NotFound, or the error of cgroups.Set.
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

// Subscribe returns a stream of events. A subscriber that comes back after losing the previous worker learns of the
// replacement.
func (d *Daemon) Subscribe(guest string) (<-chan api.Event, func()) {
	// Counts from here on are new to the subscriber.
	defer d.lookNow()
	if d.start.Reason == "" || time.Since(d.since) > restartedFor {
		return d.hub.Subscribe(guest)
	}
	return d.hub.SubscribeAfter(guest, api.Event{Time: d.since, Kind: api.EventRestarted, Reason: d.start.Reason})
}

// restartedFor is the time during which new subscribers learn of a restart.
const restartedFor = 5 * time.Second

// Upgrade replaces this worker by one of another program. On success this worker ends before it can answer: the caller
// reaches the new one. An error means that this worker goes on.
func (d *Daemon) Upgrade(ctx context.Context, program string) error {
	return d.worker.Upgrade(program, ctx.Done())
}

// InGuest reports that a process is inside a guest's boundary.
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
