package conn

import (
	"errors"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ringThread is the thread of a queue, or of several ones.
type ringThread struct {
	rings *rings // immutable
	cpu   int    // immutable; -1: any
	last  bool   // immutable: it registers its slots last

	queues []*ringQueue // used by the thread alone, as all below
	ring   *ring
	event  int    // an eventfd, whose reads are submissions of the ring
	count  []byte // read from it
	mem    []byte // of the slots
	slots  []*slot
	live   int     // slots that the kernel has not given back
	helper *helper // nil: none

	vectors [][2]unix.Iovec // of the slots' memory, for their registration

	mu      sync.Mutex
	replies []ringReply // guarded by mu; from other threads
}

// ringReply is a reply to the request in a slot.
type ringReply struct {
	slot  *slot
	reply []byte
}

// eventData marks the completion of the event's read.
const eventData = ^uint64(0)

// submissionsAtOnce is the room of a ring: for all slots of a queue with a thread of its own.
const submissionsAtOnce = 2 * slotsBound

// run is the thread. It reports on ready whether it can serve, and waits for the kernel's agreement.
func (t *ringThread) run(ready chan<- error) {
	defer t.rings.running.Done()
	err := t.setUp()
	if t.ring != nil {
		defer t.ring.close()
	}
	ready <- err
	<-t.rings.begin
	if err != nil || t.rings.stopping.Load() {
		t.rings.others.Done()
		return
	}
	if t.helper != nil {
		t.rings.running.Add(1)
		bind(t.cpu, t.helper.run)
		defer t.helper.end()
	}
	t.registerAll()
	t.readEvent()
	t.serve()
}

// setUp makes the ring, the event and the first slots.
func (t *ringThread) setUp() (err error) {
	t.count = make([]byte, 8)
	if t.event, err = newEvent(); err != nil {
		return err
	}
	if t.cpu >= 0 {
		if t.helper, err = newHelper(t); err != nil {
			return err
		}
	}
	if err := t.makeSlots(); err != nil {
		return err
	}
	if t.ring, err = newRing(submissionsAtOnce); err != nil {
		return err
	}
	if t.last {
		if err := realTime(true); err != nil {
			return err
		}
	}
	if cerr := t.rings.dev.control(func(fd int) {
		err = t.ring.register(int32(fd), int32(t.event))
	}); cerr != nil {
		return os.ErrClosed
	}
	return err
}

// Indexes of the files registered with a ring.
const (
	fileDevice = 0
	fileEvent  = 1
)

// serve handles requests until the kernel has given every slot back, or the threads are to end.
func (t *ringThread) serve() {
	for t.live > 0 && !t.rings.stopping.Load() {
		if err := t.ring.enter(1); err != nil && !t.retry(err) {
			t.rings.c.cfg.Log.WithError(err).Error("cannot serve by io_uring, the connection ends")
			go t.rings.c.Close()
			return
		}
		t.complete()
	}
}

// complete handles what the kernel has completed.
func (t *ringThread) complete() {
	for data, result, ok := t.ring.next(); ok; data, result, ok = t.ring.next() {
		switch {
		case data == eventData:
			t.sendReplies()
			t.readEvent()
		case result == 0:
			t.take(t.slots[data])
		default:
			t.refused(t.slots[data], unix.Errno(-result))
		}
	}
}

// retry reports an error of io_uring_enter(2) after which it can be called again.
func (t *ringThread) retry(err error) bool {
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY) {
		time.Sleep(time.Millisecond)
		return true
	}
	return errors.Is(err, unix.EINTR)
}

// refused handles a command without a request. ENOTCONN and ECONNABORTED: the connection has ended. ENOENT: it ended
// while the reply was on its way. The kernel does not use the slot any more, unless it is to be submitted again.
func (t *ringThread) refused(s *slot, errno unix.Errno) {
	switch errno {
	case unix.EAGAIN, unix.EINTR:
		t.submit(s)
		return
	case unix.ENOTCONN, unix.ECONNABORTED, unix.ENOENT, unix.ECANCELED:
	default:
		t.rings.c.cfg.Log.WithError(errno).Errorf("the kernel refuses command %d of io_uring", s.command)
	}
	t.live--
}

// submit adds the slot's command to the ring.
func (t *ringThread) submit(s *slot) {
	e := t.ring.add()
	e.opcode, e.flags, e.fd, e.off = opURingCmd, fixedFile, fileDevice, uint64(s.command)
	e.data, e.reqQueue, e.reqCommitID = uint64(s.index), uint16(s.queue.number), s.commitID
	if s.command == cmdRegister {
		e.addr, e.length = uint64(uintptr(unsafe.Pointer(&t.vectors[s.index]))), 2
	}
}

func (t *ringThread) readEvent() {
	e := t.ring.add()
	e.opcode, e.flags, e.fd, e.off, e.data = opRead, fixedFile, fileEvent, ^uint64(0), eventData
	e.addr, e.length = uint64(uintptr(unsafe.Pointer(&t.count[0]))), uint32(len(t.count))
}

// take handles the request in a slot, or passes it to another thread.
func (t *ringThread) take(s *slot) {
	c, in := t.rings.c, s.request()
	h := header(in)
	if h == nil {
		// No kernel sends it.
		t.commit(s, nil)
		return
	}
	if c.closing.Load() {
		t.refuse(s, in, fuse.Status(unix.ECONNABORTED))
		return
	}
	m := messages.Get().(*message)
	defer messages.Put(m)
	mine := message{in: in, out: m.out}
	if c.isSlow(&mine, len(in)) {
		t.pass(s, in)
		return
	}
	t.commit(s, c.respond(&mine, len(in)))
	if mine.panicked {
		_ = t.ring.enter(0)
		c.afterPanic(&mine)
	}
}

func (t *ringThread) refuse(s *slot, in []byte, st fuse.Status) {
	var out [headerSize]byte
	t.commit(s, errorReply(in, out[:], st))
}

// commit answers the request in a slot and gives the slot back. Every request here wants a reply, and gets EIO without
// one.
func (t *ringThread) commit(s *slot, reply []byte) {
	if len(reply) < headerSize {
		reply = make([]byte, headerSize)
		*(*fuse.OutHeader)(pointer(reply, 0)) = fuse.OutHeader{
			Length: uint32(headerSize), Status: -int32(fuse.EIO), Unique: s.commitID,
		}
	}
	s.put(reply)
	s.command = cmdCommitAndFetch
	t.submit(s)
	if v := t.rings.c.cfg.Survival; v != nil && v.Replied != nil {
		v.Replied((*fuse.OutHeader)(pointer(reply, 0)).Unique)
	}
}

// free releases what other threads may have used as long as they ran.
func (t *ringThread) free() {
	t.helper.free()
	if t.event >= 0 {
		unix.Close(t.event)
	}
	if t.mem != nil {
		_ = unix.Munmap(t.mem)
	}
}
