package conn

import (
	"fmt"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// resident is the memory of this process in KiB.
func resident() int {
	b, _ := os.ReadFile("/proc/self/statm")
	var size, pages int
	fmt.Sscan(string(b), &size, &pages)
	return pages * os.Getpagesize() / 1024
}

// initRequest is FUSE_INIT as a kernel with these flags sends it.
func initRequest(minor uint32, flags uint64) []byte {
	in := fuse.InitIn{Major: 7, Minor: minor, MaxReadAhead: 131072, Flags: uint32(flags), Flags2: uint32(flags >> 32)}
	in.Length, in.Opcode, in.Unique = uint32(unsafe.Sizeof(in)), OpInit, 2
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in))...)
}

func offlineConn(f *tinyFS, change func(*Config)) *Conn {
	cfg := Config{FS: f, Slow: f.slow, Poll: f.poll, Log: quiet(), MaxSlow: 1, Passthrough: true, OnPanic: func() { f.panics.Add(1) }}
	if change != nil {
		change(&cfg)
	}
	return newConn(cfg, -1)
}

// respondTo is what the serving goroutine does with a request, without a device.
func respondTo(c *Conn, in []byte) []byte {
	m := newMessage(requestSize, replySize)
	n := copy(m.in, in)
	return c.respond(m, n)
}

func TestNegotiation(t *testing.T) {
	const everything = ^uint64(0)
	always := uint64(fuse.CAP_BIG_WRITES | fuse.CAP_PARALLEL_DIROPS | fuse.CAP_MAX_PAGES | fuse.CAP_ABORT_ERROR |
		fuse.CAP_NO_EXPORT_SUPPORT | fuse.CAP_READDIRPLUS)
	never := uint64(fuse.CAP_WRITEBACK_CACHE | fuse.CAP_SPLICE_READ | fuse.CAP_SPLICE_WRITE | fuse.CAP_SPLICE_MOVE |
		fuse.CAP_POSIX_ACL | fuse.CAP_HANDLE_KILLPRIV | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC |
		fuse.CAP_DONT_MASK | fuse.CAP_ASYNC_DIO | fuse.CAP_EXPORT_SUPPORT | fuse.CAP_READDIRPLUS_AUTO |
		fuse.CAP_ASYNC_READ | fuse.CAP_ALLOW_IDMAP | fuse.CAP_OVER_IO_URING | fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS |
		fuse.CAP_SETXATTR_EXT | fuse.CAP_SECURITY_CTX | fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT)
	old := uint64(everything &^ (fuse.CAP_NO_EXPORT_SUPPORT | fuse.CAP_PASSTHROUGH)) // Linux 6.1
	for _, test := range []struct {
		name        string
		offered     uint64
		passthrough bool
		must        uint64
		stack       uint32
	}{
		{"all, passthrough", everything, true, always | fuse.CAP_PASSTHROUGH, 1},
		{"all, no passthrough", everything, false, always, 0},
		{"old kernel", old, true, always & old, 0},
		{"nothing offered", 0, true, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := offlineConn(newTiny(), func(cfg *Config) { cfg.Passthrough, cfg.ReadDirPlus = test.passthrough, true })
			reply := respondTo(c, initRequest(45, test.offered))
			if len(reply) != headerSize+64 {
				t.Fatalf("reply of %d bytes", len(reply))
			}
			h, out := (*fuse.OutHeader)(pointer(reply, 0)), (*fuse.InitOut)(pointer(reply, headerSize))
			if h.Status != 0 || h.Unique != 2 || int(h.Length) != len(reply) {
				t.Errorf("header %+v", h)
			}
			flags := out.Flags64()
			if flags&test.must != test.must || flags&never != 0 || flags&^(test.offered|fuse.CAP_INIT_EXT) != 0 {
				t.Errorf("flags %#x: lacks %#x, has %#x, was not offered %#x",
					flags, test.must&^flags, flags&never, flags&^(test.offered|fuse.CAP_INIT_EXT))
			}
			if flags&fuse.CAP_PASSTHROUGH != 0 != (test.stack == 1) || out.MaxStackDepth != test.stack {
				t.Errorf("flags %#x, stack depth %d", flags, out.MaxStackDepth)
			}
			pages := MaxPages
			if flags&fuse.CAP_MAX_PAGES == 0 {
				pages = MaxWrite / os.Getpagesize() // go-fuse says it anyway, and the kernel does not look
			}
			if out.MaxWrite != MaxWrite || int(out.MaxPages) != pages || out.MaxReadAhead != 0 || out.MaxBackground != 64 {
				t.Errorf("%+v", out)
			}
			if again := (*fuse.OutHeader)(pointer(respondTo(c, initRequest(45, 0)), 0)); again.Status != -int32(fuse.EIO) {
				t.Errorf("a second INIT: %+v", again)
			}
		})
	}
}

func TestBeforeInit(t *testing.T) {
	c := offlineConn(newTiny(), nil)
	for _, opcode := range []uint32{OpLookup, OpPoll, OpRead, 4096} {
		in := request(opcode, rootNode, make([]byte, 64))
		if h := (*fuse.OutHeader)(pointer(respondTo(c, in), 0)); h.Status != -int32(fuse.EIO) {
			t.Errorf("opcode %d: %+v", opcode, h)
		}
	}
	major8 := initRequest(45, 0)
	(*fuse.InitIn)(pointer(major8, 0)).Major = 8
	if h := (*fuse.OutHeader)(pointer(respondTo(c, major8), 0)); h.Status != -int32(fuse.EIO) || c.proto.ready.Load() {
		t.Errorf("protocol 8: %+v", h)
	}
}

