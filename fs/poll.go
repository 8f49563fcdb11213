package fs

import (
	"maps"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// pollSchedule is FUSE_POLL_SCHEDULE_NOTIFY: somebody waits and wants FUSE_NOTIFY_POLL.
const pollSchedule = 1

// pollAlways is what an ordinary file says (DEFAULT_POLLMASK without the RDNORM forms).
const pollAlways = unix.POLLIN | unix.POLLOUT | 0x40 | 0x100 // with POLLRDNORM and POLLWRNORM

// pollGone is what kernfs says of a file that was removed (kernfs_fop_poll).
const pollGone = pollAlways | unix.POLLERR | unix.POLLPRI

// poll answers FUSE_POLL from the host descriptor of the same open, which keeps what was seen: kernfs compares its own
// event count with that of the last read (kernfs_generic_poll), PSI has its trigger there.
func (v *View) poll(in conn.PollRequest) (uint32, fuse.Status) {
	h := v.handles.get(in.Fh)
	if h == nil {
		return pollAlways, fuse.OK
	}
	fd, err := h.host()
	if err == unix.ENODEV {
		return pollGone, fuse.OK
	}
	if err != nil {
		return pollAlways, fuse.OK
	}
	if h.decision.File.Pollable && (in.Flags&pollSchedule != 0 || v.nested()) {
		v.await(h, in.Kh, fd)
	}
	if in.Again && h.decision.File.Pollable {
		h.fired.Or(unix.POLLPRI | unix.POLLERR) // the server before may have read the event that it was to tell of
	}
	revents, err := pollNow(fd, int16(in.Events))
	if err != nil {
		return 0, status(err)
	}
	if revents&unix.POLLPRI != 0 && h.reads && h.backing != nil {
		// The guest reads a host file of its own, so this one would say for ever that something is new. Reading it tells of
		// each event once: what comes after this is new again, so none is lost.
		unix.Pread(fd, make([]byte, 1), 0)
	}
	return revents | h.fired.And(^in.Events)&in.Events, fuse.OK
}

// pollNow is poll(2) of one descriptor that does not wait. Go's own signals interrupt even that.
func pollNow(fd int, events int16) (uint32, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		_, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return uint32(uint16(fds[0].Revents)), err
		}
	}
}

// await has the guest told, by the number kh, when an open has something to say.
func (v *View) await(h *handle, kh uint64, fd int) {
	known := v.keepPolled(h, kh, fd)
	trigger := h.hasTrigger()
	var err error
	if v.nested() && !known && !trigger {
		h.fired.Or(unix.POLLPRI | unix.POLLERR) // as before the first read; what came meanwhile is told to nobody else
	}
	if trigger || v.nested() { // a view, too, tells of an event once
		if revents, err := pollNow(fd, unix.POLLPRI); err == nil { // before it is followed, which asks as well and does not say
			h.fired.Or(revents)
		}
		err = v.poller.Follow(fd, kh, func(kh uint64, revents uint32) {
			h.fired.Or(revents) // it was told to the poller, and will not be told again
			v.polled(kh, revents)
		})
	} else {
		err = v.poller.Add(fd, kh, v.polled)
	}
	if err != nil {
		v.log.WithError(err).Warn("cannot wait for events of a control file")
	}
}

// seen is told that the guest reads a file, before it does: what it was to be told of events, it finds now. A trigger fires whoever reads.
func (h *handle) seen() {
	if !h.hasTrigger() {
		h.fired.And(^uint32(unix.POLLPRI | unix.POLLERR))
	}
}

// endPolls has nothing waited for any more. The connection is over: nobody opens, polls or releases.
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

// keepPolled remembers who is to be told. The host's descriptor knows what its reader has seen, so the next server must have
// the same one. False when nobody waited for it before.
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

// polled tells the guest's waiters that a host descriptor has something to say.
func (v *View) polled(kh uint64, _ uint32) {
	if err := v.conn.NotifyPoll(kh); err != nil {
		v.log.WithError(err).Debug("cannot notify a poll")
	}
}
