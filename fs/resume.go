package fs

import (
	"errors"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// load restores the state: open handles with the descriptors that the holder kept for them, and backings.
// handle.host opens the other descriptors when they are needed.
func (v *View) load(held map[uint64]int) {
	for _, rec := range v.state.Opens() {
		h, ok := v.loadHandle(rec, held)
		if !ok {
			// No such node in this version of the program.
			v.state.Remove(rec.FH)
			continue
		}
		v.handles.put(h)
	}
	v.backings.load()
	if last := v.state.LastBacking(); last > 0 {
		// The previous server may have died after it registered a file and before it stored the id. The kernel
		// numbers files consecutively.
		v.conn.CloseBacking(last + 1)
	}
}

func (v *View) loadHandle(rec state.Handle, held map[uint64]int) (*handle, bool) {
	n, st := v.node(rec.Node)
	if !st.Ok() || n.link != 0 {
		return nil, false
	}
	h := &handle{
		fh: rec.FH, hier: n.hier, dir: n.dir, file: n.file, life: n.life, fd: -1, leaf: -1, inode: rec.Inode, kh: rec.Kh,
	}
	if h.counted = rec.Flags & state.Stranger; h.counted != 0 {
		v.others.open.Add(1)
	}
	h.opener = credentials{uid: rec.UID, gid: rec.GID, admin: rec.Flags&state.Admin != 0}
	if n.file == "" {
		return h, true
	}
	h.decision = v.decide(n.hier, n.dir, n.file)
	if h.translated() {
		h.row, _ = n.hier.rowOf(n.file)
	}
	switch rec.Flags & (state.Reads | state.Writes) {
	case state.Reads | state.Writes:
		h.flags = unix.O_RDWR
	case state.Writes:
		h.flags = unix.O_WRONLY
	default:
		h.flags, h.reads = unix.O_RDONLY, true
	}
	if rec.Flags&state.NonBlock != 0 {
		h.flags |= unix.O_NONBLOCK
	}
	if rec.Backing != 0 {
		h.backing = v.backings.adopt(rec.Node, rec.File, rec.Backing)
	}
	h.fd, h.held = popHeld(held, rec.FH)
	h.leaf, _ = popHeld(held, rec.FH|leafKey)
	h.pos, h.leafPos = unknownPos, unknownPos
	if rec.Flags&state.Trigger != 0 && h.fd >= 0 {
		h.trigger = v.triggers.reserve()
		// The previous server may have consumed an event.
		h.fired.Store(unix.POLLPRI)
	}
	return h, true
}

// popHeld removes a descriptor from held.
func popHeld(held map[uint64]int, key uint64) (fd int, ok bool) {
	fd, ok = held[key]
	if !ok {
		return -1, false
	}
	delete(held, key)
	return fd, true
}

// Resend asks the kernel to send the unanswered requests of the previous server again. Call it before Serve, which
// then reads them before any new request. Where the kernel cannot, Serve itself finishes those that have begun.
func (v *View) Resend() error { return v.conn.Resend() }

// finishOthers handles again what the previous server had begun and not finished, where the kernel sends no request
// again. What it has not begun itself when new requests are read is left: it could undo a newer one.
func (v *View) finishOthers() {
	defer v.late.Store(true)
	all := v.state.Unfinished()
	if len(all) > 0 && v.settle != nil {
		v.settle()
	}
	var requests [][]byte
	for _, u := range all {
		h := (*fuse.InHeader)(unsafe.Pointer(&u.Request[0]))
		if h.Opcode == conn.OpWrite && !ranAt(int(h.Pid), u.At) {
			h.Pid = 0
		}
		requests = append(requests, u.Request)
	}
	v.conn.Replay(requests)
}

// ranAt reports that the task of a number ran at a time since the boot, and so is who sent a request then: nobody waits
// in the kernel any more, and the number may be another thread's.
func ranAt(tid int, at time.Duration) bool {
	// In clock ticks, of which a second has 100 (USER_HZ).
	start, err := host.StartOf(tid)
	return err == nil && time.Duration(start)*(time.Second/100) <= at
}

// Wake wakes every waiter in the guest once, since an event may have come while no server ran. Serve must be
// running.
func (v *View) Wake() {
	for _, rec := range v.state.Opens() {
		if rec.Kh == 0 {
			continue
		}
		if h := v.handles.get(rec.FH); h != nil {
			if fd, err := h.host(); err == nil {
				v.await(h, rec.Kh, fd)
			}
		}
		if err := v.conn.NotifyPoll(rec.Kh); err != nil {
			v.log.WithError(err).Debug("cannot notify a poll")
		}
	}
	for _, id := range v.state.Watched() {
		v.queue.do(func() { v.rewatchFile(id) })
	}
}

// rewatchFile watches a file again that the guest may be watching, and fires the guest's watch once.
func (v *View) rewatchFile(id uint64) {
	n, st := v.node(id)
	if !st.Ok() || n.hier == nil || n.file == "" {
		return
	}
	// In whatever life: the number that is stored has none.
	d, err := n.hier.acquire(n.dir)
	if err != nil {
		return
	}
	v.watch(n.hier, d)
	v.watchFile(n.hier, d, n.file)
	d.Release()
	v.poke(n.hier, n.dir, n.file)
}

// Gone reports that the host has removed a boundary. The view then shows nothing in its place.
func (v *View) Gone() bool {
	for _, hier := range v.hierarchies {
		d, err := hier.boundary.Root()
		if err != nil {
			return true
		}
		var st unix.Stat_t
		err = d.Lookup("cgroup.procs", &st)
		d.Release()
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			return true
		}
	}
	return false
}
