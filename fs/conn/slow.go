package conn

import (
	"container/list"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Bounds of the slow requests of one connection that wait for a free place. What is beyond them gets EAGAIN: a caller can
// try again, whereas a queue without end would let one guest eat the server's memory.
const (
	maxQueued      = 1024
	maxQueuedBytes = 4 << 20
)

// slowRequest is a request with a copy of its bytes, whole.
type slowRequest struct {
	body   []byte // immutable
	unique uint64 // immutable

	held        bool // guarded by slowPool.mu; it has a goroutine, which waits for its share of a processor
	interrupted bool // guarded by slowPool.mu; while it was held
}

// slowPool bounds the slow requests of one connection. Requests run at once up to max, then queue in order.
type slowPool struct {
	max int // immutable

	mu      sync.Mutex
	active  int                      // guarded by mu; goroutines that have a request
	running map[uint64]*slowRequest  // guarded by mu; by number
	queue   list.List                // guarded by mu; of *slowRequest
	queued  map[uint64]*list.Element // guarded by mu; by number
	bytes   int                      // guarded by mu; of all that is queued
	closed  bool                     // guarded by mu
	idle    chan struct{}            // closed when the pool is closed and nothing runs
	ended   chan struct{}            // closed when the pool is

	busySince time.Time     // guarded by mu; when a second one began while one ran
	due       time.Time     // guarded by mu; when the next one may begin while others are awake
	took      time.Duration // guarded by mu; how long the last one ran

	share share

	slots *Slots        // immutable, may be nil
	own   chan struct{} // one slot that no other connection can take
}

func (p *slowPool) init(limit int, slots *Slots) {
	p.max, p.idle, p.ended = limit, make(chan struct{}), make(chan struct{})
	p.slots, p.own = slots, make(chan struct{}, 1)
	p.running, p.queued = map[uint64]*slowRequest{}, map[uint64]*list.Element{}
}

// add takes a request in. start says that the caller must start a goroutine for it; not ok means there is no room. What
// ends something (RELEASE, FORGET) always has room: it cannot be refused, and there are only as many as there were begun.
func (p *slowPool) add(r *slowRequest, ends bool) (start, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return false, false
	case p.active < p.max:
		p.active++
		if p.active == 2 {
			p.busySince = time.Now()
		}
		p.running[r.unique] = r
		return true, true
	case !ends && (p.queue.Len() >= maxQueued || p.bytes+len(r.body) > maxQueuedBytes):
		return false, false
	}
	p.queued[r.unique] = p.queue.PushBack(r)
	p.bytes += len(r.body)
	return false, true
}

// next ends a request, which took so long, and returns another one to run, or nil.
func (p *slowPool) next(done *slowRequest, took time.Duration) *slowRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = took
	if p.running[done.unique] == done {
		delete(p.running, done.unique)
	}
	if e := p.queue.Front(); e != nil {
		r := p.unqueue(e)
		p.running[r.unique] = r
		return r
	}
	p.active--
	if p.active == 0 && p.closed {
		close(p.idle)
	}
	return nil
}

func (p *slowPool) unqueue(e *list.Element) *slowRequest {
	r := p.queue.Remove(e).(*slowRequest)
	if p.queued[r.unique] == e {
		delete(p.queued, r.unique)
	}
	p.bytes -= len(r.body)
	return r
}

// interrupt finds a request: removed from the queue when it had not begun, or running, or neither. One that is
// held is interrupted when it has begun: a signal gets it no more of a processor, and an mkdir knows no EINTR.
func (p *slowPool) interrupt(unique uint64) (removed *slowRequest, running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.queued[unique]; e != nil {
		return p.unqueue(e), false
	}
	r := p.running[unique]
	if r != nil && r.held {
		r.interrupted = true
		return nil, false
	}
	return nil, r != nil
}

// uniques returns the numbers of what runs.
func (p *slowPool) uniques() (all []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for u := range p.running {
		all = append(all, u)
	}
	return all
}

// close refuses what comes and returns what had not begun.
func (p *slowPool) close() (dropped []*slowRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.queue.Len() > 0 {
		dropped = append(dropped, p.unqueue(p.queue.Front()))
	}
	if !p.closed {
		close(p.ended)
		if p.active == 0 {
			close(p.idle)
		}
	}
	p.closed = true
	return dropped
}

