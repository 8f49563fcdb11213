package fs

import (
	"bytes"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// rest is the part of a command that the kernel has yet to send. The whole command was carried out with its first
// part.
type rest struct {
	tid    uint32
	offset uint64 // of the next part
	length uint64
}

// whole returns the command of a WRITE: the request's bytes, unless they can be the first part of a longer command.
// The kernel splits a writev of more pieces than a request has pages into several requests (fuse_direct_io), and
// each would be a command. done reports a later part of a command that was carried out. EFBIG if the caller's
// RLIMIT_FSIZE truncated the command, because its rest has another meaning. If the caller's system call is unknown
// or longer than any command, the request's bytes are the command.
func (h *handle) whole(in *fuse.WriteIn, data []byte) (command []byte, done bool, st fuse.Status) {
	if h.continues(in, uint64(len(data))) {
		return nil, true, fuse.OK
	}
	limit := host.FileSizeLimit(int(in.Pid))
	cut := in.Offset+uint64(len(data)) == limit
	if len(data) < conn.MaxPages && !cut {
		return data, false, fuse.OK
	}
	all, known := host.Written(int(in.Pid), conn.MaxWrite)
	if cut && (!known || len(all) > len(data)) {
		return nil, false, fuse.Status(unix.EFBIG)
	}
	if !known || len(all) == len(data) || !bytes.HasPrefix(all, data) {
		return data, false, fuse.OK
	}
	if in.Offset+uint64(len(all)) > limit {
		return nil, false, fuse.Status(unix.EFBIG)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rest = rest{in.Pid, in.Offset + uint64(len(data)), uint64(len(all) - len(data))}
	return all, false, fuse.OK
}

// continues reports that a WRITE is the next part of a command that was carried out. Any other WRITE of the thread
// drops the rest.
func (h *handle) continues(in *fuse.WriteIn, length uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &h.rest
	if r.tid != in.Pid || length == 0 {
		return false
	}
	if r.length < length || r.offset != in.Offset {
		// The caller abandoned the rest.
		*r = rest{}
		return false
	}
	r.offset, r.length = r.offset+length, r.length-length
	return true
}

// noRest drops the rest of a failed command, which the kernel does not send.
func (h *handle) noRest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rest = rest{}
}
