package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// A request that the kernel sends again must have the effect of one, also when the host changed something in between. Each
// request that changes the host therefore has an entry in the state (package state, journal.go) until its reply is written:
//
//   - Done: the reply is known, and nothing is done again.
//   - Begun: the server died in or around the host's call. A look at the host tells whether that was made:
//     mkdir makes the cgroup with a mode that nothing else has (makingMode) and changes it when the entry is done; rmdir and
//     rename know the kernfs id, which no other cgroup ever has; a write moves the position of the host's descriptor, which
//     the holder has kept, if and only if it succeeded; setxattr and removexattr know whether the attribute was there.
//   - None: the server died before it began.
//
// While the caller waits its kernel holds the locks of the directory or file, so nobody else in the guest comes between.

// change is a change of the host that a request makes.
type change struct {
	entry *state.Entry
	name  string // of the operation, for failpoints
	again bool   // the request was sent before, and had begun
	done  bool   // and its outcome is known
}

// begin finds or makes the entry of a request. a, b and c are what a later look at the host needs.
func (v *View) begin(name string, in *fuse.InHeader, a, b, c uint64) *change {
	first, again := conn.Resent(in.Unique)
	ch := &change{name: name}
	if again {
		if e := v.state.Find(first); e != nil && uint32(e.Op) == in.Opcode {
			if e.State == state.Begun && v.settle != nil {
				v.settle() // else both servers would make the change, and the later one be refused
			}
			ch.entry, ch.again, ch.done = e, true, e.State == state.Done
			return ch
		}
	}
	ch.entry = v.state.Begin(state.Entry{Unique: first, Op: uint16(in.Opcode), A: a, B: b, C: c})
	failpoint(name + "-begun")
	return ch
}

// outcome is the reply of a change that is done.
func (ch *change) outcome() fuse.Status { return fuse.Status(ch.entry.Status) }

// made is called right after the host's call.
func (ch *change) made() { failpoint(ch.name + "-made") }

// finish keeps the reply and gives it back.
func (ch *change) finish(st fuse.Status) fuse.Status {
	ch.entry.Finish(uint16(st))
	failpoint(ch.name + "-done")
	return st
}

// replied is told that a request's reply is written.
func (v *View) replied(unique uint64) {
	first, again := conn.Resent(unique)
	if again {
		v.state.Cleared(first)
	}
	v.state.Retire(first)
	failpoint("replied")
}

// suspect says whether a request that is sent again is to be refused: servers crashed again and again during it.
func (v *View) suspect(unique uint64) bool {
	first, _ := conn.Resent(unique)
	if !v.crashed {
		return false
	}
	return v.state.Suspect(first) > state.MaxCrashes
}

// reopened gives the number of a request that opens something. When it is sent again, what it opened the first time is
// closed: nobody was told of it.
func (v *View) reopened(unique uint64) uint64 {
	first, again := conn.Resent(unique)
	if again {
		if fh, ok := v.state.OpenedBy(first); ok {
			v.release(fh)
		}
	}
	return first
}