// pending are the numbers of what runs and what is queued, and whether there is anything.
func (p *slowPool) pending() (numbers map[uint64]bool, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	numbers = map[uint64]bool{}
	for u := range p.running {
		numbers[u&^resendBit] = true
	}
	for u := range p.queued {
		numbers[u&^resendBit] = true
	}
	return numbers, p.active > 0
}

// Slots bounds the slow requests that run at once on many connections. Each connection has one place beyond that for itself,
// so whoever fills all others keeps nobody waiting.
type Slots struct{ taken chan struct{} }

// NewSlots makes a bound.
func NewSlots(n int) *Slots { return &Slots{make(chan struct{}, n)} }

// enter waits for a place and says how to give it back; not ok when the pool is closed before.
func (p *slowPool) enter() (leave func(), ok bool) {
	if p.slots == nil {
		return func() {}, true
	}
	select {
	case p.own <- struct{}{}:
		return func() { <-p.own }, true
	default:
	}
	select {
	case p.own <- struct{}{}:
		return func() { <-p.own }, true
	case p.slots.taken <- struct{}{}:
		return func() { <-p.slots.taken }, true
	case <-p.ended:
		return nil, false
	}
}

// waitIdle waits until nothing runs in a closed pool, or for a while.
func (p *slowPool) waitIdle(limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.idle:
		return true
	case <-t.C:
		return false
	}
}

// goSlow runs a request off the serving goroutine, later, or refuses it.
func (c *Conn) goSlow(dev *device, in []byte) (refusal fuse.Status) {
	h := header(in)
	r := &slowRequest{body: append([]byte(nil), in...), unique: h.Unique}
	ends := silent(h) || h.Opcode == OpRelease || h.Opcode == OpReleasedir
	start, ok := c.slow.add(r, ends)
	switch {
	case !ok && c.closing.Load():
		return fuse.Status(unix.ECONNABORTED)
	case !ok:
		return fuse.EAGAIN
	case start:
		go c.runSlow(dev, r)
	}
	return fuse.OK
}

func (c *Conn) runSlow(dev *device, r *slowRequest) {
	var took time.Duration
	for ; r != nil; r = c.slow.next(r, took) {
		m := message{in: r.body, out: make([]byte, replyRoom(r.body))}
		c.wait(r)
		leave, ok := c.slow.enter()
		if !ok {
			c.reply(dev, errorReply(r.body, m.out, fuse.Status(unix.ECONNABORTED)))
			continue
		}
		start := time.Now()
		var reply []byte
		c.slow.share.spend(counted(func() { reply = c.respond(&m, len(r.body)) }), time.Now())
		took = time.Since(start)
		leave()
		if len(reply) > 0 && c.closing.Load() && (*fuse.OutHeader)(pointer(reply, 0)).Status == -int32(fuse.EINTR) {
			reply = errorReply(r.body, m.out, fuse.Status(unix.ECONNABORTED)) // it was Close that interrupted
		}
		c.reply(dev, reply)
	}
}

// interrupted sees to FUSE_INTERRUPT, the kernel's word that the caller of a request got a signal. A request that waits in
// the queue is answered EINTR at once, a running one has its cancel channel closed. The kernel wants no answer to the
// INTERRUPT itself, except EAGAIN to send it anew (fuse_dev_do_write): right only for a request that is just about to
// begin; one we do not have has been answered.
func (c *Conn) interrupted(dev *device, in, out []byte) []byte {
	if len(in) < inHeader+8 {
		return errorReply(in, out, fuse.EIO)
	}
	unique := *(*uint64)(pointer(in, inHeader))
	removed, running := c.slow.interrupt(unique)
	if removed != nil {
		return errorReply(removed.body, out, fuse.EINTR)
	}
	if running && c.proto.ready.Load() && !c.proto.interrupt(unique) {
		return errorReply(in, out, fuse.EAGAIN)
	}
	return nil
}

// cancelSlow interrupts all that runs.
func (c *Conn) cancelSlow() {
	for _, u := range c.slow.uniques() {
		c.proto.interrupt(u)
	}
}
