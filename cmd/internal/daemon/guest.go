package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// record is a guest's entry in the arena. It is an ABI between two versions of the program.
type record struct {
	Name       string        `json:"name"`
	Spec       api.GuestSpec `json:"spec"`
	Since      time.Time     `json:"since"`
	Declared   bool          `json:"declared,omitempty"`
	UID        uint32        `json:"uid"`
	GID        uint32        `json:"gid"`
	Boundaries []boundaryID  `json:"boundaries"`
	PidStart   uint64        `json:"pidStart,omitempty"` // of Spec.Pid, to detect a reused number
	Rule       string        `json:"rule,omitempty"`     // of a guest by self: the pattern that its cgroup matches
	Self       bool          `json:"self,omitempty"`     // marks self, mounted at Spec.Target: no guest
	Maker      *api.Maker    `json:"maker,omitempty"`    // nil from older versions, or if other fields tell: see maker

	// StacksOwn attaches a view by StackOwn if its spec leaves Stack open. Older versions did not set it: they took away
	// the mounts at the view's target.
	StacksOwn bool `json:"stacksOwn,omitempty"`
}

// label names the view in messages of processes that do not decode the record (state.Region.SetLabel).
func (r *record) label() string {
	if r.Self {
		return "self at " + r.Spec.Target
	}
	return "the view of guest " + r.Name + " at " + r.Spec.Target
}

// boundaryID names a boundary for good: its hierarchy and kernfs id.
type boundaryID struct {
	Tree string `json:"tree"`
	ID   uint64 `json:"id"`
	Path string `json:"path,omitempty"` // at the time the guest was added
}

// is reports that both name the same cgroup. The path does not count: it may change.
func (b boundaryID) is(other boundaryID) bool { return b.Tree == other.Tree && b.ID == other.ID }

// guest is one guest. It is in the table already while it is set up, and still while it is removed.
type guest struct {
	record  record          // immutable
	log     *logrus.Entry   // immutable
	audit   *api.GuestAudit // immutable
	region  *state.Region   // immutable once the guest is made
	policy  *policy.Policy  // immutable once the guest is made
	at      attach.Mountpoint
	serving atomic.Pointer[views.Served] // nil while no view is served

	requests atomic.Uint64
	denials  atomic.Uint64
	sampler  cgroups.Sampler // used by the sweeping goroutine only
	taking   atomic.Bool     // takeAgain is running
	process  *os.File        // pidfd of Spec.Pid, immutable once the guest is made; nil for none

	mu   sync.Mutex // held while the guest is set up, changed or removed
	gone bool       // guarded by mu
}

func (g *guest) served() *views.Served { return g.serving.Load() }

// boundaries returns the open boundaries, nil if the guest is not served.
func (g *guest) boundaries() []*host.Boundary {
	if s := g.served(); s != nil {
		return s.Boundaries
	}
	return nil
}

func (g *guest) cgroups() int {
	most := 0
	for _, b := range g.boundaries() {
		if n, err := b.CountCgroups(); err == nil {
			most = max(most, n)
		}
	}
	return most
}

// info returns the guest in the control interface's form.
func (g *guest) info() api.Guest {
	out := api.Guest{Name: g.record.Name, Spec: g.record.Spec, Since: g.record.Since, Declared: g.record.Declared,
		Rule: g.record.Rule, Hierarchies: []string{},
		Boundaries: map[string]string{}, Maker: g.record.maker()}
	for _, b := range g.record.Boundaries {
		out.Hierarchies = append(out.Hierarchies, b.Tree)
		if b.Path != "" {
			out.Boundaries[b.Tree] = b.Path
		}
	}
	if s := g.served(); s != nil {
		out.Open = s.View.Open()
		out.Calls = g.calls()
	}
	return out
}

// calls returns the counters of the guest's system calls.
func (g *guest) calls() api.Calls {
	n := g.region.Answers().Load()
	return api.Calls{Listeners: n.Listeners, Answered: n.Answered, PassedOn: n.PassedOn}
}

// Add adds a guest. It accepts an existing guest with the same spec, and reports whether it made a new one.
// fault.Conflict for another spec or a used target, fault.Busy at the limit or while the daemon ends, and the errors of
// setting up the view.
func (d *Daemon) Add(ctx context.Context, name string, spec api.GuestSpec, p *policy.Policy,
	by api.Maker) (api.Guest, bool, error) {
	g, made, err := d.addRecord(record{Name: name, Spec: spec, Maker: &by}, p)
	if err != nil {
		return api.Guest{}, false, err
	}
	return g.info(), made, nil
}

