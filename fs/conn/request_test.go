package conn

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func queuedLen(c *Conn) int {
	c.slow.mu.Lock()
	defer c.slow.mu.Unlock()
	return c.slow.queue.Len()
}

func TestPanic(t *testing.T) {
	f := newTiny()
	_, dir := mountTiny(t, f, nil)
	for i, name := range []string{"panic", "broken"} {
		if _, err := readFile(filepath.Join(dir, name)); err != unix.EIO {
			t.Errorf("%s: %v", name, err)
		}
		eventually(t, "the panic is told", func() bool { return f.panics.Load() == int32(i+1) })
	}
	if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

// TestPanicElsewhere panics where go-fuse does not look.
func TestPanicElsewhere(t *testing.T) {
	f := newTiny()
	_, dir := mountTiny(t, f, func(cfg *Config) {
		cfg.Poll = func(PollRequest) (uint32, fuse.Status) { panic("in Poll") }
		cfg.Slow = func(h *fuse.InHeader, _ []byte) bool {
			if h.NodeId == plainNode {
				panic("in Slow")
			}
			return h.NodeId == brokenNode // which panics off the serving goroutine
		}
	})
	if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil {
		t.Errorf("while Slow panics: %q, %v", got, err)
	}
	told := f.panics.Load()
	if _, err := readFile(dir + "/broken"); err != unix.EIO {
		t.Errorf("while a slow request panics: %v", err)
	}
	eventually(t, "the panic is told", func() bool { return f.panics.Load() > told })
	fd, err := unix.Open(dir+"/poll", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 5000); n != 1 || err != nil || p[0].Revents == 0 {
		t.Errorf("poll: %d, %v, %#x", n, err, p[0].Revents)
	}
}

func TestPoll(t *testing.T) {
	f := newTiny()
	c, dir := mountTiny(t, f, nil)
	fd, err := unix.Open(dir+"/poll", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	if n, err := unix.Poll(p, 0); n != 0 || err != nil {
		t.Errorf("nothing to say yet: %d, %v", n, err)
	}
	done := make(chan int16, 1)
	go func() {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		for {
			if _, err := unix.Poll(p, 10000); err != unix.EINTR {
				break
			}
		}
		done <- p[0].Revents
	}()
	eventually(t, "somebody polls", func() bool { return f.kh.Load() != 0 })
	f.ready.Store(true)
	if err := c.NotifyPoll(f.kh.Load()); err != nil {
		t.Error(err)
	}
	if got := <-done; got != unix.POLLPRI|unix.POLLERR {
		t.Errorf("poll says %#x", got)
	}
	if err := c.NotifyPoll(12345); err != nil {
		t.Errorf("nobody polls that: %v", err)
	}
}

func TestPollAbsent(t *testing.T) {
	_, dir := mountTiny(t, newTiny(), func(cfg *Config) { cfg.Poll = nil })
	fd, err := unix.Open(dir+"/poll", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 1000); n != 1 || err != nil {
		t.Errorf("poll: %d, %v", n, err)
	}
}

func TestInvalidate(t *testing.T) {
	f := newTiny()
	f.valid = time.Hour
	c, dir := mountTiny(t, f, nil)
	plain := dir + "/plain"
	stat := func() (size int64, err error) {
		var st unix.Stat_t
		err = unix.Stat(plain, &st)
		return st.Size, err
	}
	stat()
	lookups, getattrs := f.lookups.Load(), f.getattrs.Load()
	f.mu.Lock()
	f.data = []byte("changed by the host\n")
	f.mu.Unlock()
	if n, err := stat(); n != 6 || err != nil || f.lookups.Load() != lookups || f.getattrs.Load() != getattrs {
		t.Fatalf("not cached: %d, %v", n, err)
	}
	if err := c.InvalInode(plainNode); err != nil {
		t.Error(err)
	}
	if n, err := stat(); n != 20 || err != nil {
		t.Errorf("after InvalInode: %d, %v", n, err)
	}
	if err := c.InvalEntry(rootNode, "plain"); err != nil {
		t.Error(err)
	}
	if _, err := stat(); err != nil || f.lookups.Load() != lookups+1 {
		t.Errorf("after InvalEntry: %v, %d lookups", err, f.lookups.Load()-lookups)
	}
	f.mu.Lock()
	f.missing = true
	f.mu.Unlock()
	if err := c.DeleteEntry(rootNode, plainNode, "plain"); err != nil {
		t.Error(err)
	}
	if _, err := stat(); err != unix.ENOENT {
		t.Errorf("after DeleteEntry: %v", err)
	}
	for _, err := range []error{c.InvalInode(999), c.InvalEntry(999, "x"), c.InvalEntry(rootNode, "unknown"), c.DeleteEntry(rootNode, 999, "unknown")} {
		if err != nil {
			t.Errorf("what the kernel does not know: %v", err)
		}
	}
}

func TestPassthrough(t *testing.T) {
	f := newTiny()
	backing, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	backing.WriteString("from the host\n")
	f.backing = int(backing.Fd())
	c, dir := mountTiny(t, f, func(cfg *Config) { cfg.Passthrough = true })
	var st unix.Stat_t
	unix.Stat(dir, &st) // INIT is over when anything else is answered
	if !c.PassthroughOK() {
		if KernelAtLeast(6, 9) {
			t.Fatal("no passthrough on Linux 6.9 or newer")
		}
		t.Skip("passthrough needs Linux 6.9")
	}
	if got, err := readFile(dir + "/passed"); got != "from the host\n" || err != nil {
		t.Errorf("read: %q, %v", got, err)
	}
	if _, err := c.OpenBacking(-1); err == nil {
		t.Error("registered nothing")
	}
	if err := c.CloseBacking(777); err == nil {
		t.Error("closed what was never opened")
	}
	eventually(t, "released", func() bool { return f.released.Load() == 1 })
}

func TestNoPassthrough(t *testing.T) {
	c, dir := mountTiny(t, newTiny(), nil)
	var st unix.Stat_t
	unix.Stat(dir, &st)
	if c.PassthroughOK() {
		t.Error("not asked for")
	}
}

// TestInterrupt kills callers: of a running request, and of one that still queues.
func TestInterrupt(t *testing.T) {
	f := newTiny()
	c, dir := mountTiny(t, f, func(cfg *Config) { cfg.MaxSlow = 1 })
	run := func() *exec.Cmd {
		cmd := exec.Command("cat", dir+"/slow")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	first := run()
	eventually(t, "the first runs", func() bool { return f.running.Load() == 1 })
	second := run()
	eventually(t, "the second queues", func() bool { return queuedLen(c) == 1 })
	second.Process.Kill()
	second.Wait() // does not return while the request has no answer
	if queuedLen(c) != 0 || f.running.Load() != 1 {
		t.Errorf("%d queue, %d run", queuedLen(c), f.running.Load())
	}
	first.Process.Kill()
	first.Wait()
	eventually(t, "nothing runs", func() bool { return f.running.Load() == 0 })
}

// TestFlood: hundreds of blocked callers, and everything else is served as before, by a bounded number of goroutines.
func TestFlood(t *testing.T) {
	f := newTiny()
	c, dir := mountTiny(t, f, func(cfg *Config) { cfg.MaxSlow = 8 })
	const callers = maxQueued + 8 + 50
	var refused, served atomic.Int32
	var wg sync.WaitGroup
	slow, err := unix.Open(dir+"/slow", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(slow)
	for range callers {
		wg.Go(func() {
			err := error(unix.EINTR)
			for err == unix.EINTR { // by a signal of Go's runtime
				_, err = unix.Pread(slow, make([]byte, 16), 0)
			}
			switch err {
			case nil:
				served.Add(1)
			case unix.EAGAIN:
				refused.Add(1)
			default:
				t.Errorf("a caller got %v", err)
			}
		})
	}
	if transport == TransportURing {
		eventually(t, "all are queued or refused", func() bool {
			return queuedLen(c)+int(f.running.Load()+refused.Load()) == callers && refused.Load() > 50
		})
	} else {
		eventually(t, "the queue is full", func() bool { return queuedLen(c) == maxQueued && refused.Load() == 50 })
	}
	var worst time.Duration
	for range 200 {
		start := time.Now()
		if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil {
			t.Fatalf("during the flood: %q, %v", got, err)
		}
		worst = max(worst, time.Since(start))
	}
	if worst > time.Second {
		t.Errorf("a read waited %v", worst)
	}
	close(f.gate)
	wg.Wait()
	if served.Load()+refused.Load() != callers || f.most.Load() != 8 {
		t.Errorf("%d served, %d refused, at most %d at once", served.Load(), refused.Load(), f.most.Load())
	}
}

// TestKeptName: the file that go-fuse would show to everybody is not there.
func TestKeptName(t *testing.T) {
	_, dir := mountTiny(t, newTiny(), nil)
	var st unix.Stat_t
	if err := unix.Stat(dir+"/"+keptName, &st); err != unix.ENOENT {
		t.Errorf("stat: %v", err)
	}
	if err := unix.Mkdir(dir+"/"+keptName, 0o755); err != unix.EPERM {
		t.Errorf("mkdir: %v", err)
	}
}

// TestMany holds 200 connections at once in few threads and little memory, in a process of its own: threads stay.
func TestMany(t *testing.T) {
	if transport != TransportClassic {
		t.Skip("a connection with io_uring has a thread for each processor")
	}
	const alone = "CONN_TEST_ALONE"
	if os.Getenv(alone) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestMany$", "-test.v")
		cmd.Env = append(os.Environ(), alone+"=1")
		out, err := cmd.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Error(err)
		}
		return
	}
	const connections = 200
	f := newTiny()
	var dirs []string
	for range connections {
		_, dir := mountTiny(t, f, nil)
		dirs = append(dirs, dir)
	}
	for range 3 {
		for _, dir := range dirs {
			if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
	threads, kib := countDir("/proc/self/task"), resident()
	if threads > 30 || kib > 200<<10 { // 8 threads and 10 MiB were measured; the race detector multiplies memory
		t.Errorf("%d threads and %d KiB for %d connections", threads, kib, connections)
	}
	t.Logf("%d connections: %d threads, %d KiB", connections, threads, kib)
}

// TestShare: what slow requests take of a processor is waited for once what was saved up is used up, and no request makes
// others wait for longer than a second.
func TestShare(t *testing.T) {
	s := share{percent: 25}
	now := time.Now()
	wait := func() time.Duration { return max(s.due().Sub(now), 0) }
	s.spend(400*time.Millisecond, now)
	if got := wait(); got != 0 {
		t.Errorf("with some left of what was saved up: %v", got)
	}
	s.spend(200*time.Millisecond, now)
	if got := wait(); got != 400*time.Millisecond {
		t.Errorf("with a tenth of a second too much: %v, want 400ms", got)
	}
	s.spend(time.Minute, now)
	if got := wait(); got != shareMaxDebt {
		t.Errorf("after a minute of work: %v, want %v", got, shareMaxDebt)
	}
	now = now.Add(time.Hour)
	s.spend(500*time.Millisecond, now)
	if got := wait(); got != 0 {
		t.Errorf("after an hour of rest: %v", got)
	}
	s = share{}
	if s.spend(time.Hour, now); wait() != 0 {
		t.Error("without a bound there is a wait")
	}
}

// TestInterruptHeld: a request that waits for its share is interrupted when it has begun, and not before: a signal is no way
// around the share, and who is killed does not stay.
func TestInterruptHeld(t *testing.T) {
	f := newTiny()
	c, dir := mountTiny(t, f, func(cfg *Config) { cfg.MaxCPU = 25 })
	c.slow.share.spend(time.Hour, time.Now())
	start := time.Now()
	cmd := exec.Command("cat", dir+"/slow")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	held := func() bool {
		c.slow.mu.Lock()
		defer c.slow.mu.Unlock()
		for _, r := range c.slow.running {
			return r.held
		}
		return false
	}
	eventually(t, "the request waits", held)
	cmd.Process.Kill()
	cmd.Wait() // does not return while the request has no answer
	if took := time.Since(start); took < shareMaxDebt/2 {
		t.Errorf("a signal got it through in %v", took)
	}
	eventually(t, "nothing runs", func() bool { return f.running.Load() == 0 })
}
