package conn

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFiles(t *testing.T) {
	f := newTiny()
	_, dir := mountTiny(t, f, nil)
	plain := filepath.Join(dir, "plain")
	if got, err := readFile(plain); got != "hello\n" || err != nil {
		t.Errorf("read: %q, %v", got, err)
	}
	if n, err := writeFile(plain, []byte("again\n")); n != 6 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(plain, &st); err != nil || st.Size != 6 || st.Ino != plainNode {
		t.Errorf("stat: %+v, %v", st, err)
	}
	if err := unix.Stat(filepath.Join(dir, "none"), &st); err != unix.ENOENT {
		t.Errorf("stat of nothing: %v", err)
	}
	// Another process, with its own ideas: ls, cat with a buffer larger than a request, redirection with O_TRUNC.
	out, err := exec.Command("sh", "-c", `cd "$0" && ls -1 && cat plain && echo new >plain && cat plain`, dir).CombinedOutput()
	if want := "broken\npanic\npassed\nplain\npoll\nslow\nagain\nnew\n"; string(out) != want || err != nil {
		t.Errorf("a shell sees %q, %v", out, err)
	}
	eventually(t, "every open is released", func() bool { return f.released.Load() >= 5 })
}

func TestMountinfo(t *testing.T) {
	_, dir := mountTiny(t, newTiny(), nil)
	checkMountinfo(t, dir)
}

func checkMountinfo(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) < 10 || w[4] != dir {
			continue
		}
		if w[5] != "rw,nosuid,nodev,noexec,relatime" || !strings.Contains(line, " - fuse.tinytype "+tinyName+" rw,") ||
			!strings.Contains(line, "user_id=0,group_id=0,default_permissions,allow_other") {
			t.Errorf("mountinfo says %q", line)
		}
		return
	}
	t.Errorf("%s is not in mountinfo", dir)
}

