package fs

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// constraint is the view's implementation of one constraint of hierarchy's table.
type constraint struct {
	// write carries out a write to a guarded file. It passes on the parsed value, never the guest's bytes.
	write func(v *View, cancel <-chan struct{}, h *handle, tid uint32, data []byte) error
	// allows repeats the kernel's check of the opener at an open for writing. Nil: the verdict suffices.
	allows func(h *handle) bool
	// wrote restores the server's part of a write that an earlier server carried out. Nil: there is none.
	wrote func(v *View, h *handle)
}

// constraints has a row for each constraint. One without a row is denied, at open and at write (rule 13).
var constraints = map[hierarchy.Constraint]constraint{
	hierarchy.Members:       {write: (*View).writeMember},
	hierarchy.Subtree:       {write: (*View).writeSubtree},
	hierarchy.Trigger:       {write: (*View).writeTrigger, wrote: (*View).countTrigger},
	hierarchy.Reclaim:       {write: (*View).writeReclaim},
	hierarchy.PerOpen:       {write: (*View).writePerOpen},
	hierarchy.Fake:          {write: (*View).writeFake},
	hierarchy.PriorityClass: {write: (*View).writePriority},
	hierarchy.DeviceRule:    {write: (*View).writeDeviceRule, allows: (*handle).byAdmin},
	hierarchy.Canonical:     {write: (*View).writeCanonical},
	hierarchy.Action:        {write: (*View).writeReclaim},
	hierarchy.Unchanged:     {write: (*View).writeUnchanged},
	hierarchy.ByPolicy:      {write: (*View).writeChecked},
}

// writeMember moves a task.
func (v *View) writeMember(_ <-chan struct{}, h *handle, tid uint32, data []byte) error {
	return v.move(h, tid, data)
}

// writeSubtree enables and disables controllers.
func (v *View) writeSubtree(cancel <-chan struct{}, h *handle, _ uint32, data []byte) error {
	return v.delegate(cancel, h, data)
}

// writePerOpen passes any text: the kernel ignores the text and resets the value that the open file shows.
func (v *View) writePerOpen(cancel <-chan struct{}, h *handle, _ uint32, data []byte) error {
	return v.pass(cancel, h, data)
}

// writeCanonical passes the canonical form of the value that the file's grammar parsed.
func (v *View) writeCanonical(cancel <-chan struct{}, h *handle, _ uint32, data []byte) error {
	value, err := h.decision.File.Grammar.Parse(data)
	if err != nil {
		return err
	}
	return v.pass(cancel, h, value.Canonical())
}

// writeChecked passes the canonical form of the value that the policy's check parsed.
func (v *View) writeChecked(cancel <-chan struct{}, h *handle, _ uint32, data []byte) error {
	if h.decision.Check == nil {
		return unix.EPERM
	}
	canonical, err := h.decision.Check(data)
	if err != nil {
		return err
	}
	return v.pass(cancel, h, canonical)
}

// writeUnchanged accepts the file's present value and passes nothing on: programs write back the value they read, or
// a value that every host has. EPERM for any other.
func (v *View) writeUnchanged(_ <-chan struct{}, h *handle, _ uint32, data []byte) error {
	grammar := h.decision.File.Grammar
	want, err := grammar.Parse(data)
	if err != nil {
		return err
	}
	d, err := h.acquire()
	if err != nil {
		return unix.ENODEV
	}
	defer d.Release()
	raw, err := d.ReadFile(h.file)
	if err != nil {
		return unix.ENODEV
	}
	if have, err := grammar.Parse(raw); err != nil || !bytes.Equal(have.Canonical(), want.Canonical()) {
		return unix.EPERM
	}
	return nil
}

// writeReclaim runs one reclaim at a time in a guest. A second one gets EAGAIN, as from a kernel that can reclaim no
// more.
func (v *View) writeReclaim(cancel <-chan struct{}, h *handle, _ uint32, data []byte) error {
	value, err := h.decision.File.Grammar.Parse(data)
	if err != nil {
		return err
	}
	select {
	case v.reclaims <- struct{}{}:
	default:
		return unix.EAGAIN
	}
	defer func() { <-v.reclaims }()
	return v.pass(cancel, h, value.Canonical())
}

// byAdmin reports that the opener has CAP_SYS_ADMIN over the host, and remembers it (devcgroup_access_write).
func (h *handle) byAdmin() bool {
	h.opener.admin = host.HasHostAdmin(h.opener.tid)
	return h.opener.admin
}

// writeDeviceRule passes one rule. EINVAL for several: the kernel applies the first line and silently drops the rest
// (devcgroup_update_access).
func (v *View) writeDeviceRule(cancel <-chan struct{}, h *handle, _ uint32, data []byte) error {
	rule := strings.TrimSpace(untilNUL(data))
	if !h.opener.admin {
		return unix.EPERM
	}
	if rule == "" || strings.Contains(rule, "\n") {
		// An empty write would not reach the kernel, which answers EINVAL.
		return unix.EINVAL
	}
	return v.pass(cancel, h, []byte(rule))
}

// writePriority passes the I/O priority classes that lower a priority. EPERM for those that raise it above the
// host's setting (Documentation/admin-guide/cgroup-v2.rst, io.prio.class: it does not nest).
func (v *View) writePriority(cancel <-chan struct{}, h *handle, _ uint32, data []byte) error {
	switch class := strings.TrimSpace(untilNUL(data)); class {
	case "no-change", "restrict-to-be", "idle":
		return v.pass(cancel, h, []byte(class))
	case "promote-to-rt", "none-to-rt":
		return unix.EPERM
	}
	return unix.EINVAL
}
