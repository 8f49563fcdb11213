package daemon

import (
	"os"
	"sync"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// guest is one guest. It is in the table already while it is set up, and still while it is removed.
type guest struct {
	record  record          // immutable once the guest is made
	log     *logrus.Entry   // immutable
	audit   *api.GuestAudit // immutable
	region  *state.Region   // immutable once the guest is made
	policy  *policy.Policy  // immutable once the guest is made
	at      attach.Mountpoint
	serving atomic.Pointer[views.Served] // nil while no view is served

	counts  counts
	taking  atomic.Bool // attacher.reclaimAgain is running
	process *os.File    // pidfd of Spec.Pid, immutable once the guest is made; nil for none

	mu      sync.Mutex        // held while the guest is set up, changed or removed
	gone    bool              // guarded by mu
	watches []*host.Following // guarded by mu; of the boundaries, nil for those that are not followed
}

// guests is what self and the declared guests ask of the daemon.
type guests interface {
	// named returns the guest of a name, nil if there is none.
	named(name string) *guest
	all() []*guest
	// add adds the guest of a record, or finds an existing one with the same spec.
	add(r record, p *policy.Policy) (g *guest, made bool, err error)
	// remove removes a guest and publishes an event of this kind.
	remove(g *guest, kind, reason string)
	// isClosing reports that another worker takes over the guests, or that all of them are being removed.
	isClosing() bool
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
	n := g.region.LoadAnswers()
	return api.Calls{Listeners: n.Listeners, Answered: n.Answered, PassedOn: n.PassedOn}
}

// remember stores a view's mount in its region, for later workers.
func remember(r *state.Region, at target.Mount) {
	r.SetDevice(at.Device)
	r.SetMount(at.ID, at.Unique)
}

// mountOf returns the mount stored in a region.
func mountOf(r *state.Region) target.Mount {
	id, unique := r.Mount()
	return target.Mount{Device: r.Device(), ID: id, Unique: unique}
}

// isView reports that a file system is the view of one of the guests.
func isView(all []*guest, device uint64) bool {
	for _, g := range all {
		if g.served() != nil && g.region.Device() == device {
			return true
		}
	}
	return false
}

// keeper is the holder's store for a region.
type keeper interface {
	fs.Holder
	// Forget has the holder close all that it keeps of the region.
	Forget() error
}

// keepers returns the holder's store for a region, by its index.
type keepers func(region int) keeper

// of returns the store for a region.
func (k keepers) of(r *state.Region) keeper { return k(r.Index()) }

// forget has the holder close all that it keeps of a region. It logs a failure: the holder has ended, or soon does.
func (k keepers) forget(region int, log *logrus.Entry) {
	if err := k(region).Forget(); err != nil {
		log.WithError(err).Debug("cannot tell the holder")
	}
}