func request(opcode uint32, node uint64, body []byte) []byte {
	h := fuse.InHeader{Length: uint32(inHeader + len(body)), Opcode: opcode, NodeId: node, Unique: 4}
	return append(append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), inHeader)...), body...)
}

// TestOverlongRead: a request for more than was negotiated is refused, not left without an answer.
func TestOverlongRead(t *testing.T) {
	c := offlineConn(newTiny(), nil)
	respondTo(c, initRequest(45, 0))
	body := make([]byte, 40)
	body[16+3] = 0x7f // size, struct fuse_read_in
	if h := (*fuse.OutHeader)(pointer(respondTo(c, request(OpRead, plainNode, body)), 0)); h.Status != -int32(fuse.EIO) {
		t.Errorf("%+v", h)
	}
}

// TestLongRead: a request for as much as the pages of a request hold is answered with what a reply holds.
func TestLongRead(t *testing.T) {
	f := newTiny()
	f.data = make([]byte, 1<<20)
	c := offlineConn(f, nil)
	respondTo(c, initRequest(45, ^uint64(0)))
	in := request(OpRead, plainNode, make([]byte, 40))
	(*fuse.ReadIn)(pointer(in, 0)).Size = uint32(MaxPages * os.Getpagesize())
	reply := respondTo(c, in)
	if h := (*fuse.OutHeader)(pointer(reply, 0)); h.Status != 0 || int(h.Length) != headerSize+MaxWrite {
		t.Errorf("%+v", h)
	}
}

func TestSlowPoolBounds(t *testing.T) {
	var p slowPool
	p.init(1, nil)
	if start, ok := p.add(&slowRequest{unique: 1}, false); !start || !ok {
		t.Fatal("the first must run")
	}
	big := &slowRequest{body: make([]byte, maxQueuedBytes), unique: 2}
	if start, ok := p.add(big, false); start || !ok {
		t.Error("the second must queue")
	}
	if _, ok := p.add(&slowRequest{body: []byte{1}, unique: 3}, false); ok {
		t.Error("beyond the bound of bytes")
	}
	if _, ok := p.add(&slowRequest{body: []byte{1}, unique: 4}, true); !ok {
		t.Error("a RELEASE was refused")
	}
	if r, running := p.interrupt(2); r != big || running {
		t.Error("not found in the queue")
	}
	if r, running := p.interrupt(1); r != nil || !running {
		t.Error("not found running")
	}
	if r, running := p.interrupt(99); r != nil || running {
		t.Error("found what is not there")
	}
	if dropped := p.close(); len(dropped) != 1 || p.bytes != 0 {
		t.Errorf("dropped %d, %d bytes", len(dropped), p.bytes)
	}
	if p.waitIdle(time.Millisecond) {
		t.Error("idle while one runs")
	}
	if p.next(&slowRequest{unique: 1}, 0) != nil || !p.waitIdle(time.Millisecond) {
		t.Error("not idle")
	}
	if _, ok := p.add(&slowRequest{}, true); ok {
		t.Error("taken in after close")
	}
}

// FuzzRequest feeds what no kernel sends: INIT, then the bytes as requests of the lengths that their headers say, the way a
// serving goroutine and a slow one handle them.
func FuzzRequest(f *testing.F) {
	f.Add(initRequest(45, ^uint64(0)))
	for opcode := range uint32(60) {
		f.Add(request(opcode, plainNode, make([]byte, 96)))
		f.Add(request(opcode, rootNode, append(make([]byte, 16), keptName...)))
	}
	f.Add(append(request(OpBatchForget, rootNode, []byte{255, 255, 255, 255, 0, 0, 0, 0}), request(OpInterrupt, 0, make([]byte, 8))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		fs := newTiny()
		close(fs.gate)
		c := offlineConn(fs, nil)
		respondTo(c, initRequest(45, ^uint64(0)&^uint64(fuse.CAP_PASSTHROUGH)))
		fs.conn = c
		for len(data) > 0 {
			n := len(data)
			if h := (&message{in: append([]byte(nil), data...)}).in; len(h) >= inHeader {
				n = min(n, max(int(header(h).Length), inHeader))
			}
			checkResponse(t, c, append([]byte(nil), data[:n]...))
			data = data[n:]
		}
	})
}

func checkResponse(t *testing.T, c *Conn, in []byte) {
	t.Helper()
	in = in[:min(len(in), requestSize)]
	var reply []byte
	h := header(in)
	switch {
	case h == nil:
		reply = respondTo(c, in)
	case h.Opcode == OpInterrupt:
		reply = c.interrupted(nil, in, make([]byte, replySize))
	case c.isSlow(&message{in: in}, len(in)):
		reply = c.respond(&message{in: in, out: make([]byte, replyRoom(in))}, len(in))
	default:
		reply = respondTo(c, in)
	}
	if len(reply) == 0 {
		return
	}
	if o := (*fuse.OutHeader)(pointer(reply, 0)); int(o.Length) != len(reply) || o.Unique == 0 || o.Unique != h.Unique || o.Status > 0 {
		t.Errorf("reply of %d bytes to %+v: %+v", len(reply), h, o)
	}
}