// addRecord adds the guest of a record, with the policy of its spec. The record's boundaries take precedence over the
// spec's.
func (d *Daemon) addRecord(r record, p *policy.Policy) (*guest, bool, error) {
	if r.Spec.Target == "" {
		r.Spec.Target = d.targetOf(r.Name)
	}
	r.StacksOwn = r.Spec.Into != nil && r.Spec.Into.Stack == nil
	g, mine, err := d.reserve(r)
	if err != nil || !mine {
		return g, false, err
	}
	defer g.mu.Unlock()
	g.policy = d.share(r.Spec, p)
	if err := d.makeGuest(g); err != nil {
		g.gone = true
		g.unfollow()
		d.forget(g)
		return nil, false, err
	}
	d.hub.Publish(api.Event{Time: time.Now(), Kind: api.EventAdded, Guest: r.Name})
	g.log.Info("the guest is added")
	return g, true, nil
}

// reserve enters a new guest into the table, locked, or finds the existing one with the same spec.
func (d *Daemon) reserve(r record) (g *guest, mine bool, err error) {
	for {
		old, err := d.enter(r)
		if err != nil {
			return nil, false, err
		}
		if old.fresh {
			return old.guest, true, nil
		}
		// Waits for a set-up or removal under way.
		old.guest.mu.Lock()
		gone := old.guest.gone
		old.guest.mu.Unlock()
		if gone {
			continue
		}
		if !reflect.DeepEqual(old.guest.record.Spec, r.Spec) || old.guest.record.Rule != r.Rule {
			return nil, false, fault.New(fault.Conflict,
				"cannot add guest %s: there is one of that name with another configuration, made by %s; "+
					"remove it first (vcgroupfs guest rm %s)", r.Name, old.guest.record.maker(), r.Name)
		}
		return old.guest, false, nil
	}
}

type entered struct {
	guest *guest
	fresh bool
}

func (d *Daemon) enter(r record) (entered, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.guests[r.Name]; g != nil {
		return entered{guest: g}, nil
	}
	if d.closing {
		return entered{}, fault.New(fault.Busy, "cannot add guest %s: the daemon is ending", r.Name)
	}
	if len(d.guests) >= min(d.arena.Guests(), d.settings.MaxGuests) {
		return entered{}, fault.New(fault.Busy,
			"cannot add guest %s: there are %d, as many as serve --max-guests allows", r.Name, len(d.guests))
	}
	for _, g := range d.guests {
		if at := d.placeOf(r.Spec); g.at.Target == at {
			return entered{}, fault.New(fault.Conflict,
				"cannot add guest %s: the view of guest %s is mounted at %s", r.Name, g.record.Name, at)
		}
	}
	r.Since = time.Now().Round(0)
	g := d.newGuest(r)
	g.mu.Lock()
	d.guests[r.Name] = g
	return entered{guest: g, fresh: true}, nil
}

// newGuest makes a guest, not served yet.
func (d *Daemon) newGuest(r record) *guest {
	return &guest{record: r, log: d.log.WithField("guest", r.Name), audit: d.auditor.Guest(r.Name),
		at: attach.Mountpoint{Target: d.placeOf(r.Spec), Over: r.Spec.Over}}
}

// forget removes a guest from the table.
func (d *Daemon) forget(g *guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.guests[g.record.Name] == g {
		delete(d.guests, g.record.Name)
	}
}

// makeGuest opens the boundaries, sets the limits and mounts the view. A failing step undoes the ones before.
func (d *Daemon) makeGuest(g *guest) (err error) {
	spec := g.record.Spec
	if own := d.ownTarget(spec); own || g.record.Declared {
		if err := g.at.ClearDead(g.log); err != nil {
			return err
		}
	}
	if d.ownTarget(spec) {
		if err := d.makeTarget(spec.Target); err != nil {
			return fmt.Errorf("cannot make a place for the view: %w", err)
		}
		defer func() {
			if err != nil {
				os.Remove(spec.Target)
			}
		}()
	}
	if err := g.at.Check(); err != nil {
		return fault.With(fault.Missing, err)
	}
	owner, err := ownerOf(spec)
	if err != nil {
		return fault.With(fault.Missing, err)
	}
	g.record.UID, g.record.GID = owner.UID, owner.GID
	boundaries, err := d.openBoundaries(g)
	if err != nil {
		return err
	}
	undoLimits, err := setLimits(boundaries, spec.Limits)
	if err != nil {
		views.CloseBoundaries(boundaries)
		return err
	}
	defer func() {
		if err != nil {
			undoLimits()
		}
	}()
	return d.mountGuest(g, boundaries)
}

