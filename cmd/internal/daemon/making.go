package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// making adds guests, and resumes those of an earlier worker. All fields are immutable.
type making struct {
	settings Settings
	crashed  bool // the worker before failed by itself
	host     *host.Host
	arena    *state.Arena
	keepers  keepers
	slots    *conn.Slots
	paths    paths
	settle   func() // waits until no earlier worker makes a host call any more
	panicked func() // ends the worker

	table    *table
	policies *policies
	told     *telemetry
	types    types
	attacher *attacher
	removing *removing
	lookout  *lookout
}

// add adds the guest of a record, with the policy of its spec. The record's boundaries take precedence over the spec's.
// It accepts an existing guest with the same spec, and reports whether it made a new one. fault.Conflict for another
// spec or a used target, fault.Busy at the limit or while the daemon ends, and the errors of setting up the view.
func (m *making) add(r record, p *policy.Policy) (*guest, bool, error) {
	if r.Spec.Target == "" {
		r.Spec.Target = m.paths.targetOf(r.Name)
	}
	r.StacksOwn = r.Spec.Into != nil && r.Spec.Into.Stack == nil
	r.Since = time.Now().Round(0)
	g, mine, err := m.table.reserve(m.newGuest(r))
	if err != nil || !mine {
		return g, false, err
	}
	defer g.mu.Unlock()
	g.policy = m.policies.share(r.Spec, p)
	if err := m.make(g); err != nil {
		g.gone = true
		g.unfollow()
		m.lookout.forget(g)
		m.table.forget(g)
		return nil, false, err
	}
	m.told.added(g)
	return g, true, nil
}

// newGuest makes a guest, not served yet.
func (m *making) newGuest(r record) *guest {
	return &guest{record: r, log: m.told.log.WithField("guest", r.Name), audit: m.told.auditor.Guest(r.Name),
		at: attach.Mountpoint{Target: m.paths.placeOf(r.Spec), Over: r.Spec.Over}}
}

// make opens the boundaries, sets the limits and mounts the view. A failing step undoes the ones before.
func (m *making) make(g *guest) (err error) {
	spec := g.record.Spec
	if own := m.paths.own(spec); own || g.record.Declared {
		if err := g.at.ClearDead(g.log); err != nil {
			return err
		}
	}
	if m.paths.own(spec) {
		if err := m.paths.makeTarget(spec.Target); err != nil {
			return fmt.Errorf("cannot make a place for the view: %w", err)
		}
		defer func() {
			if err != nil {
				os.Remove(spec.Target)
			}
		}()
	}
	if !m.paths.own(spec) {
		// Else Mount checks a directory that is the daemon's own.
		if err := g.at.Check(); err != nil {
			return fault.With(fault.Missing, err)
		}
	}
	owner, err := ownerOf(spec)
	if err != nil {
		return fault.With(fault.Missing, err)
	}
	g.record.UID, g.record.GID = owner.UID, owner.GID
	boundaries, err := m.openBoundaries(g)
	if err != nil {
		return err
	}
	if err := views.Agree(boundaries, layoutOf(spec)); err != nil {
		views.CloseBoundaries(boundaries)
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
	return m.startView(g, boundaries)
}

// startView makes the view on boundaries, which it takes over, mounts it, serves it and attaches it in the guest.
func (m *making) startView(g *guest, boundaries []*host.Boundary) error {
	config, err := json.Marshal(g.record)
	if err == nil {
		g.region, err = m.arena.Allocate(config)
	}
	if err != nil {
		views.CloseBoundaries(boundaries)
		return fault.With(fault.Busy, err)
	}
	g.region.SetLabel(g.record.label())
	s, err := views.NewViewOf(m.viewConfig(g, nil, nil), boundaries)
	if err != nil {
		g.region.Release()
		return fault.With(fault.Unsupported, err)
	}
	undo := func() {
		m.keepers.forget(g.region.Index(), g.log)
		s.Close()
		g.region.Release()
	}
	device, err := s.View.Conn().Device()
	if err == nil {
		err = m.keepers.of(g.region).Hold(holder.DeviceKey, device)
	}
	if err != nil {
		undo()
		return err
	}
	if err := g.at.Mount(s.View.Conn(), m.types.prepare(g, fstype.ViewOf(s.View))); err != nil {
		undo()
		return err
	}
	m.begin(g, s)
	if err = agreed(s.View.Conn(), s.Done); err != nil {
		err = fmt.Errorf("cannot serve the view: %w", err)
	}
	if err == nil {
		remember(g.region, g.at.View)
		err = m.attacher.attach(g, s)
	}
	if err != nil {
		g.at.Leave(g.log)
		undo()
		return err
	}
	g.region.MarkSetUp()
	m.table.serve(g, s)
	m.lookout.follow(g, s)
	m.lookout.mark(g)
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
func (m *making) begin(g *guest, s *views.Served) {
	m.removing.followProcess(g)
	s.Ended = func() { m.removing.viewEnded(g, s) }
	s.Serve()
}

// viewConfig returns the configuration of a guest's view. device is nil for a new one.
func (m *making) viewConfig(g *guest, device *os.File, held map[uint64]int) fs.Config {
	return fs.Config{
		Host: m.host, Policy: g.policy, Layout: layoutOf(g.record.Spec), Log: g.log,
		Owner:    fs.Owner{UID: g.record.UID, GID: g.record.GID},
		MountRef: g.at.Open, State: g.region, Device: device, Holder: m.keepers.of(g.region), Held: held,
		Crashed: m.crashed, Settle: m.settle, Denied: func(x fs.Denial) { m.told.denied(g, x) },
		Observe:  func(opcode uint32, errno int, took time.Duration) { m.told.observe(g, opcode, errno, took) },
		Panicked: m.panicked, Slots: m.slots, MaxRate: m.settings.MaxRate, MaxCPU: m.settings.MaxCPU,
		MaxWatches: m.settings.MaxWatches,
	}
}

func layoutName(s string) string {
	if s == "" {
		return "auto"
	}
	return s
}
