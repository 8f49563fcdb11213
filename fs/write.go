package fs

import (
	"bytes"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// maxCommand is the longest write that kernfs takes (PAGE_SIZE, kernfs_fop_write_iter); a longer one is E2BIG and has no
// effect. Checked here too because a guarded write does not pass the guest's bytes on. Lists of a cpuset may be longer
// (max_write_len), and the host says how long.
const maxCommand = 4096

// Write passes one command to the control file that was opened: its bytes untouched where nothing is checked, otherwise
// the canonical form of what was parsed (rule 10). The offset means nothing, as on kernfs. It returns the request's whole
// length or an error, never less.
func (r *rawFS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	v := r.view()
	h := v.handles.get(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	if _, err := h.host(); err != nil {
		return 0, status(err)
	}
	n := uint32(len(data))
	data, done, st := h.whole(in, data)
	if done || !st.Ok() {
		return n, st
	}
	if len(data) > maxCommand && h.decision.Verdict == hierarchy.Guarded && h.decision.File.Controller != "cpuset" {
		return 0, fuse.Status(unix.E2BIG)
	}
	own, leaf := h.positions()
	ch := v.begin("write", &in.InHeader, uint64(own), uint64(leaf), in.Fh)
	if !ch.again {
		ch.finish(v.tried(&in.InHeader, h, v.write(cancel, h, in.Pid, data, ch)))
	} else if !ch.done {
		ch.finish(v.writeAgain(cancel, h, in, data, ch))
	}
	if st := ch.outcome(); !st.Ok() {
		h.noRest()
		return 0, st
	}
	return n, fuse.OK
}

// writeAgain answers a write of which it is not known whether it reached the host: it did if a descriptor's position moved.
func (v *View) writeAgain(cancel <-chan struct{}, h *handle, in *fuse.WriteIn, data []byte, ch *change) fuse.Status {
	own, leaf := h.positions()
	if uint64(own) != ch.entry.A || uint64(leaf) != ch.entry.B {
		if c := constraints[h.decision.File.Constraint]; c.wrote != nil {
			c.wrote(v, h)
		}
		return fuse.OK
	}
	return v.tried(&in.InHeader, h, v.write(cancel, h, in.Pid, data, ch))
}

// tried is the errno of a write, after the refusals among them were told of.
func (v *View) tried(in *fuse.InHeader, h *handle, err error) fuse.Status {
	st := status(err)
	var refused *refusal
	var outside *host.OutsideError
	switch {
	case errors.As(err, &outside):
		v.deny(in, "move", node{hier: h.hier, dir: h.dir, file: h.file}, "", "outside the boundary")
	case errors.As(err, &refused) && refused.quota:
		v.exceeded(in, "write", node{hier: h.hier, dir: h.dir, file: h.file}, "", refused.rule)
	case errors.As(err, &refused):
		v.deny(in, "write", node{hier: h.hier, dir: h.dir, file: h.file}, "", refused.rule)
	case st == errDenied && h.decision.Verdict == hierarchy.Guarded:
		v.deny(in, "write", node{hier: h.hier, dir: h.dir, file: h.file}, "", h.decision.Rule)
	}
	return st
}

// Writev is Write for data in pieces.
func (r *rawFS) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) == 1 {
		return r.Write(cancel, in, data[0])
	}
	return r.Write(cancel, in, bytes.Join(data, nil))
}

// write carries out what the verdict allows. tid is the writer's thread, for pids and for nothing else.
func (v *View) write(cancel <-chan struct{}, h *handle, tid uint32, data []byte, ch *change) error {
	defer ch.made()
	d := h.decision
	if d.Verdict == hierarchy.ReadWrite {
		return v.pass(cancel, h, data)
	}
	if d.Verdict != hierarchy.Guarded {
		return unix.EPERM
	}
	c, known := constraints[d.File.Constraint]
	if !known || (d.Check != nil) != (d.File.Constraint == hierarchy.ByPolicy) {
		return unix.EPERM
	}
	return c.write(v, cancel, h, tid, data)
}

// pass writes bytes to the host's file. While it runs an interrupt of the guest's request interrupts the host call too, so
// that a reclaim ends when its caller is killed.
func (v *View) pass(cancel <-chan struct{}, h *handle, data []byte) error {
	if h.decision.File.Threads {
		return h.makeThreaded(cancel, data)
	}
	if !h.decision.File.Blocks {
		return h.command(data)
	}
	fd, err := h.host()
	if err != nil {
		return err
	}
	n, err := host.WriteInterruptible(cancel, fd, data)
	h.wrote(n)
	if err == nil && h.decision.File.Hides {
		v.forget(cancel, h.hier, h.dir, v.invalidateGone)
	}
	return err
}

// command writes bytes to the host's file.
func (h *handle) command(data []byte) error {
	fd, err := h.host()
	if err != nil {
		return err
	}
	n, err := host.WriteCommand(fd, data)
	h.wrote(n)
	return err
}

// untilNUL is the text that a kernel parser sees: kernfs ends the buffer with a NUL and the guest may have sent one.
func untilNUL(data []byte) string {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		data = data[:i]
	}
	return string(data)
}
