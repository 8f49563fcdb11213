package api

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// AuditConfig configures the reporting of denials. A zero rate or burst is the default, 10 a second and 20 at once.
type AuditConfig struct {
	Log       *logrus.Entry // a line for each
	Hub       *Hub          // an event for each
	Metrics   *Metrics      // counts dropped denials; may be nil
	PerSecond int           // of one guest, on average
	Burst     int           // of one guest, at once
}

// auditQueue bounds the denials of all guests that wait for the log, which may be slow.
const auditQueue = 1024

// dropInterval is the pause between reports of dropped denials.
const dropInterval = time.Second

// Auditor reports denials: one log line and one event for each that the guest's rate allows, and a count of the others.
// No denial goes uncounted.
type Auditor struct {
	cfg   AuditConfig
	start time.Time
	queue chan told
	wake  chan struct{} // one slot, filled when limited was empty
	stop  chan struct{}
	ended chan struct{}

	mu      sync.Mutex
	limited []*GuestAudit // guarded by mu; those with a count to report
}

type told struct {
	guest *GuestAudit
	event Event
}

// NewAuditor starts an auditor; Close ends it.
func NewAuditor(cfg AuditConfig) *Auditor {
	if cfg.PerSecond <= 0 {
		cfg.PerSecond = 10
	}
	if cfg.Burst <= 0 {
		cfg.Burst = 20
	}
	a := &Auditor{
		cfg: cfg, start: time.Now(), queue: make(chan told, auditQueue), wake: make(chan struct{}, 1),
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go a.run()
	return a
}

// Close reports the remaining denials and ends the auditor. Later denials are counted, not reported.
func (a *Auditor) Close() {
	close(a.stop)
	<-a.ended
}

// GuestAudit is the auditor's state of one guest. Its view keeps it and frees it; it has some 60 bytes.
type GuestAudit struct {
	auditor *Auditor
	name    string
	bucket  bucket
	dropped atomic.Uint64
}

// Guest makes the state of a guest.
func (a *Auditor) Guest(name string) *GuestAudit {
	g := &GuestAudit{auditor: a, name: name}
	g.bucket.init(a.cfg.PerSecond, a.cfg.Burst)
	return g
}

// Tell reports an event of kind EventDenied or EventQuota; guest and time need not be set. It is safe for serving
// threads: it takes no lock while the rate allows denials, and never waits for the log.
//
// path returns e.Path, and is called only once the rate allows the event, because it is costly; nil if e has the path.
func (g *GuestAudit) Tell(e Event, path func() string) { g.TellOf(e, path, nil) }

// TellOf is Tell for an event whose cause may be a stranger: half of the burst is for the guest alone. stranger is
// called only once the other half is used up; nil means the guest.
func (g *GuestAudit) TellOf(e Event, path func() string, stranger func() bool) {
	now := time.Now()
	at := now.Sub(g.auditor.start)
	if !g.bucket.spend(at, g.bucket.depth/2) &&
		(!g.bucket.has(at) || stranger != nil && stranger() || !g.bucket.spend(at, 0)) {
		g.drop()
		return
	}
	e.Guest = g.name
	if path != nil {
		e.Path = path()
	}
	if e.Time.IsZero() {
		e.Time = now
	}
	select {
	case g.auditor.queue <- told{g, e}:
	default:
		g.drop()
	}
}

// drop counts a dropped event. The first since the last report makes the auditor report soon.
func (g *GuestAudit) drop() {
	if g.dropped.Add(1) > 1 {
		return
	}
	a := g.auditor
	a.mu.Lock()
	a.limited = append(a.limited, g)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *Auditor) run() {
	defer close(a.ended)
	// nil while there is no count to report.
	var tick <-chan time.Time
	for {
		select {
		case t := <-a.queue:
			a.tell(t.event)
		case <-a.wake:
			if tick == nil {
				tick = time.After(dropInterval)
			}
		case <-tick:
			tick = nil
			a.tellDropped()
		case <-a.stop:
			for {
				select {
				case t := <-a.queue:
					a.tell(t.event)
					continue
				default:
				}
				a.tellDropped()
				return
			}
		}
	}
}

// tellDropped reports each count once.
func (a *Auditor) tellDropped() {
	a.mu.Lock()
	limited := a.limited
	a.limited = nil
	a.mu.Unlock()
	for _, g := range limited {
		// A later drop is a new first.
		n := g.dropped.Swap(0)
		a.tell(Event{Time: time.Now(), Kind: EventDropped, Guest: g.name, Count: n, Reason: "more denials than are told of"})
		if a.cfg.Metrics != nil {
			a.cfg.Metrics.dropped.Add(float64(n))
		}
	}
}

// tell publishes the event and logs it, with the same fields.
func (a *Auditor) tell(e Event) {
	a.cfg.Hub.Publish(e)
	f := logrus.Fields{"guest": e.Guest}
	if e.Kind == EventDropped {
		f["count"] = e.Count
	} else {
		f["uid"], f["pid"], f["operation"], f["path"], f["rule"] = e.UID, e.Pid, e.Operation, e.Path, e.Rule
	}
	if e.Reason != "" {
		f["reason"] = e.Reason
	}
	a.cfg.Log.WithTime(e.Time).WithFields(f).Warn(e.Kind)
}

// bucket is a token bucket without a lock: it keeps the time of being full again. It is the generic cell rate algorithm
// as virtual scheduling (ITU-T I.371, annex A).
type bucket struct {
	price time.Duration // of a token
	depth time.Duration // price × burst
	full  atomic.Int64  // a time.Duration since the owner's start
}

func (b *bucket) init(perSecond, burst int) {
	b.price = time.Second / time.Duration(perSecond)
	b.depth = b.price * time.Duration(burst)
}

// longestWait bounds a bucket's debt. Who asks and goes away without the answer spends a token each time, and must not
// make the next one wait for all of them.
const longestWait = time.Second

// wait takes a token, and returns the wait until it is available, at most longestWait.
func (b *bucket) wait(now time.Duration) time.Duration {
	for {
		full := b.full.Load()
		next := min(max(time.Duration(full), now)+b.price, now+b.depth+longestWait)
		if b.full.CompareAndSwap(full, int64(next)) {
			return max(0, next-now-b.depth)
		}
	}
}

// has reports that a token is available. now counts from the owner's start.
func (b *bucket) has(now time.Duration) bool {
	return max(time.Duration(b.full.Load()), now)+b.price-now <= b.depth
}

// spend takes a token if one is available and tokens worth keep remain afterwards.
func (b *bucket) spend(now, keep time.Duration) bool {
	for {
		full := b.full.Load()
		next := max(time.Duration(full), now) + b.price
		if next-now > b.depth-keep {
			return false
		}
		if b.full.CompareAndSwap(full, int64(next)) {
			return true
		}
	}
}
