package api

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// AuditConfig says where denials go. A zero rate or burst is the default, 10 a second and 20 at once.
type AuditConfig struct {
	Log       *logrus.Entry // a line for each
	Hub       *Hub          // an event for each
	Metrics   *Metrics      // counts what was dropped; nil: nobody does
	PerSecond int           // of one guest, in the long run
	Burst     int           // of one guest, at once
}

// auditQueue is how many denials of all guests wait for the log, which may be slow.
const auditQueue = 1024

// dropInterval is how often one guest's dropped denials are told of.
const dropInterval = time.Second

// Auditor tells of denials: one log line and one event for each that the guest's rate lets through, and a count of the
// others. No denial is lost without being counted.
type Auditor struct {
	cfg   AuditConfig
	start time.Time
	queue chan told
	wake  chan struct{} // holds one, when limited was empty
	stop  chan struct{}
	ended chan struct{}

	mu      sync.Mutex
	limited []*GuestAudit // guarded by mu; those with a count to tell of
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
		cfg: cfg, start: time.Now(), queue: make(chan told, auditQueue), wake: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go a.run()
	return a
}

// Close tells of what is left and ends the auditor. What guests do after it is counted and not told.
func (a *Auditor) Close() {
	close(a.stop)
	<-a.ended
}

// GuestAudit is the auditor's part of one guest, for its view to keep. It is some 60 bytes, and goes with the view.
type GuestAudit struct {
	auditor *Auditor
	name    string
	bucket  bucket
	dropped atomic.Uint64
}

// Guest makes the part of a guest.
func (a *Auditor) Guest(name string) *GuestAudit {
	g := &GuestAudit{auditor: a, name: name}
	g.bucket.init(a.cfg.PerSecond, a.cfg.Burst)
	return g
}

// Tell takes an event of kind EventDenied or EventQuota; guest and time need not be set. It is for the serving threads: it
// takes no lock while denials are let through, and never waits for who writes the log.
// path is asked for e.Path once the event is let through, for it costs something; nil where e has it.
func (g *GuestAudit) Tell(e Event, path func() string) { g.TellOf(e, path, nil) }

// TellOf is Tell of what a stranger may have done: half of the guest's burst is for the guest alone. stranger is asked only
// when the other half is used up; nil: it was the guest.
func (g *GuestAudit) TellOf(e Event, path func() string, stranger func() bool) {
	now := time.Now()
	at := now.Sub(g.auditor.start)
	if !g.bucket.take(at, g.bucket.depth/2) && (!g.bucket.has(at) || stranger != nil && stranger() || !g.bucket.take(at, 0)) {
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

// drop counts one. The first since the last word of it has the auditor tell of them soon.
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
	var tick <-chan time.Time // not nil while there are counts to tell of
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

// tellDropped tells of each count once.
func (a *Auditor) tellDropped() {
	a.mu.Lock()
	limited := a.limited
	a.limited = nil
	a.mu.Unlock()
	for _, g := range limited {
		n := g.dropped.Swap(0) // what is dropped from here on is a new first
		a.tell(Event{Time: time.Now(), Kind: EventDropped, Guest: g.name, Count: n, Reason: "more denials than are told of"})
		if a.cfg.Metrics != nil {
			a.cfg.Metrics.dropped.Add(float64(n))
		}
	}
}

// tell is the event and the log line, which have the same fields.
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

// bucket is a token bucket without a lock: it keeps the time at which it would be full again. It is the generic cell rate
// algorithm in its form of the virtual schedule (ITU-T I.371, annex A).
type bucket struct {
	price time.Duration // of a token
	depth time.Duration // price × burst
	full  atomic.Int64  // a time.Duration since the owner's start
}

func (b *bucket) init(perSecond, burst int) {
	b.price = time.Second / time.Duration(perSecond)
	b.depth = b.price * time.Duration(burst)
}

// wait takes a token, and says how long to wait for it.
func (b *bucket) wait(now time.Duration) time.Duration {
	for {
		full := b.full.Load()
		next := max(time.Duration(full), now) + b.price
		if b.full.CompareAndSwap(full, int64(next)) {
			return max(0, next-now-b.depth)
		}
	}
}

// has says whether there is a token. Now counts from the owner's start.
func (b *bucket) has(now time.Duration) bool {
	return max(time.Duration(b.full.Load()), now)+b.price-now <= b.depth
}

// take takes a token, if there is one and more are left than what keep costs.
func (b *bucket) take(now, keep time.Duration) bool {
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
