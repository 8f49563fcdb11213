package fs

import (
	"bytes"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// maxKernfsWrite is the longest write that kernfs accepts (PAGE_SIZE, kernfs_fop_write_iter); a longer one is E2BIG
// without effect. The view repeats the check because a guarded write does not pass the guest's bytes on. cpuset
// allows longer lists (max_write_len), and its bound is the host's to check.
const maxKernfsWrite = 4096

// Write passes one command to the opened control file: the guest's bytes where nothing is checked, otherwise the
// canonical form of the parsed value (rule 10). The offset is ignored, as by kernfs. It returns the full length of
// the request or an error.
func (r *rawFS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	v := r.view()
	h := v.handles.get(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	if _, err := h.host(); err != nil && !h.translated() {
		return 0, status(err)
	}
	n := uint32(len(data))
	data, done, st := h.whole(in, data)
	if done || !st.Ok() {
		return n, st
	}
	checked := h.decision.Verdict == hierarchy.Guarded || h.translated()
	if len(data) > maxKernfsWrite && checked && h.decision.File.Controller != "cpuset" {
		return 0, fuse.Status(unix.E2BIG)
	}
	ch := v.begin("write", &in.InHeader, func() (a, b, c uint64) {
		own, leaf := h.positions()
		return uint64(own), uint64(leaf), in.Fh
	})
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

// writeAgain answers a write that the kernel sends again and that may have reached the host. It did if a
// descriptor's position moved.
func (v *View) writeAgain(cancel <-chan struct{}, h *handle, in *fuse.WriteIn, data []byte, ch *change) fuse.Status {
	structure := h.decision.File.Constraint == hierarchy.Members || h.decision.File.Constraint == hierarchy.Subtree
	if h.translated() || h.hier.lent != nil && structure {
		// Done again it ends as done once. The host's v2 tree may have a move that its v1 hierarchies do not have.
		err := v.write(cancel, h, in.Pid, data, ch)
		if err != nil && h.hier.lent != nil && h.decision.File.Constraint == hierarchy.Members {
			// The caller, whose numbers the command is in, may be gone.
			v.finishMove(h)
		}
		return v.tried(&in.InHeader, h, err)
	}
	own, leaf := h.positions()
	if uint64(own) != ch.entry.A || uint64(leaf) != ch.entry.B {
		if c := constraints[h.decision.File.Constraint]; c.wrote != nil {
			c.wrote(v, h)
		}
		return fuse.OK
	}
	return v.tried(&in.InHeader, h, v.write(cancel, h, in.Pid, data, ch))
}

// tried returns the errno of a write, and reports a refusal.
func (v *View) tried(in *fuse.InHeader, h *handle, err error) fuse.Status {
	st := status(err)
	var refused *refusal
	var outside *host.OutsideError
	switch {
	case errors.As(err, &outside):
		v.deny(in, "move", h.node(), "", "outside the boundary")
		if h.hier.bridge != nil {
			// v1 has no boundary: its errno is that of a number without a task.
			st = fuse.Status(unix.ESRCH)
		}
	case errors.As(err, &refused) && refused.quota:
		v.exceeded(in, "write", h.node(), "", refused.rule)
	case errors.As(err, &refused):
		v.deny(in, "write", h.node(), "", refused.rule)
	case st == errDenied && h.decision.Verdict == hierarchy.Guarded:
		v.deny(in, "write", h.node(), "", h.decision.Rule)
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

// write carries out a write within the verdict. tid is the writer's thread, used only to translate pids.
func (v *View) write(cancel <-chan struct{}, h *handle, tid uint32, data []byte, ch *change) error {
	defer ch.made()
	d := h.decision
	if h.translated() {
		return v.writeBridged(cancel, h, tid, data, ch.again)
	}
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

// pass writes bytes to the host's file. An interrupt of the guest's request interrupts the host's call too, so a
// reclaim ends when its caller is killed.
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

// untilNUL cuts data at the first NUL, where a kernel parser stops.
func untilNUL(data []byte) string {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		data = data[:i]
	}
	return string(data)
}
