package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Read returns the host's bytes, or a filter's content. A filtered file is filtered again at offset 0 and continued
// from there, as by seq_file. EINVAL for a read into the page cache (servedSize). Such a read has no lock owner,
// which only direct I/O passes to fuse_send_read.
func (r *rawFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	v := r.view()
	h := v.handles.get(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	if in.ReadFlags&fuse.READ_LOCKOWNER == 0 {
		return nil, fuse.EINVAL
	}
	if v.nested() {
		h.seen()
	}
	if h.translated() {
		return v.content(h, in, buf)
	}
	fd, err := h.host()
	if err != nil {
		return nil, status(err)
	}
	if h.decision.File.Filter == hierarchy.Raw || h.decision.File.Mode&0o444 == 0 {
		n, err := unix.Pread(fd, buf, int64(in.Offset))
		if err != nil {
			return nil, status(err)
		}
		return fuse.ReadResultData(buf[:n]), fuse.OK
	}
	return v.content(h, in, buf)
}

// content answers a read from what the server makes.
func (v *View) content(h *handle, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h.mu.Lock()
	content := h.content
	h.mu.Unlock()
	if in.Offset == 0 || content == nil {
		var err error
		if content, err = v.filtered(h, in.Pid); err != nil {
			return nil, status(err)
		}
		h.mu.Lock()
		h.content = content
		h.mu.Unlock()
	}
	if in.Offset >= uint64(len(content)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	n := copy(buf, content[in.Offset:])
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Lseek answers SEEK_DATA and SEEK_HOLE by the size alone (generic_file_llseek): the file is data up to its size.
func (r *rawFS) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	v := r.view()
	var size uint64
	if n, st := v.node(in.NodeId); st.Ok() && n.file != "" {
		size = v.sizeOf(n.hier, n.dir, v.decide(n.hier, n.dir, n.file).File)
	}
	if in.Offset >= size {
		return fuse.Status(unix.ENXIO)
	}
	if out.Offset = in.Offset; in.Whence == unix.SEEK_HOLE {
		out.Offset = size
	}
	return fuse.OK
}
