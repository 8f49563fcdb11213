package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

// pollSchedule is FUSE_POLL_SCHEDULE_NOTIFY: somebody waits and wants FUSE_NOTIFY_POLL.
const pollSchedule = 1

// pollAlways is what an ordinary file says (DEFAULT_POLLMASK without the RDNORM forms).
const pollAlways = unix.POLLIN | unix.POLLOUT | 0x40 | 0x100 // with POLLRDNORM and POLLWRNORM

// poll answers FUSE_POLL from the host descriptor of the same open, which keeps what was seen: kernfs compares its own
// event count with that of the last read (kernfs_generic_poll), PSI has its trigger there.
func (v *View) poll(in conn.PollRequest) (uint32, fuse.Status) {
	h := v.handles.get(in.Fh)
	if h == nil || h.fd < 0 {
		return pollAlways, fuse.OK
	}
	if in.Flags&pollSchedule != 0 && h.decision.File.Pollable {
		h.mu.Lock()
		h.kh = in.Kh
		h.mu.Unlock()
		if err := v.poller.Add(in.Kh, h.fd); err != nil {
			v.log.WithError(err).Warn("cannot wait for events of a control file")
		}
	}
	fds := []unix.PollFd{{Fd: int32(h.fd), Events: int16(in.Events)}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return 0, status(err)
	}
	if fds[0].Revents&unix.POLLPRI != 0 && h.reads && h.backing != nil {
		// The guest reads a host file of its own, so this one would say for ever that something is new. Reading it tells of
		// each event once: what comes after this is new again, so none is lost.
		unix.Pread(h.fd, make([]byte, 1), 0)
	}
	return uint32(uint16(fds[0].Revents)), fuse.OK
}

// pollKey is the number that the poller knows the open by.
func (h *handle) pollKey() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kh
}

// polled tells the guest's waiters that a host descriptor has something to say.
func (v *View) polled(kh uint64, _ uint32) {
	if err := v.conn.NotifyPoll(kh); err != nil {
		v.log.WithError(err).Debug("cannot notify a poll")
	}
}

// writeHandle is the file handle of a WRITE request's body (struct fuse_write_in begins with fh).
func writeHandle(body []byte) uint64 {
	if len(body) < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(body)
}