// TestClassicMount mounts as where fsopen is missing.
func TestClassicMount(t *testing.T) {
	f := newTiny()
	c, err := New(Config{FS: f, FSName: tinyName, Subtype: "tinytype", Log: quiet(), Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = c.classicMount(at, dir)
	unix.Close(at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Serve() }()
	checkMountinfo(t, dir)
	if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil {
		t.Errorf("read: %q, %v", got, err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve after umount: %v", err)
	}
	c.Close()
}

func TestFsmount(t *testing.T) {
	c, err := New(Config{FS: newTiny(), FSName: tinyName, Subtype: "tinytype", Log: quiet(), Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan error, 1)
	go func() { done <- c.Serve() }() // waits for the mount
	fd, err := c.Fsmount(unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := unix.Openat(fd, "plain", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(plain)
	if _, err := unix.Openat(fd, "plain", unix.O_WRONLY|unix.O_CLOEXEC, 0); err != unix.EROFS {
		t.Errorf("open for writing: %v", err)
	}
	if _, err := c.Fsmount(0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("mounted twice: %v", err)
	}
	unix.Close(fd) // never attached: this unmounts
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestMountRefuses(t *testing.T) {
	c, err := New(Config{FS: newTiny(), Log: quiet(), Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Mount(file, nil); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("mount on a file: %v", err)
	}
	if err := c.Mount(file+"no", nil); !errors.Is(err, unix.ENOENT) {
		t.Errorf("mount on nothing: %v", err)
	}
	c.cfg.FSName = strings.Repeat("x", 300) // longer than a parameter of fsconfig may be
	if err := c.Mount(filepath.Dir(file), nil); err == nil || !strings.Contains(err.Error(), "source") {
		t.Errorf("mount with a refused option: %v", err)
	}
	if err := c.InvalInode(1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("notified before the mount: %v", err)
	}
	c.Close()
	if err := c.Mount(filepath.Dir(file), nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("mount after Close: %v", err)
	}
	if err := c.Serve(); err != nil {
		t.Errorf("Serve after Close: %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a connection without a file system")
	}
}

func TestUnmountEndsServe(t *testing.T) {
	c, err := New(Config{FS: newTiny(), FSName: tinyName, Subtype: "tinytype", Log: quiet(), Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	if err := c.Mount(dir, nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Serve() }()
	if _, err := readFile(dir + "/plain"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // so that it is parked
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := c.Serve(); err == nil {
		t.Error("served twice")
	}
}

// TestParked: connections without requests have no goroutine but the caller of Serve, and serve again.
func TestParked(t *testing.T) {
	if transport == TransportURing {
		t.Skip("transport: each connection has threads of its own")
	}
	before := runtime.NumGoroutine()
	const connections = 20
	var dirs []string
	for range connections {
		_, dir := mountTiny(t, newTiny(), nil)
		dirs = append(dirs, dir)
	}
	for range 3 {
		for _, dir := range dirs {
			if got, err := readFile(dir + "/plain"); got != "hello\n" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
		}
		// One goroutine waits for all of them.
		eventually(t, "all are parked", func() bool { return runtime.NumGoroutine() <= before+connections+1 })
	}
}

// TestAbort writes to the connection's abort file, as an administrator does.
func TestAbort(t *testing.T) {
	f := newTiny()
	f.valid = abortedMark
	c, err := New(Config{FS: f, FSName: tinyName, Subtype: "tinytype", Slow: f.slow, Log: quiet(), Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	if err := c.Mount(dir, nil); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	done := make(chan error, 1)
	go func() { done <- c.Serve() }()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	control := t.TempDir()
	if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(control, 0)
	caller := make(chan error, 1)
	go func() { _, err := readFile(dir + "/slow"); caller <- err }()
	eventually(t, "the slow read runs", func() bool { return f.running.Load() == 1 })
	if err := os.WriteFile(filepath.Join(control, itoa(unix.Minor(st.Dev)), "abort"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("Serve: %v", err)
	}
	if err := <-caller; err != unix.ECONNABORTED {
		t.Errorf("the caller got %v", err)
	}
}

// TestClose ends a connection with callers in every state: running, queued, and one that was never read.
func TestClose(t *testing.T) {
	f := newTiny()
	c, dir := mountTiny(t, f, func(cfg *Config) { cfg.MaxSlow = 2 })
	callers := make(chan error, 8)
	for range cap(callers) {
		go func() { _, err := readFile(dir + "/slow"); callers <- err }()
	}
	eventually(t, "two run, six queue", func() bool { return queuedLen(c) == 6 })
	c.Close()
	for range cap(callers) {
		if err := <-callers; err != unix.ECONNABORTED {
			t.Errorf("a caller got %v", err)
		}
	}
	if f.running.Load() != 0 {
		t.Error("Close returned before the slow requests")
	}
	eventually(t, "later calls get ENOTCONN", func() bool {
		_, err := readFile(dir + "/plain")
		return err == unix.ENOTCONN
	})
	if err := c.NotifyPoll(1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("notified after Close: %v", err)
	}
}

// TestCloseWithNotification closes while a notification waits for a directory's lock, whose holder waits for an answer.
func TestCloseWithNotification(t *testing.T) {
	f := newTiny()
	c, dir := mountTiny(t, f, func(cfg *Config) { cfg.MaxSlow = 1 })
	var st unix.Stat_t
	if err := unix.Stat(dir+"/plain", &st); err != nil { // the entry is known, so the notification gets as far as the lock
		t.Fatal(err)
	}
	callers := make(chan error, 4)
	for range cap(callers) {
		go func() { callers <- unix.Mkdir(dir+"/new", 0o755) }()
	}
	eventually(t, "a mkdir runs", func() bool { return f.running.Load() == 1 })
	note := make(chan error, 1)
	go func() { note <- c.InvalEntry(rootNode, "plain") }()
	time.Sleep(20 * time.Millisecond)
	closed := make(chan struct{})
	go func() { c.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
	if err := <-note; err != nil && !errors.Is(err, os.ErrClosed) {
		t.Errorf("the notification: %v", err)
	}
	for range cap(callers) {
		if err := <-callers; err != unix.ECONNABORTED && err != unix.ENOTCONN && err != unix.EDQUOT {
			t.Errorf("a mkdir got %v", err)
		}
	}
}

// TestLongWrites: a control file refuses a write as a whole, so it must come as a whole.
func TestLongWrites(t *testing.T) {
	f := newTiny()
	_, dir := mountTiny(t, f, nil)
	buf := make([]byte, 1<<20)
	for _, n := range []int{4096, 4097, 49253, 65536, 65537, 200000} {
		for _, shift := range []int{0, 1, 4095} { // a page more is needed where the caller's buffer is not aligned
			wrote, err := writeFile(dir+"/plain", buf[shift:shift+n])
			if n <= 4096 && (wrote != n || err != nil) || n > 4096 && err != unix.E2BIG {
				t.Errorf("write of %d: %d, %v", n, wrote, err)
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.writes) != 18 {
		t.Errorf("18 writes came as %d", len(f.writes))
	}
	for i, n := range f.writes {
		if want := []int{4096, 4097, 49253}; i < 9 && n != want[i/3] || i >= 9 && n < 49253 {
			t.Errorf("write %d came with %d bytes", i, n)
		}
	}
	slices.Sort(f.writes)
	if most := f.writes[len(f.writes)-1]; most > MaxWrite {
		t.Errorf("a write of %d bytes", most)
	}
}
