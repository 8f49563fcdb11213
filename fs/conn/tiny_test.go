package conn

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit/uring"
)

// tinyFS is a root directory of a few files, each of which does one thing.
type tinyFS struct {
	fuse.RawFileSystem
	conn *Conn

	gate     chan struct{} // reading "slow" waits for it
	running  atomic.Int32  // reads of "slow" that run
	most     atomic.Int32  // the most of them at once
	panics   atomic.Int32
	released atomic.Int32
	lookups  atomic.Int32
	getattrs atomic.Int32
	ready    atomic.Bool   // "poll" has something to say
	kh       atomic.Uint64 // who polls it
	valid    time.Duration // of entries and attributes
	backing  int           // descriptor behind "passed"

	mu      sync.Mutex
	data    []byte // guarded by mu; of "plain"
	writes  []int  // guarded by mu; lengths of the writes to "plain"
	missing bool   // guarded by mu; "plain" is not there
}

const (
	rootNode = fuse.FUSE_ROOT_ID + iota
	plainNode
	slowNode
	panicNode
	pollNode
	passedNode
	brokenNode
)

var tinyNames = map[string]uint64{
	"plain": plainNode, "slow": slowNode, "panic": panicNode, "poll": pollNode, "passed": passedNode, "broken": brokenNode,
}

func newTiny() *tinyFS {
	return &tinyFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), gate: make(chan struct{}), data: []byte("hello\n"), backing: -1}
}

func (f *tinyFS) slow(h *fuse.InHeader, body []byte) bool {
	return h.Opcode == OpRead && h.NodeId == slowNode || h.Opcode == OpMkdir
}

func (f *tinyFS) poll(in PollRequest) (uint32, fuse.Status) {
	if in.NodeID != pollNode {
		return unix.POLLIN, fuse.OK
	}
	if in.Flags&1 != 0 {
		f.kh.Store(in.Kh)
	}
	if f.ready.Load() {
		return unix.POLLPRI | unix.POLLERR, fuse.OK
	}
	return 0, fuse.OK
}

func (f *tinyFS) attr(node uint64, a *fuse.Attr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*a = fuse.Attr{Ino: node, Mode: unix.S_IFREG | 0o644, Nlink: 1}
	if node == rootNode {
		a.Mode = unix.S_IFDIR | 0o755
	}
	if node == plainNode {
		a.Size = uint64(len(f.data))
	}
}

func (f *tinyFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.lookups.Add(1)
	node := tinyNames[name]
	f.mu.Lock()
	gone := f.missing && name == "plain"
	f.mu.Unlock()
	if node == 0 || gone {
		return fuse.ENOENT
	}
	out.NodeId = node
	f.attr(node, &out.Attr)
	out.SetEntryTimeout(f.valid)
	out.SetAttrTimeout(f.valid)
	return fuse.OK
}

func (f *tinyFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.getattrs.Add(1)
	f.attr(in.NodeId, &out.Attr)
	out.SetTimeout(f.valid)
	return fuse.OK
}

