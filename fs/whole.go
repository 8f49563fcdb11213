package fs

import (
	"bytes"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// rest is what the kernel will yet send of a command that was carried out as a whole at its first part.
type rest struct {
	tid    uint32
	offset uint64 // of the next part
	length uint64
}

// whole is the command that a WRITE is of: the request's bytes, unless it can be the first part of a longer one. The kernel
// sends a writev of more pieces than a request has pages in several requests (fuse_direct_io), of which each would be a
// command. done says that this is a later part of a command, which was carried out already. EFBIG when the caller's
// RLIMIT_FSIZE cut the command off: what is left of it is not what was meant. Where the caller's call cannot be told, or is
// longer than any command, the bytes are all there is.
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

// continues says whether a WRITE is the next part of a command that was carried out. Any other of its
// thread ends the wait for more.
func (h *handle) continues(in *fuse.WriteIn, length uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &h.rest
	if r.tid != in.Pid || length == 0 {
		return false
	}
	if r.length < length || r.offset != in.Offset {
		*r = rest{} // the caller gave up
		return false
	}
	r.offset, r.length = r.offset+length, r.length-length
	return true
}

// noRest forgets a command that failed: the kernel sends no more of it.
func (h *handle) noRest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rest = rest{}
}
