package conn

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// PollRequest is a FUSE_POLL request (struct fuse_poll_in). Kh names the open file to NotifyPoll. Flags has bit 0
// (FUSE_POLL_SCHEDULE_NOTIFY) if a caller waits; Events are the awaited events (since protocol 7.21, Linux 3.9). Pid
// is the calling thread, in the pid namespace of the mount's owner.
type PollRequest struct {
	NodeID, Fh, Kh uint64
	Flags, Events  uint32
	Pid            uint32
	Again          bool // sent before, without a reply that arrived
}

type pollIn struct {
	fuse.InHeader
	fh, kh        uint64
	flags, events uint32
}

type pollOut struct {
	fuse.OutHeader
	revents, padding uint32
}

// poll answers FUSE_POLL.
func (c *Conn) poll(in, out []byte) []byte {
	if c.cfg.Poll == nil {
		return errorReply(in, out, fuse.ENOSYS)
	}
	if !c.proto.ready.Load() || len(in) < int(unsafe.Sizeof(pollIn{})) {
		return errorReply(in, out, fuse.EIO)
	}
	p := (*pollIn)(unsafe.Pointer(&in[0]))
	revents, st := c.cfg.Poll(PollRequest{
		NodeID: p.NodeId, Fh: p.fh, Kh: p.kh, Flags: p.flags, Events: p.events, Pid: p.Pid,
		Again: p.Unique&resendBit != 0,
	})
	if !st.Ok() || p.Unique == 0 {
		return errorReply(in, out, st)
	}
	o := (*pollOut)(unsafe.Pointer(&out[0]))
	*o = pollOut{revents: revents}
	o.Length, o.Unique = uint32(unsafe.Sizeof(*o)), p.Unique
	return out[:unsafe.Sizeof(*o)]
}