func (f *tinyFS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

func (f *tinyFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.Fh, out.OpenFlags = in.NodeId, fuse.FOPEN_DIRECT_IO|fuse.FOPEN_NOFLUSH
	if in.NodeId == passedNode {
		id, err := f.conn.OpenBacking(f.backing)
		if err != nil {
			return fuse.ToStatus(err)
		}
		out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH|fuse.FOPEN_NOFLUSH, id
		out.Fh = uint64(id)<<32 | passedNode
	}
	return fuse.OK
}

func (f *tinyFS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if id := int32(in.Fh >> 32); id != 0 {
		if err := f.conn.CloseBacking(id); err != nil {
			panic(err)
		}
	}
	f.released.Add(1)
}

func (f *tinyFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	switch in.NodeId {
	case panicNode:
		panic("as asked")
	case brokenNode:
		return brokenResult{}, fuse.OK
	case slowNode:
		n := f.running.Add(1)
		defer f.running.Add(-1)
		for m := f.most.Load(); n > m && !f.most.CompareAndSwap(m, n); m = f.most.Load() {
		}
		select {
		case <-f.gate:
		case <-cancel:
			return nil, fuse.EINTR
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	off := min(in.Offset, uint64(len(f.data)))
	return fuse.ReadResultData(buf[:copy(buf, f.data[off:])]), fuse.OK
}

// brokenResult panics where go-fuse does not catch it.
type brokenResult struct{ fuse.ReadResult }

func (brokenResult) Size() int                            { return 1 }
func (brokenResult) Done()                                {}
func (brokenResult) Bytes(b []byte) ([]byte, fuse.Status) { panic("in Bytes") }
func (brokenResult) Readv(dst [][]byte) (int, fuse.Status) {
	panic("in Readv")
}

func (f *tinyFS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = append(f.writes, len(data))
	if len(data) > 4096 {
		return 0, fuse.Status(unix.E2BIG)
	}
	f.data = append([]byte(nil), data...)
	return uint32(len(data)), fuse.OK
}

func (f *tinyFS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return fuse.OK
}
func (f *tinyFS) ReleaseDir(*fuse.ReleaseIn) {}

func (f *tinyFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	list := []string{"plain", "slow", "panic", "poll", "passed", "broken"}
	for i := int(in.Offset); i < len(list); i++ {
		if !out.AddDirEntry(fuse.DirEntry{Name: list[i], Mode: unix.S_IFREG, Ino: tinyNames[list[i]], Off: uint64(i + 1)}) {
			break
		}
	}
	return fuse.OK
}

// Mkdir keeps the directory's lock held until the gate opens.
func (f *tinyFS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	f.running.Add(1)
	defer f.running.Add(-1)
	select {
	case <-f.gate:
	case <-cancel:
	}
	return fuse.Status(unix.EDQUOT)
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// tinyName is the source of this run's mounts, by which they are told from another run's.
var tinyName = "tiny-" + strconv.Itoa(os.Getpid())

// mountTiny mounts at a new directory and serves until the test ends.
func mountTiny(t testing.TB, f *tinyFS, change func(*Config)) (*Conn, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounting takes CAP_SYS_ADMIN")
	}
	cfg := Config{FS: f, Slow: f.slow, Poll: f.poll, FSName: tinyName, Subtype: "tinytype", Log: quiet(),
		OnPanic: func() { f.panics.Add(1) }}
	if change != nil {
		change(&cfg)
	}
	if cfg.unfit() == "" {
		cfg.Transport = transport
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.conn = c
	dir := t.TempDir()
	if err := c.Mount(dir, nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Serve() }()
	t.Cleanup(func() {
		err := unix.Unmount(dir, unix.MNT_DETACH)
		if err != nil && err != unix.EINVAL {
			t.Errorf("cannot unmount: %v", err)
		}
		c.Close()
		if err := <-done; err != nil && !t.Failed() && !f.aborted() {
			t.Errorf("Serve: %v", err)
		}
	})
	return c, dir
}

func (f *tinyFS) aborted() bool { return f.valid == abortedMark }

const abortedMark = time.Duration(-1)

// The client's side uses bare system calls: os.Open would hand the file to Go's poller by a raw epoll_ctl that asks the
// file system (FUSE_POLL) while it blocks the collector, a deadlock where one process serves its own mount.

func readFile(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 1<<16)
	n, err := unix.Read(fd, buf)
	for err == unix.EINTR { // by a signal of Go's runtime
		n, err = unix.Read(fd, buf)
	}
	return string(buf[:max(n, 0)]), err
}

func writeFile(path string, b []byte) (int, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.Write(fd, b)
}

// eventually waits for a condition that other goroutines or the kernel bring about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func countDir(path string) int {
	d, err := os.ReadDir(path)
	if err != nil {
		panic(err)
	}
	return len(d)
}

// TestMain fails when the tests together leave a goroutine, a descriptor or a mount behind.
func TestMain(m *testing.M) {
	if os.Getenv(benchOp) != "" {
		benchClient()
	}
	goroutines, fds, mounts := runtime.NumGoroutine(), countDir("/proc/self/fd"), countMounts()
	log.SetOutput(io.Discard) // go-fuse's word on requests that no kernel sends
	code := runTests(m)
	closeSpareNaps()
	// The fuzzer has processes and signals of its own, and go-fuse's server, which is measured too, keeps its pipes.
	if flag.Lookup("test.fuzz").Value.String() != "" || flag.Lookup("test.bench").Value.String() != "" {
		os.Exit(code)
	}
	// The poller's own descriptors are made at its first use.
	const pollers = 2
	// So are the goroutine and the descriptor that wait for parked connections, and those of watchdogs.
	kept := 1 + spareWatchdogs.made
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		g, f, n := runtime.NumGoroutine(), countDir("/proc/self/fd"), countMounts()
		if g <= goroutines+kept && f <= fds+pollers+kept && n == mounts {
			break
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "left behind: goroutines %d -> %d, descriptors %d -> %d, mounts %d -> %d\n%s\n",
				goroutines, g, fds, f, mounts, n, buf[:runtime.Stack(buf, true)])
			code = max(code, 1)
			break
		}
	}
	os.Exit(code)
}

// transport is the one under test.
var transport = TransportClassic

// runTests runs the tests once for each transport that this kernel has.
func runTests(m *testing.M) int {
	code := m.Run()
	restore, err := uring.Enable()
	switch {
	case errors.Is(err, uring.ErrUnsupported) || os.Geteuid() != 0:
		return code
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	defer restore()
	transport = TransportURing
	if testing.Verbose() {
		fmt.Println("the tests again, with io_uring")
	}
	return max(code, m.Run())
}

func countMounts() int {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	return strings.Count(string(b), " fuse.tinytype "+tinyName+" ")
}
