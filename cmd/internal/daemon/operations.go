package daemon

import (
	"context"
	"os"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// Info describes this daemon.
func (d *Daemon) Info() api.Info {
	types := d.worker.Types()
	return api.Info{
		Version: d.version, Pid: os.Getpid(), Holder: d.start.Holder, Since: d.told.since, Guests: d.table.count(),
		Restarts: d.start.Restarts, Resend: conn.CanResend(), TypeByBPF: types.Loaded, TypeRefused: types.Reason,
		Notify: d.settings.Notify,
	}
}

// Guests lists the guests by name.
func (d *Daemon) Guests() []api.Guest {
	list := []api.Guest{}
	for _, g := range d.table.sorted() {
		list = append(list, g.info())
	}
	return list
}

// Guest returns a guest. fault.NotFound.
func (d *Daemon) Guest(name string) (api.Guest, error) {
	g, err := d.table.find(name)
	if err != nil {
		return api.Guest{}, err
	}
	return g.info(), nil
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
		return nil, d.making.attacher.again(g, b)
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
	err = d.table.with(name, func(g *guest, b []*host.Boundary) (err error) {
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
	for _, g := range d.table.sorted() {
		b := g.boundaries()
		if b == nil {
			continue
		}
		list = append(list, api.Usage{Name: g.record.Name, Figures: api.Figures(cgroups.FiguresOf(b)),
			Requests: g.counts.requests.Load(), Denials: g.counts.denials.Load()})
	}
	return list
}

// Set sets limits of a guest, and returns the changes. fault.NotFound, or the error of cgroups.Set.
func (d *Daemon) Set(name string, limits []api.Limit) (changes []api.Change, err error) {
	err = d.table.with(name, func(_ *guest, b []*host.Boundary) error {
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

// Add adds a guest. It accepts an existing guest with the same spec, and reports whether it made a new one. The errors
// are those of making.add.
func (d *Daemon) Add(_ context.Context, name string, spec api.GuestSpec, p *policy.Policy,
	by api.Maker) (api.Guest, bool, error) {
	g, made, err := d.making.add(record{Name: name, Spec: spec, Maker: &by}, p)
	if err != nil {
		return api.Guest{}, false, err
	}
	return g.info(), made, nil
}

// Remove removes a guest. The errors are those of removing.byName.
func (d *Daemon) Remove(ctx context.Context, name string, by api.Maker, force bool) error {
	return d.removing.byName(ctx, name, by, force)
}

// Subscribe returns a stream of events.
func (d *Daemon) Subscribe(guest string) (<-chan api.Event, func()) {
	// Counts from here on are new to the subscriber.
	defer d.lookout.now()
	return d.told.subscribe(guest)
}

// ShowType makes statfs report a cgroup type for a file system that another process has open. fault.Unsupported without
// BPF.
func (d *Daemon) ShowType(_ context.Context, pid int, r api.TypeRequest) error {
	return d.making.types.showOf(pid, r)
}

// Upgrade replaces this worker by one of another program. On success this worker ends before it can answer: the caller
// reaches the new one. An error means that this worker goes on.
func (d *Daemon) Upgrade(ctx context.Context, program string) error {
	return d.worker.Upgrade(program, ctx.Done())
}

// InGuest reports that a process is inside a guest's boundary, or that this cannot be told.
func (d *Daemon) InGuest(pid int) bool {
	in, err := host.AncestryIn(d.table.hierarchies(), pid)
	return err != nil || d.table.hasAny(in)
}
