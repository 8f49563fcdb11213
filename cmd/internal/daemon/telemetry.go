package daemon

import (
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// telemetry tells the host of guests: by the log, events and metrics.
type telemetry struct {
	log     *logrus.Entry // immutable
	hub     *api.Hub      // immutable
	auditor *api.Auditor  // immutable
	metrics *api.Metrics  // immutable
	since   time.Time     // immutable; the worker's start
	reason  string        // immutable; why the worker before this one ended, "" for the first one
}

// counts are a guest's counters.
type counts struct {
	requests, denials atomic.Uint64
	sampler           cgroups.Sampler // used by the sweeping goroutine only
	stall             stall           // used at a scrape only, of which there is one at a time
}

// newTelemetry makes the telemetry of a worker. Each scrape of the metrics calls totals.
func newTelemetry(version string, log *logrus.Entry, reason string, totals func() api.Totals) *telemetry {
	t := &telemetry{log: log, hub: &api.Hub{}, metrics: api.NewMetrics(version, totals), since: time.Now(), reason: reason}
	t.auditor = api.NewAuditor(api.AuditConfig{Log: log, Hub: t.hub, Metrics: t.metrics})
	return t
}

// totalsOf counts guests, cgroups and calls for the metrics, and finds the guest that waits for longest.
func totalsOf(guests []*guest, restarts uint64, healthy bool) api.Totals {
	t := api.Totals{Restarts: restarts, Healthy: healthy, Stalled: stalled(guests, time.Now())}
	for _, g := range guests {
		t.Guests++
		t.Cgroups += int64(g.cgroups())
		if g.served() != nil {
			n := g.calls()
			t.Listeners += n.Listeners
			t.Answered += n.Answered
			t.PassedOn += n.PassedOn
		}
	}
	return t
}

// observe counts a request of a guest.
func (t *telemetry) observe(g *guest, opcode uint32, errno int, took time.Duration) {
	g.counts.requests.Add(1)
	t.metrics.Observe(opcode, errno, errno == int(unix.EPERM), took)
}

// denied publishes a refusal by the view's rules.
func (t *telemetry) denied(g *guest, x fs.Denial) {
	g.counts.denials.Add(1)
	t.metrics.Denied(x.Rule)
	kind := api.EventDenied
	if x.Quota {
		kind = api.EventQuota
	}
	g.audit.TellOf(api.Event{Kind: kind, UID: x.UID, Pid: int(x.Tid), Operation: x.Operation, Rule: x.Rule}, x.Path,
		x.Stranger)
}

// added tells of a new guest.
func (t *telemetry) added(g *guest) {
	t.hub.Publish(api.Event{Time: time.Now(), Kind: api.EventAdded, Guest: g.record.Name})
	g.log.Info("the guest is added")
}

// ended tells of the end of a guest. The kind is that of the event, "" for none.
func (t *telemetry) ended(g *guest, kind, reason string) {
	if kind == "" {
		return
	}
	say := g.log.WithField("reason", reason).Infof
	// The guest ended by itself.
	if kind == api.EventGone {
		say = g.log.WithField("reason", reason).Warnf
	}
	say("the guest is %s", kind)
	t.hub.Publish(api.Event{Time: time.Now(), Kind: kind, Guest: g.record.Name, Reason: reason})
}

// sampled maps the kinds of a sample to the wire's.
var sampled = map[cgroups.EventKind]string{cgroups.OOMKill: api.EventOOMKill, cgroups.LimitReached: api.EventLimit}

// sample publishes what a guest's counters have counted since the last sample. It reads them for subscribers only.
func (t *telemetry) sample(g *guest, boundaries []*host.Boundary) {
	if !t.hub.Listening() {
		return
	}
	for _, e := range g.counts.sampler.Sample(boundaries) {
		t.hub.Publish(api.Event{
			Time: time.Now(), Kind: sampled[e.Kind], Guest: g.record.Name, Path: e.Path, Reason: e.Limit, Count: e.Count,
		})
	}
}

// resumed tells that the guests of the worker before this one are served again.
func (t *telemetry) resumed(died time.Time) {
	if t.reason == "" {
		return
	}
	took := time.Since(died)
	t.metrics.SetResume(took)
	t.log.WithField("took", took).Warnf("serving goes on after %s", t.reason)
}

// restartedFor is the time during which new subscribers learn of a restart.
const restartedFor = 5 * time.Second

// subscribe returns a stream of events. A subscriber that comes back after losing the previous worker learns of the
// replacement.
func (t *telemetry) subscribe(guest string) (<-chan api.Event, func()) {
	if t.reason == "" || time.Since(t.since) > restartedFor {
		return t.hub.Subscribe(guest)
	}
	return t.hub.SubscribeAfter(guest, api.Event{Time: t.since, Kind: api.EventRestarted, Reason: t.reason})
}
