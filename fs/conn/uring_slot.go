package conn

import (
	"os"

	"golang.org/x/sys/unix"
)

// ringQueue is the queue of a processor.
type ringQueue struct {
	number, slots int // immutable
	held          int // slots with a request that has left the queue's thread, which alone counts them
}

// spare reports that another slow request leaves enough slots for other requests.
func (q *ringQueue) spare() bool { return q.held+slotsSpare < q.slots }

// Slots of a queue with a thread of its own, and of any other. There cannot be more later: the kernel gives a waiting
// request to a slot that was just answered, but not to one that was just registered (fuse_uring_do_register).
const (
	slotsBound = 128
	slotsOther = 16
	slotsSpare = 4
)

// The commands, and struct fuse_uring_req_header with the offsets of its parts, of include/uapi/linux/fuse.h.
const (
	cmdRegister       = 1
	cmdCommitAndFetch = 2

	partIn      = 0   // struct fuse_in_header, or fuse_out_header
	partOp      = 128 // the request's first structure
	partCommit  = 256 + 8
	partPayload = 256 + 16 // the size of what is in the payload
	partsSize   = 288
)

// A slot's memory: the header's parts, room to put a request together, and the payload, for which the kernel wants as
// many pages as a request may have. Most requests touch the first page alone, and no other becomes resident.
const (
	slotPayload = 512
	payloadMax  = MaxPages * pageSize
	slotSize    = payloadMax + pageSize
	// slotResident bounds what stays resident of a slot.
	slotResident = 4 * pageSize
)

// slot is a place for one request in a queue. Only the queue's thread uses it.
type slot struct {
	thread *ringThread // immutable
	queue  *ringQueue  // immutable
	index  int         // immutable
	mem    []byte      // immutable

	command  uint32 // last submitted
	commitID uint64 // with it
	used     int    // bytes of the memory that may be resident

	caller      uint32 // guarded by rings.mu; the thread that waits for the reply to a held request
	interrupted bool   // guarded by rings.mu; the held request was interrupted
}

// makeSlots makes the slots of the thread's queues.
func (t *ringThread) makeSlots() (err error) {
	n := 0
	for _, q := range t.queues {
		n += q.slots
	}
	if t.mem, err = unix.Mmap(-1, 0, n*slotSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err != nil {
		return os.NewSyscallError("mmap", err)
	}
	t.vectors = make([][2]unix.Iovec, n)
	for _, q := range t.queues {
		for range q.slots {
			i := len(t.slots)
			t.slots = append(t.slots, &slot{thread: t, queue: q, index: i, mem: t.mem[i*slotSize:][:slotSize:slotSize]})
		}
	}
	return nil
}

// register gives a slot to the kernel.
func (t *ringThread) register(s *slot) {
	v := &t.vectors[s.index]
	v[0].Base, v[1].Base = &s.mem[0], &s.mem[slotPayload]
	v[0].SetLen(partsSize)
	v[1].SetLen(payloadMax)
	s.command = cmdRegister
	t.live++
	t.submit(s)
}

// registerAll gives the kernel the slots of the thread.
//
// The kernel lets requests in once each queue has a slot. A request that finds none free in its queue waits for an
// answer there, which a slow one may delay at will, and not for another registration. So all queues but one have all
// their slots by then. That one gets them by one system call, during which no other thread runs on its processor.
func (t *ringThread) registerAll() {
	if t.last {
		t.rings.others.Done()
		t.rings.others.Wait()
		defer func() { _ = realTime(false) }()
	} else {
		defer t.rings.others.Done()
	}
	for _, s := range t.slots {
		t.register(s)
	}
	if err := t.ring.enter(0); err != nil {
		t.rings.c.cfg.Log.WithError(err).Debug("io_uring: the slots are registered later")
	}
}

// realTime gives the thread precedence over all others that have none themselves (sched(7)), or takes it back. EPERM
// without CAP_SYS_NICE, or where the cgroup has no share of real time.
func realTime(on bool) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if on {
		attr.Policy, attr.Priority = unix.SCHED_FIFO, 1
	}
	return os.NewSyscallError("sched_setattr", unix.SchedSetAttr(0, &attr, 0))
}

// request puts the parts of a request together, in front of its payload. Nil if they are not a request, which no kernel
// sends.
func (s *slot) request() []byte {
	length := int(header(s.mem).Length)
	payload := int(*(*uint32)(pointer(s.mem, partPayload)))
	s.commitID = *(*uint64)(pointer(s.mem, partCommit))
	op := length - inHeader - payload
	if op < 0 || op > partsSize-partOp || payload > payloadMax {
		return nil
	}
	s.used = max(s.used, slotPayload+payload)
	from := slotPayload - op - inHeader
	copy(s.mem[from+inHeader:slotPayload], s.mem[partOp:])
	copy(s.mem[from:from+inHeader], s.mem[partIn:])
	return s.mem[from : from+length : from+length]
}

// put writes a reply over the request, and gives up memory that a long request, or the last reply, has taken.
func (s *slot) put(reply []byte) {
	copy(s.mem[partIn:], reply[:headerSize])
	n := copy(s.mem[slotPayload:], reply[headerSize:])
	*(*uint32)(pointer(s.mem, partPayload)) = uint32(n)
	s.used = max(s.used, slotPayload+n)
	if keep := max(slotResident, (slotPayload+n+pageSize-1)&^(pageSize-1)); s.used > keep {
		_ = unix.Madvise(s.mem[keep:], unix.MADV_DONTNEED)
		s.used = keep
	}
}
