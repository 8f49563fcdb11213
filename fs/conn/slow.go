package conn

import (
	"container/list"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Bounds of the queued slow requests of one connection. Requests beyond them get EAGAIN: a caller can try again,
// whereas an unbounded queue would let one guest use up the server's memory.
const (
	maxQueued      = 1024
	maxQueuedBytes = 4 << 20
)

// slowRequest is a request with a copy of all its bytes.
type slowRequest struct {
	body   []byte // immutable
	unique uint64 // immutable

	held        bool // guarded by slowPool.mu; its goroutine waits for a share of a processor
	interrupted bool // guarded by slowPool.mu; while it was held
}

// slowPool bounds the slow requests of one connection. Requests run at once up to max, then queue in order.
type slowPool struct {
	max int // immutable

	mu      sync.Mutex
	active  int                      // guarded by mu; goroutines with a request
	running map[uint64]*slowRequest  // guarded by mu; by number
	queue   list.List                // guarded by mu; of *slowRequest
	queued  map[uint64]*list.Element // guarded by mu; by number
	bytes   int                      // guarded by mu; of all queued requests
	closed  bool                     // guarded by mu
	idle    chan struct{}            // closed when the pool is closed and nothing runs
	ended   chan struct{}            // closed when the pool is

	beside beside        // guarded by mu; how long requests have run beside each other
	due    time.Time     // guarded by mu; the earliest start of the next one while other connections are awake
	took   time.Duration // guarded by mu; duration of the last one

	share share

	slots *Slots        // immutable, may be nil
	own   chan struct{} // one slot for this connection alone
}

func (p *slowPool) init(limit int, slots *Slots) {
	p.max, p.idle, p.ended = limit, make(chan struct{}), make(chan struct{})
	p.slots, p.own = slots, make(chan struct{}, 1)
	p.running, p.queued = map[uint64]*slowRequest{}, map[uint64]*list.Element{}
}

// add accepts a request. start: the caller must start a goroutine for it; not ok: there is no room. A request that
// ends something (RELEASE, FORGET) always has room: it cannot be refused, and there are only as many as there are
// opens.
func (p *slowPool) add(r *slowRequest, ends bool) (start, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return false, false
	case p.active < p.max:
		p.active++
		if p.active == 2 {
			p.beside.begin(time.Now())
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

// addAlone accepts a request if no other one runs and it need not wait for a slot; leave gives the slot back.
func (p *slowPool) addAlone(r *slowRequest) (leave func(), ok bool) {
	if leave, ok = p.tryEnter(); !ok {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.active > 0 {
		leave()
		return nil, false
	}
	p.active++
	p.running[r.unique] = r
	return leave, true
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
	if p.active == 2 {
		p.beside.end(time.Now())
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

// interrupt finds a request: it removes one from the queue, or reports a running one. A held request is interrupted
// after its start: a signal must not shorten its wait for a share, and mkdir has no EINTR.
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

// uniques returns the numbers of the running requests.
func (p *slowPool) uniques() (all []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for u := range p.running {
		all = append(all, u)
	}
	return all
}

// close refuses further requests and returns those that have not begun.
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

// pending returns the numbers of the running and queued requests, and whether there are any.
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

// Slots bounds the slow requests that run at once on many connections. Each connection also has one slot of its own,
// so a connection that fills all others delays no one.
type Slots struct{ taken chan struct{} }

// NewSlots makes a bound.
func NewSlots(n int) *Slots { return &Slots{make(chan struct{}, n)} }

// enter waits for a slot and returns the function that gives it back; not ok if the pool is closed first.
func (p *slowPool) enter() (leave func(), ok bool) {
	if leave, ok = p.tryEnter(); ok {
		return leave, true
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

// tryEnter is enter with the connection's own slot or not at all.
func (p *slowPool) tryEnter() (leave func(), ok bool) {
	if p.slots == nil {
		return func() {}, true
	}
	select {
	case p.own <- struct{}{}:
		return func() { <-p.own }, true
	default:
		return nil, false
	}
}

// waitIdle waits, up to a limit, until a closed pool has no running request.
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

// goSlow runs a request off the serving goroutine, now or later, or refuses it.
func (c *Conn) goSlow(dev *device, in []byte) (refusal fuse.Status) {
	return c.slowBy(in, func(r *slowRequest) { go c.runSlow(dev, r) })
}

// slowBy is goSlow with a function that has a thread run a request.
func (c *Conn) slowBy(in []byte, run func(*slowRequest)) (refusal fuse.Status) {
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
		run(r)
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
		var reply []byte
		reply, took = c.respondSlow(&m, len(r.body), leave)
		c.reply(dev, reply)
		c.afterPanic(&m)
	}
}

// respondSlow handles the slow request in m.in[:n], charges its processor time, and gives its slot back.
func (c *Conn) respondSlow(m *message, n int, leave func()) (reply []byte, took time.Duration) {
	start := time.Now()
	c.slow.share.spend(counted(func() { reply = c.respond(m, n) }), time.Now())
	took = time.Since(start)
	leave()
	if len(reply) > 0 && c.closing.Load() && (*fuse.OutHeader)(pointer(reply, 0)).Status == -int32(fuse.EINTR) {
		// Close interrupted it.
		reply = errorReply(m.in[:n], m.out, fuse.Status(unix.ECONNABORTED))
	}
	return reply, took
}

// interrupted handles FUSE_INTERRUPT: a signal for the caller of a request. A queued request is answered EINTR at
// once, a running one has its cancel channel closed. The kernel expects no answer to the INTERRUPT itself, except
// EAGAIN to make it send the INTERRUPT again (fuse_dev_do_write). That is right only for a request that is about to
// begin; an unknown one has been answered.
func (c *Conn) interrupted(dev *device, in, out []byte) []byte {
	if len(in) < inHeader+8 {
		return errorReply(in, out, fuse.EIO)
	}
	unique := *(*uint64)(pointer(in, inHeader))
	removed, running := c.slow.interrupt(unique)
	if removed != nil {
		c.reply(dev, errorReply(removed.body, out, fuse.EINTR))
		return nil
	}
	if c.rings.Load().interrupted(unique) {
		return nil
	}
	if running && c.proto.ready.Load() && !c.proto.interrupt(unique) {
		return errorReply(in, out, fuse.EAGAIN)
	}
	return nil
}

// cancelSlow interrupts all running requests.
func (c *Conn) cancelSlow() {
	for _, u := range c.slow.uniques() {
		c.proto.interrupt(u)
	}
}
