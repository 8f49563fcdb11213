package conn

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The kernel sends INTERRUPT for a signal to the caller of a request, but not if the signal comes between the choice of
// the request's slot and its delivery there: fuse_uring_prepare_send does not check for it (Linux 6.18). Nor does an
// INTERRUPT have an effect that is read before its request, because it does not come by the queue. So look checks the
// callers of requests that are held for some time.
const signalsEvery = 100 * time.Millisecond

// hold notes a request that leaves its thread.
func (rs *rings) hold(h *fuse.InHeader, s *slot) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	s.caller, s.interrupted = h.Pid, false
	rs.held[h.Unique] = s
	if !rs.looking {
		rs.looking = true
		time.AfterFunc(signalsEvery, rs.look)
	}
}

// release ends hold. It returns the request's slot, nil for a request that is not held.
func (rs *rings) release(unique uint64) *slot {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	s := rs.held[unique]
	delete(rs.held, unique)
	return s
}

// look interrupts the held requests whose callers have a signal, and comes again as long as there are held ones.
func (rs *rings) look() {
	for unique, caller := range rs.callers() {
		if signalled(caller) {
			rs.interrupted(unique)
		}
	}
}

// callers returns the callers of the held requests that are not interrupted.
func (rs *rings) callers() map[uint64]uint32 {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	all := map[uint64]uint32{}
	for unique, s := range rs.held {
		if !s.interrupted {
			all[unique] = s.caller
		}
	}
	rs.looking = len(rs.held) > 0 && !rs.stopping.Load()
	if rs.looking {
		time.AfterFunc(signalsEvery, rs.look)
	}
	return all
}

// interrupted interrupts a held request; false if there is none of this number.
func (rs *rings) interrupted(unique uint64) (held bool) {
	if rs == nil {
		return false
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	s := rs.held[unique]
	if s != nil && !s.interrupted {
		s.interrupted = true
		go rs.c.interruptHeld(unique)
	}
	return s != nil
}

// interruptHeld interrupts a held request once the pool, and go-fuse, have it.
func (c *Conn) interruptHeld(unique uint64) {
	for rs := c.rings.Load(); rs.holds(unique); time.Sleep(time.Millisecond) {
		removed, running := c.slow.interrupt(unique)
		if removed != nil {
			c.reply(rs.dev, errorReply(removed.body, make([]byte, headerSize), fuse.EINTR))
		}
		if running && c.proto.interrupt(unique) {
			return
		}
	}
}

func (rs *rings) holds(unique uint64) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.held[unique] != nil
}

// signalled reports that a thread has a signal that it does not block (proc_pid_status(5)). It cannot have exited, nor
// can its number be another's, while it waits for a reply.
func signalled(thread uint32) bool {
	b, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(thread), 10) + "/status")
	if err != nil {
		return false
	}
	var pending, blocked uint64
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		switch {
		case err != nil:
		case name == "SigPnd" || name == "ShdPnd":
			pending |= set
		case name == "SigBlk":
			blocked = set
		}
	}
	return pending&^blocked != 0
}
