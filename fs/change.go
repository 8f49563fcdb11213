package fs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// A request that the kernel sends again must take effect once, even if the host has changed something in between.
// Each request that changes the host therefore has an entry in the state (package state, journal.go) until its reply
// is written:
//
//   - Done: the reply is known; nothing is repeated.
//   - Begun: the server died in or around the host's call, and the host tells whether the call was made. mkdir makes
//     the cgroup with a mode of its own (makingMode) and sets the final mode once the entry is done. rmdir and
//     rename know the kernfs id, which the kernel gives to no other cgroup. A write moves the position of the host's
//     descriptor, which the holder has kept, if and only if it succeeded. setxattr and removexattr know whether the
//     attribute was set before.
//   - None: the server died before it began.
//
// While the caller waits, its kernel holds the lock of the directory or file, so no other request of the guest
// interferes.

// change is one change of the host by a request.
type change struct {
	entry *state.Entry
	name  string // of the operation, for failpoints
	again bool   // the request was sent before and had begun
	done  bool   // and its reply is known
}

// begin finds or makes the entry of a request. before reads the host: it returns values to compare with if the request
// is sent again. It is called after the previous server's last call into the host, which may still be under way when
// this server starts, and not at all if the reply is known.
func (v *View) begin(name string, in *fuse.InHeader, before func() (a, b, c uint64)) *change {
	first, again := conn.Resent(in.Unique)
	ch := &change{name: name}
	if again {
		if e := v.state.Find(first); e != nil && uint32(e.Op) == in.Opcode {
			if e.State == state.Begun && v.late.Load() {
				e.Finish(uint16(unix.ECONNABORTED))
			}
			if e.State == state.Begun && v.settle != nil {
				// Otherwise both servers make the change, and the second one fails.
				v.settle()
			}
			ch.entry, ch.again, ch.done = e, true, e.State == state.Done
			if !ch.done {
				before()
			}
			return ch
		}
	}
	a, b, c := before()
	ch.entry = v.state.Begin(state.Entry{Unique: first, Op: uint16(in.Opcode), A: a, B: b, C: c})
	failpoint(name + "-begun")
	return ch
}

// outcome returns the reply of a change that is done.
func (ch *change) outcome() fuse.Status { return fuse.Status(ch.entry.Status) }

// made marks the point right after the host's call.
func (ch *change) made() { failpoint(ch.name + "-made") }

// finish stores the reply and returns it.
func (ch *change) finish(st fuse.Status) fuse.Status {
	ch.entry.Finish(uint16(st))
	failpoint(ch.name + "-done")
	return st
}

// replied retires the entry of a request whose reply is written.
func (v *View) replied(unique uint64) {
	first, again := conn.Resent(unique)
	if again {
		v.state.Cleared(first)
	}
	v.state.Retire(first)
	failpoint("replied")
}

// keep copies a request that changes the host, where the kernel sends none again.
func (v *View) keep(request []byte) {
	h := (*fuse.InHeader)(unsafe.Pointer(&request[0]))
	switch h.Opcode {
	case conn.OpMkdir, conn.OpRmdir, conn.OpRename, conn.OpRename2, conn.OpWrite, conn.OpSetxattr, conn.OpRemovexattr:
		v.state.Keep(request)
	}
}

// suspect reports that the kernel sends a request again during which servers have crashed too often. It is then
// refused.
func (v *View) suspect(unique uint64) bool {
	first, _ := conn.Resent(unique)
	if !v.crashed {
		return false
	}
	return v.state.Suspect(first) > state.MaxCrashes
}

// reopened returns the number of an opening request without the resend bit. For a request that is sent again it
// closes the open that the first attempt made, since its reply never arrived.
func (v *View) reopened(unique uint64) uint64 {
	first, again := conn.Resent(unique)
	if again {
		if fh, ok := v.state.OpenedBy(first); ok {
			v.release(fh)
		}
	}
	return first
}
