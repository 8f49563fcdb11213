package conn

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// FUSE over io_uring has a queue for each possible processor. The kernel puts a request into the queue of its caller's
// processor, and a thread that is bound to that processor handles it: nothing wakes another processor, and the reply
// and the wait for the next request are one system call. FUSE_INIT, FORGET, INTERRUPT and notifications keep to
// /dev/fuse.
//
// A queue has slots, with memory of ours. A request occupies one from its delivery to its reply; further requests wait
// in the kernel, at the cost of their callers. A slow request leaves the queue's thread as it leaves the serving
// goroutine, and is run by the queue's helper or by a goroutine. It keeps its slot, and some slots are always left for
// other requests: slow ones beyond get EAGAIN.
//
// Only the queue's thread submits to its ring. A request comes to the thread that submitted its slot: one that is
// blocked in the host would delay it.
const (
	// maxBound bounds the queues with threads of their own. One more thread serves all others.
	maxBound = 32
	// maxQueues bounds the queues of a connection.
	maxQueues = 256
)

// rings are the queues of a connection, from FUSE_INIT to Close.
type rings struct {
	c       *Conn         // immutable
	dev     *device       // immutable
	threads []*ringThread // immutable

	begin    chan struct{} // closed when the threads are to register their slots, or to end
	beginOne sync.Once     // closes begin
	started  atomic.Bool   // the kernel has agreed
	stopping atomic.Bool   // the threads are to end

	others  sync.WaitGroup // threads that have not registered their slots
	running sync.WaitGroup // threads
	ended   chan struct{}  // closed when all threads have ended
	stop    sync.Once

	mu      sync.Mutex
	held    map[uint64]*slot // guarded by mu; of requests that left their thread, by number
	looking bool             // guarded by mu; look is due
}

// offerURing makes the queues if this connection is to use them and the kernel offers it in FUSE_INIT.
func (c *Conn) offerURing(dev *device, init []byte) {
	if c.cfg.Transport == TransportClassic || c.cfg.unfit() != "" || offerOf(init)&OfferURing == 0 {
		return
	}
	rs, err := newRings(c, dev)
	if err != nil {
		c.cfg.Log.WithError(err).Debug("cannot use io_uring, requests are read from " + devicePath)
		return
	}
	c.proto.uring.Store(true)
	c.rings.Store(rs)
}

// newRings starts the threads. They wait for start.
func newRings(c *Conn, dev *device) (*rings, error) {
	queues := possibleCPUs()
	if queues == 0 || queues > maxQueues {
		return nil, errors.New("no number of possible processors, or too many of them: " + strconv.Itoa(queues))
	}
	rs := &rings{
		c: c, dev: dev, begin: make(chan struct{}), ended: make(chan struct{}), held: map[uint64]*slot{},
	}
	bound, other := divideQueues(queues)
	ready := make(chan error)
	for _, cpu := range bound {
		q := &ringQueue{number: cpu, slots: slotsBound}
		rs.run(&ringThread{rings: rs, queues: []*ringQueue{q}, cpu: cpu}, ready)
	}
	if len(other) > 0 {
		t := &ringThread{rings: rs, cpu: -1}
		for _, cpu := range other {
			t.queues = append(t.queues, &ringQueue{number: cpu, slots: slotsOther})
		}
		rs.run(t, ready)
	}
	go func() { rs.running.Wait(); close(rs.ended) }()
	var err error
	for range rs.threads {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		rs.end()
		rs.free()
		return nil, err
	}
	return rs, nil
}

func (rs *rings) run(t *ringThread, ready chan error) {
	t.last = len(rs.threads) == 0
	rs.threads = append(rs.threads, t)
	rs.running.Add(1)
	rs.others.Add(1)
	bind(t.cpu, func() { t.run(ready) })
}

// divideQueues divides the queues into those of processors on which this process may run, and the others.
func divideQueues(queues int) (bound, other []int) {
	var allowed unix.CPUSet
	_ = unix.SchedGetaffinity(os.Getpid(), &allowed)
	for cpu := range queues {
		if allowed.IsSet(cpu) && len(bound) < maxBound {
			bound = append(bound, cpu)
		} else {
			other = append(other, cpu)
		}
	}
	return bound, other
}

// possibleCPUs returns the number of possible processors, 0 if it is unknown.
var possibleCPUs = sync.OnceValue(func() int {
	b, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return 0
	}
	list := strings.TrimSpace(string(b))
	last, err := strconv.Atoi(list[strings.LastIndexAny(list, "-,")+1:])
	if err != nil {
		return 0
	}
	return last + 1
})

// start registers the slots, once the kernel has processed the reply to FUSE_INIT. Until every queue has one the kernel
// holds requests back. If it refuses one it turns to the other transport (fuse_uring_cmd).
func (rs *rings) start() {
	if rs != nil {
		rs.beginOne.Do(func() { close(rs.begin) })
		rs.started.Store(true)
		rs.c.cfg.Log.Debugf("requests come by io_uring, to %d threads", len(rs.threads))
	}
}

// end has the threads end their rings and themselves, but not wait for requests that block. Requests without a reply
// end with the connection, once the kernel has freed the rings, which have the device open: that takes some tens of
// milliseconds, and nothing here waits for it.
func (rs *rings) end() {
	if rs == nil {
		return
	}
	rs.stop.Do(func() {
		rs.stopping.Store(true)
		rs.beginOne.Do(func() { close(rs.begin) })
		for _, t := range rs.threads {
			t.wake()
		}
	})
}

// waitEnd waits, up to a limit, for the threads to end.
func (rs *rings) waitEnd(limit time.Duration) bool {
	if rs == nil {
		return true
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-rs.ended:
		rs.free()
		return true
	case <-t.C:
		return false
	}
}

// free releases the threads' memory once none uses it.
func (rs *rings) free() {
	<-rs.ended
	for _, t := range rs.threads {
		t.free()
	}
	rs.threads = nil
}

// agreeURing sets FUSE_OVER_IO_URING in the reply to FUSE_INIT.
func agreeURing(out *fuse.InitOut) {
	out.Flags2 |= uint32(fuse.CAP_OVER_IO_URING >> 32)
}

// bind runs f in a goroutine with a thread of its own, bound to a processor unless cpu is negative. The runtime starts
// no other thread from it, and ends it with the goroutine. It is never the main thread: that cannot end, and its
// processors are taken for the process's (divideQueues).
func bind(cpu int, f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			begun := make(chan struct{})
			bind(cpu, func() { close(begun); f() })
			<-begun
			runtime.UnlockOSThread()
			return
		}
		if cpu >= 0 {
			var set unix.CPUSet
			set.Set(cpu)
			// It fails if the processor has gone offline, or the cpuset has changed. The thread then runs anywhere.
			_ = unix.SchedSetaffinity(0, &set)
		}
		f()
	}()
}
