package conn

import (
	"bytes"
	"encoding/binary"
	"os"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// helper is a second thread of a queue, which runs slow requests. It is bound to the same processor, so that none other
// has to wake up.
type helper struct {
	thread *ringThread                 // immutable
	event  int                         // immutable: an eventfd, signalled for each request
	due    atomic.Pointer[slowRequest] // to be run
	busy   atomic.Bool                 // it has a request, or is about to get one
	over   atomic.Bool                 // the queue's thread gives no more
}

func newHelper(t *ringThread) (*helper, error) {
	event, err := newEvent()
	if err != nil {
		return nil, err
	}
	return &helper{thread: t, event: event}, nil
}

// run runs requests until the queue's thread has ended.
func (h *helper) run() {
	rs := h.thread.rings
	defer rs.running.Done()
	var count [8]byte
	for {
		over := h.over.Load()
		if r := h.due.Swap(nil); r != nil {
			rs.c.runSlow(rs.dev, r)
			h.busy.Store(false)
		}
		if over {
			return
		}
		// It fails for a signal alone.
		_, _ = unix.Read(h.event, count[:])
	}
}

// end lets the helper end after what it was given.
func (h *helper) end() {
	if h != nil {
		h.over.Store(true)
		signalEvent(h.event)
	}
}

// give has the helper run a request. False if it is busy.
func (h *helper) give(r *slowRequest) bool {
	if h == nil || h.busy.Swap(true) {
		return false
	}
	h.due.Store(r)
	signalEvent(h.event)
	return true
}

func (h *helper) free() {
	if h != nil {
		unix.Close(h.event)
	}
}

// pass has a slow request run by the helper, or by a goroutine. As long as some slots are left for other requests: a
// flood of slow ones gets EAGAIN.
func (t *ringThread) pass(s *slot, in []byte) {
	rs, unique := t.rings, header(in).Unique
	if !s.queue.spare() {
		t.refuse(s, in, fuse.EAGAIN)
		return
	}
	rs.hold(header(in), s)
	refusal := rs.c.slowBy(in, func(r *slowRequest) {
		if !t.helper.give(r) {
			go rs.c.runSlow(rs.dev, r)
		}
	})
	if refusal != fuse.OK {
		rs.release(unique)
		t.refuse(s, in, refusal)
		return
	}
	s.queue.held++
}

// reply takes a copy of the reply to a request of a queue, from any goroutine; false for one that was read from the
// device.
func (rs *rings) reply(reply []byte) bool {
	if rs == nil {
		return false
	}
	s := rs.release((*fuse.OutHeader)(pointer(reply, 0)).Unique)
	if s == nil {
		return false
	}
	s.thread.mu.Lock()
	s.thread.replies = append(s.thread.replies, ringReply{s, bytes.Clone(reply)})
	s.thread.mu.Unlock()
	s.thread.wake()
	return true
}

// sendReplies answers the requests that other threads have handled.
func (t *ringThread) sendReplies() {
	t.mu.Lock()
	replies := t.replies
	t.replies = nil
	t.mu.Unlock()
	for _, r := range replies {
		r.slot.queue.held--
		t.commit(r.slot, r.reply)
	}
}

// wake has the thread look at what other threads leave for it.
func (t *ringThread) wake() {
	if t.event >= 0 {
		signalEvent(t.event)
	}
}

// newEvent makes an eventfd; -1 with an error.
func newEvent() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("eventfd", err)
	}
	return fd, nil
}

func signalEvent(fd int) {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(fd, one[:])
}