// openBoundaries opens the boundaries of a new guest and records their permanent names.
func (d *Daemon) openBoundaries(g *guest) ([]*host.Boundary, error) {
	if len(g.record.Boundaries) > 0 {
		return d.reopen(g.record.Boundaries)
	}
	spec := g.record.Spec
	trees, err := views.Select(d.host, g.policy)
	if err == nil {
		err = views.CheckControllers(d.host, spec.Controllers)
	}
	if err != nil {
		return nil, fault.With(fault.Unsupported, err)
	}
	if spec.Pid != 0 {
		if g.record.PidStart, err = host.StartOf(spec.Pid); err != nil {
			return nil, fault.New(fault.Missing, "cannot use process %d: no such process", spec.Pid)
		}
	}
	find, err := views.Place{Path: spec.Boundary, Pid: spec.Pid, Current: spec.CurrentCgroup}.Find()
	if err != nil {
		return nil, fault.With(fault.Missing, err)
	}
	boundaries, err := views.OpenBoundaries(trees, find)
	if err != nil {
		return nil, fault.With(fault.Missing, err)
	}
	for _, b := range boundaries {
		g.record.Boundaries = append(g.record.Boundaries, boundaryID{b.Hierarchy().String(), b.ID(), b.Path()})
	}
	return boundaries, nil
}

// setLimits sets a new guest's limits. undo restores the old ones.
func setLimits(boundaries []*host.Boundary, limits map[string]string) (undo func(), err error) {
	var list []cgroups.Limit
	for file, value := range limits {
		list = append(list, cgroups.Limit{File: file, Value: value})
	}
	slices.SortFunc(list, func(a, b cgroups.Limit) int { return strings.Compare(a.File, b.File) })
	changes, err := cgroups.Set(boundaries, list)
	if err != nil {
		return nil, err
	}
	return func() {
		for _, c := range slices.Backward(changes) {
			if c.Path == "/" {
				_, _ = cgroups.Set(boundaries, []cgroups.Limit{{File: c.File, Value: strings.TrimSpace(c.From)}})
			}
		}
	}, nil
}

func ownerOf(s api.GuestSpec) (fs.Owner, error) {
	if s.Owner == "" {
		return views.OwnerOf(nil, s.Pid)
	}
	owner, err := spec.ParseOwner(s.Owner)
	return fs.Owner(owner), err
}

// mountGuest makes the view on boundaries, which it takes over, and mounts it.
func (d *Daemon) mountGuest(g *guest, boundaries []*host.Boundary) error {
	config, err := json.Marshal(g.record)
	if err == nil {
		g.region, err = d.arena.Allocate(config)
	}
	if err != nil {
		views.CloseBoundaries(boundaries)
		return fault.With(fault.Busy, err)
	}
	g.region.SetLabel(g.record.label())
	s, err := views.NewViewOf(d.viewConfig(g, nil, nil), boundaries)
	if err != nil {
		g.region.Release()
		return fault.With(fault.Unsupported, err)
	}
	undo := func() {
		if err := d.keep(g).Forget(); err != nil {
			g.log.WithError(err).Debug("cannot tell the holder")
		}
		s.Close()
		g.region.Release()
	}
	device, err := s.View.Conn().Device()
	if err == nil {
		err = d.keep(g).Hold(holder.DeviceKey, device)
	}
	if err != nil {
		undo()
		return err
	}
	if err := g.at.Mount(s.View.Conn(), d.typesOf(g, fstype.ViewOf(s.View))); err != nil {
		undo()
		return err
	}
	d.begin(g, s)
	if err = agreed(s.View.Conn(), s.Done); err != nil {
		err = fmt.Errorf("cannot serve the view: %w", err)
	}
	if err == nil {
		g.remember()
		err = d.attach(g, s)
	}
	if err != nil {
		g.at.Leave(g.log)
		undo()
		return err
	}
	g.region.Finish()
	g.serving.Store(s)
	return nil
}

// agreed waits until the kernel and the server have negotiated FUSE_INIT: no later worker can resume a connection
// without it. ended is closed when the view is no longer served.
func agreed(c *conn.Conn, ended <-chan struct{}) error {
	select {
	case <-c.Agreed():
		return nil
	case <-ended:
		return errors.New("its connection has ended at once")
	case <-time.After(agreeWait):
		return errors.New("the kernel does not begin with it")
	}
}

