package fs

import (
	"maps"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// pollSchedule is FUSE_POLL_SCHEDULE_NOTIFY: a waiter wants FUSE_NOTIFY_POLL.
const pollSchedule = 1

// pollAlways is the poll result of an ordinary file (DEFAULT_POLLMASK without the RDNORM forms).
const pollAlways = unix.POLLIN | unix.POLLOUT | 0x40 | 0x100 // with POLLRDNORM and POLLWRNORM

// pollGone is kernfs's poll result of a removed file (kernfs_fop_poll).
const pollGone = pollAlways | unix.POLLERR | unix.POLLPRI

// poll answers FUSE_POLL from the host descriptor of the same open, which keeps the state: kernfs compares its event
// count with that of the last read (kernfs_generic_poll), and PSI attaches the trigger to it.
func (v *View) poll(in conn.PollRequest) (uint32, fuse.Status) {
	h := v.handles.get(in.Fh)
	if h == nil {
		return pollAlways, fuse.OK
	}
	fd, err := h.host()
	if err == unix.ENODEV || h.hier != nil && h.translated() && !h.there() {
		return pollGone, fuse.OK
	}
	if err != nil {
		return pollAlways, fuse.OK
	}
	if h.decision.File.Pollable && (in.Flags&pollSchedule != 0 || v.nested()) {
		v.await(h, in.Kh, fd)
	}
	if in.Again && h.decision.File.Pollable {
		// The previous server may have consumed the event.
		h.fired.Or(unix.POLLPRI | unix.POLLERR)
	}
	revents, err := pollNow(fd, int16(in.Events))
	if err != nil {
		return 0, status(err)
	}
	if revents&unix.POLLPRI != 0 && h.reads && h.backing != nil {
		// The guest reads through a host file of its own, so this one would report POLLPRI for ever. Reading it
		// acknowledges the event; a later event is new again, so none is lost.
		unix.Pread(fd, make([]byte, 1), 0)
	}
	return revents | h.fired.And(^in.Events)&in.Events, fuse.OK
}

// pollNow is poll(2) of one descriptor without waiting. It retries, since Go's own signals interrupt it.
func pollNow(fd int, events int16) (uint32, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		_, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return uint32(uint16(fds[0].Revents)), err
		}
	}
}

// await arranges a notification of the guest, under the number kh, for the next event of an open.
func (v *View) await(h *handle, kh uint64, fd int) {
	known := v.keepPolled(h, kh, fd)
	trigger := h.hasTrigger()
	var err error
	if v.nested() && !known && !trigger {
		// The state before the first read; no one else reports an event from before.
		h.fired.Or(unix.POLLPRI | unix.POLLERR)
	}
	// A nested view reports an event once, as a trigger does.
	if trigger || v.nested() {
		// Poll before Follow, which polls as well and drops the result.
		if revents, err := pollNow(fd, unix.POLLPRI); err == nil {
			h.fired.Or(revents)
		}
		err = v.poller.Follow(fd, kh, func(kh uint64, revents uint32) {
			// The poller consumed the event.
			h.fired.Or(revents)
			v.polled(kh, revents)
		})
	} else {
		err = v.poller.Add(fd, kh, v.polled)
	}
	if err != nil {
		v.log.WithError(err).Warn("cannot wait for events of a control file")
	}
}

// seen acknowledges the events before a read of the file by the guest. A trigger's events stay, whoever reads.
func (h *handle) seen() {
	if !h.hasTrigger() {
		h.fired.And(^uint32(unix.POLLPRI | unix.POLLERR))
	}
}

// endPolls removes all opens from the poller. The connection is over: no request opens, polls or releases.
func (v *View) endPolls() {
	v.handles.mu.RLock()
	open := slices.Collect(maps.Values(v.handles.open))
	v.handles.mu.RUnlock()
	for _, h := range open {
		h.mu.Lock()
		kh, fd := h.kh, h.fd
		h.mu.Unlock()
		if kh != 0 && fd >= 0 {
			v.poller.Remove(fd)
		}
	}
}

// keepPolled stores the poll number, and gives the descriptor to the holder: the host's descriptor knows which
// events its reader has seen, so the next server needs the same one. False for a new number.
func (v *View) keepPolled(h *handle, kh uint64, fd int) bool {
	h.mu.Lock()
	known, held := h.kh == kh, h.held
	h.kh, h.held = kh, true
	h.mu.Unlock()
	if !held {
		v.hold(h.fh, fd)
	}
	if !known || !held {
		v.state.Update(h.fh, func(rec *state.Handle) { rec.Kh = kh })
	}
	return known
}

// polled notifies the guest's waiters of an event on a host descriptor.
func (v *View) polled(kh uint64, _ uint32) {
	if err := v.conn.NotifyPoll(kh); err != nil {
		v.log.WithError(err).Debug("cannot notify a poll")
	}
}
