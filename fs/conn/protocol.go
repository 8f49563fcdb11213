package conn

import (
	"log"
	"os"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Only this file uses go-fuse's ProtocolServer, which is marked experimental: it decodes a request, calls the
// RawFileSystem and encodes the reply. This file and poll.go handle the exceptions: INIT, POLL, the two names that
// go-fuse reserves for itself, and the replies that it does not write.

// MaxWrite is the longest WRITE and READ in one request. A control file refuses a write beyond its own bound with
// E2BIG (kernfs_fop_write_iter, atomic_write_len), so the first chunk of a long write must exceed every bound: 4096
// for nearly all files, 100 + 6*NR_CPUS for cpuset.cpus, which is 49252 with x86's largest NR_CPUS, 8192.
const MaxWrite = 64 << 10

// MaxPages bounds the pages of one request, with the most that a kernel allows by default (FUSE_MAX_MAX_PAGES, or
// fs.fuse.max_pages_limit since Linux 6.13). Each piece of a writev occupies a page, however short
// (fuse_get_user_pages), and the pieces beyond the bound arrive as another command. MaxWrite still bounds the bytes,
// so this costs no memory.
const MaxPages = 256

const (
	headerSize = int(unsafe.Sizeof(fuse.OutHeader{}))
	inHeader   = int(unsafe.Sizeof(fuse.InHeader{}))
	// requestSize holds the longest request: WRITE, or SETXATTR with a value of 64 KiB (XATTR_SIZE_MAX) and its
	// name. The kernel wants room for max_write and a header at least, and never less than 8192
	// (FUSE_MIN_READ_BUFFER).
	requestSize = MaxWrite + 8<<10
	// replySize holds the longest reply: READ or READDIR of MaxWrite (shorten), or a value of 64 KiB.
	replySize = MaxWrite + 8<<10
	// shortReply holds every reply but those whose length the request asks for. The longest is READLINK's, of a page.
	shortReply = 8 << 10
)

// message is a request with room for its reply. It is reused for the next request.
type message struct {
	in, out       []byte
	inVec, outVec [1][]byte // for go-fuse, which wants vectors
	panicked      bool      // a handler of the request in it did
}

// newMessage makes the buffers of a message. The request buffer is resident from the start: if a server is killed
// while the kernel copies a request into a page that it has to allocate first, the copy fails and the caller gets
// EIO (fuse_dev_do_read; seen once in some thousand kills of servers just after their start).
func newMessage(in, out int) *message {
	m := &message{in: make([]byte, in), out: make([]byte, out)}
	for i := 0; i < in; i += pageSize {
		m.in[i] = 0
	}
	return m
}

const pageSize = 4096

type protocol struct {
	server      *fuse.ProtocolServer // immutable
	passthrough bool                 // immutable; wanted
	uring       atomic.Bool          // request io_uring
	ready       atomic.Bool          // INIT has been answered
	flags       atomic.Uint64        // as negotiated
}

func newProtocol(cfg Config, panicked func(any)) *protocol {
	// go-fuse requests every capability that it knows and the kernel offers, except these. It rightly does not
	// request writeback cache, splice, POSIX ACLs, HANDLE_KILLPRIV, ATOMIC_O_TRUNC (it comes as SETATTR), DONT_MASK
	// (the kernel applies the umask), ASYNC_DIO, EXPORT_SUPPORT.
	never := uint64(fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_ASYNC_READ)
	if !cfg.Passthrough {
		never |= fuse.CAP_PASSTHROUGH
	}
	return &protocol{passthrough: cfg.Passthrough, server: fuse.NewProtocolServer(cfg.FS, &fuse.MountOptions{
		Name:     "conn",
		MaxWrite: MaxWrite,
		// Only RELEASE and interrupted requests are background requests here: enough for a flood of closes, and
		// bounded.
		MaxBackground: 64,
		// NO_EXPORT_SUPPORT (Linux 6.9): no file handles for guests. ABORT_ERROR (4.17): a read tells an abort by the
		// administrator (ECONNABORTED) from an unmount (ENODEV).
		ExtraCapabilities:    fuse.CAP_NO_EXPORT_SUPPORT | fuse.CAP_ABORT_ERROR,
		DisabledCapabilities: never,
		DisableReadDirPlus:   !cfg.ReadDirPlus,
		SyncRead:             true,
		MaxStackDepth:        1, // the real cgroupfs is not stacked
		Logger:               log.New(debugWriter{cfg.Log}, "", 0),
		PanicHandler:         func(v any) fuse.Status { panicked(v); return fuse.EIO },
	})}
}

// handle answers m.in[:n] and returns the reply, empty if none is due. It panics if the file system's ReadResult
// does.
func (p *protocol) handle(m *message, n int) []byte {
	in := m.in[:n]
	h := header(in)
	if h == nil {
		return nil
	}
	if init := h.Opcode == OpInit; init == p.ready.Load() {
		// A second INIT, or another request before the first: no kernel sends it.
		return errorReply(in, m.out, fuse.EIO)
	}
	if st := kept(h, in[inHeader:]); st != fuse.OK {
		return errorReply(in, m.out, st)
	}
	shorten(h, in)
	if h.Opcode == OpIoctl {
		// go-fuse replies with the whole buffer, even if only part of it was filled.
		clear(m.out)
	}
	opcode, unique := h.Opcode, h.Unique
	m.inVec[0], m.outVec[0] = in, m.out
	wrote, st := p.server.HandleRequest(m.inVec[:], m.outVec[:])
	// No reply: the request asks for more than any kernel does.
	if !st.Ok() {
		return errorReply(in, m.out, st)
	}
	if unique == 0 {
		return nil
	}
	if opcode == OpInit {
		p.negotiated(m.out[:wrote])
	}
	return m.out[:wrote]
}

// negotiated corrects the reply to INIT where go-fuse's options cannot, and keeps the agreed flags: no readahead (0
// means the kernel's default to go-fuse), no stacking without passthrough (0 means 1), and more pages than the
// longest write has.
func (p *protocol) negotiated(reply []byte) {
	if len(reply) < headerSize+int(unsafe.Sizeof(fuse.InitOut{})) {
		// Refused, or a kernel so old that it has neither.
		return
	}
	out := (*fuse.InitOut)(unsafe.Pointer(&reply[headerSize]))
	out.MaxReadAhead = 0
	if out.Flags64()&fuse.CAP_MAX_PAGES != 0 {
		out.MaxPages = MaxPages
	}
	if out.Flags64()&fuse.CAP_PASSTHROUGH == 0 {
		out.MaxStackDepth = 0
	}
	if p.uring.Load() {
		agreeURing(out)
	}
	p.flags.Store(out.Flags64())
	p.ready.Store(true)
}

// shorten limits READ and READDIR to the room of a reply. The kernel asks for as many bytes as max_pages hold
// (fuse_direct_io, fuse_readdir_uncached since Linux 6.15) and accepts a shorter answer.
func shorten(h *fuse.InHeader, in []byte) {
	reads := h.Opcode == OpRead || h.Opcode == OpReaddir || h.Opcode == OpReaddirplus
	if !reads || len(in) < int(unsafe.Sizeof(fuse.ReadIn{})) {
		return
	}
	if r := (*fuse.ReadIn)(pointer(in, 0)); int64(r.Size) <= MaxPages*int64(os.Getpagesize()) {
		r.Size = min(r.Size, MaxWrite)
	}
}

// names is the offset of the name in the bodies of the requests with a name that go-fuse compares.
var names = map[uint32]int{
	OpLookup: 0, OpSymlink: 0, OpMknod: 16, OpMkdir: 8, OpUnlink: 0, OpRmdir: 0, OpRename: 8, OpRename2: 16, OpLink: 8,
	OpSetxattr: 8, OpGetxattr: 8, OpRemovexattr: 0, OpCreate: 16, OpTmpfile: 16,
}

const (
	keptName = ".go-fuse-epoll-hack"
	keptNode = ^uint64(0)
)

// kept refuses the file that go-fuse reserves for its own servers (poll.go): every lookup at the root would find it,
// and its node, though no listing shows it. A guest sees nothing of that name, and cannot make it.
func kept(h *fuse.InHeader, body []byte) fuse.Status {
	if h.NodeId == keptNode {
		return fuse.Status(unix.ESTALE)
	}
	if h.NodeId != fuse.FUSE_ROOT_ID {
		return fuse.OK
	}
	off, ok := names[h.Opcode]
	if !ok || len(body) < off+len(keptName) || string(body[off:off+len(keptName)]) != keptName {
		return fuse.OK
	}
	if rest := body[off+len(keptName):]; len(rest) > 0 && rest[0] != 0 {
		return fuse.OK
	}
	if h.Opcode == OpLookup {
		return fuse.ENOENT
	}
	return fuse.EPERM
}

// interrupt closes the cancel channel of a running request whose caller was interrupted. False if go-fuse does not
// have the request, or has cancelled it before.
func (p *protocol) interrupt(unique uint64) bool {
	m := fuse.InterruptIn{Unique: unique}
	m.Length, m.Opcode = uint32(unsafe.Sizeof(m)), OpInterrupt
	in := unsafe.Slice((*byte)(unsafe.Pointer(&m)), unsafe.Sizeof(m))
	n, st := p.server.HandleRequest([][]byte{in}, [][]byte{make([]byte, headerSize)})
	// A refusal has a reply.
	return st.Ok() && n == 0
}

// debugWriter logs go-fuse's own messages at the debug level, because guests can cause them at will (an unknown
// ioctl).
type debugWriter struct{ log *logrus.Entry }

func (w debugWriter) Write(b []byte) (int, error) {
	w.log.Debug(strings.TrimSpace(string(b)))
	return len(b), nil
}

// pointer is the address of b[i].
func pointer(b []byte, i int) unsafe.Pointer { return unsafe.Pointer(&b[i]) }

// header returns the request's header, nil if the request is too short.
func header(in []byte) *fuse.InHeader {
	if len(in) < inHeader {
		return nil
	}
	return (*fuse.InHeader)(unsafe.Pointer(&in[0]))
}

// replyRoom returns the greatest length of a request's reply. A request that asks for more than the kernel ever does
// gets an error.
func replyRoom(in []byte) int {
	switch h := header(in); h.Opcode {
	case OpRead, OpReaddir, OpReaddirplus, OpGetxattr, OpListxattr, OpIoctl:
		return replySize
	}
	return shortReply
}

// silent reports that the kernel expects no reply. A message without a number is a notification and gets none
// either.
func silent(h *fuse.InHeader) bool {
	switch h.Opcode {
	case OpForget, OpBatchForget, OpNotifyReply:
		return true
	}
	return h.Unique == 0
}

// errorReply refuses a request.
func errorReply(in, out []byte, st fuse.Status) []byte {
	h := header(in)
	if h == nil || silent(h) {
		return nil
	}
	*(*fuse.OutHeader)(unsafe.Pointer(&out[0])) = fuse.OutHeader{
		Length: uint32(headerSize), Status: -int32(st), Unique: h.Unique,
	}
	return out[:headerSize]
}