// agreeWait bounds that negotiation, which the kernel begins at the mount.
const agreeWait = 10 * time.Second

// begin starts to serve a guest, and watches for its end.
func (d *Daemon) begin(g *guest, s *views.Served) {
	d.followProcess(g)
	s.Ended = func() { d.viewEnded(g, s) }
	s.Serve()
}

// viewEnded runs after the end of serving: the view was unmounted, its connection was aborted, or we ended it.
func (d *Daemon) viewEnded(g *guest, s *views.Served) {
	if d.isClosing() || g.serving.Load() != s {
		// The guest is being removed, or its set-up failed.
		return
	}
	reason := "the view was unmounted"
	if s.Err != nil {
		reason = s.Err.Error()
	}
	// take waits for this goroutine.
	go d.take(g, api.EventGone, reason)
}

func (d *Daemon) keep(g *guest) holder.Keep {
	return holder.Keep{Worker: d.worker, Region: g.region.Index()}
}

// viewConfig returns the configuration of a guest's view. device is nil for a new one.
func (d *Daemon) viewConfig(g *guest, device *os.File, held map[uint64]int) fs.Config {
	layout, _ := hierarchy.ParseLayout(layoutName(g.record.Spec.Layout))
	return fs.Config{
		Host: d.host, Policy: g.policy, Layout: layout, Owner: fs.Owner{UID: g.record.UID, GID: g.record.GID}, Log: g.log,
		MountRef: g.at.Open, State: g.region, Device: device, Holder: d.keep(g), Held: held, Crashed: d.start.Crashed,
		Settle: d.settle, Denied: func(x fs.Denial) { d.denied(g, x) },
		Observe:  func(opcode uint32, errno int, took time.Duration) { d.observe(g, opcode, errno, took) },
		Panicked: d.panicked, Slots: d.slots, MaxRate: d.settings.MaxRate, MaxCPU: d.settings.MaxCPU,
		MaxWatches: d.settings.MaxWatches,
	}
}

func layoutName(s string) string {
	if s == "" {
		return "auto"
	}
	return s
}

func (d *Daemon) observe(g *guest, opcode uint32, errno int, took time.Duration) {
	g.requests.Add(1)
	d.metrics.Observe(opcode, errno, errno == int(unix.EPERM), took)
}

// denied publishes a refusal by the view's rules.
func (d *Daemon) denied(g *guest, x fs.Denial) {
	g.denials.Add(1)
	d.metrics.Denied(x.Rule)
	kind := api.EventDenied
	if x.Quota {
		kind = api.EventQuota
	}
	g.audit.TellOf(api.Event{Kind: kind, UID: x.UID, Pid: int(x.Tid), Operation: x.Operation, Rule: x.Rule}, x.Path,
		x.Stranger)
}

// parsePolicy returns the policy of a spec that an earlier worker or serve has checked.
func (d *Daemon) parsePolicy(s api.GuestSpec) (*policy.Policy, error) {
	d.mu.Lock()
	p := d.policies[policyKey(s)]
	d.mu.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := spec.PolicyOf(s.Policy, s.Controllers)
	if err != nil {
		return nil, err
	}
	return d.share(s, p), nil
}

// share stores a policy, or returns the stored one with the same text and controllers: such guests share it.
func (d *Daemon) share(spec api.GuestSpec, p *policy.Policy) *policy.Policy {
	key := policyKey(spec)
	d.mu.Lock()
	defer d.mu.Unlock()
	if same := d.policies[key]; same != nil {
		return same
	}
	if len(d.policies) >= maxPolicies {
		clear(d.policies)
	}
	d.policies[key] = p
	return p
}

func policyKey(spec api.GuestSpec) string {
	return strings.Join(spec.Controllers, ",") + "\x00" + spec.Policy
}

// maxPolicies bounds the policies kept for later guests.
const maxPolicies = 256

func notFound(name string) error {
	return fault.New(fault.NotFound, "there is no guest %s; vcgroupfs guest ls lists them", name)
}

// find finds a served guest. fault.NotFound.
func (d *Daemon) find(name string) (*guest, error) {
	d.mu.Lock()
	g := d.guests[name]
	d.mu.Unlock()
	if g == nil || g.served() == nil {
		return nil, notFound(name)
	}
	return g, nil
}
