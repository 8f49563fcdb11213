package notify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// fake is a guest whose views are a directory.
type fake struct {
	device uint64
	asked  atomic.Int32
	hang   chan struct{} // not nil: Type waits for it
}

func (f *fake) Type(fd int) uint32 {
	f.asked.Add(1)
	if f.hang != nil {
		<-f.hang
	}
	if device, err := DeviceOf(fd); err != nil || device != f.device {
		return 0
	}
	return unix.CGROUP2_SUPER_MAGIC
}

func (f *fake) Tree(*Caller, string, string) (int, error) { return -1, unix.EPERM }

// onFiltered does something on a thread under a filter, of which listen is given the listener before.
func onFiltered(t *testing.T, r Rules, listen func(*os.File), do func()) {
	t.Helper()
	err := host.OnThread(func() error { // which ends, with the filter
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		var fd int
		if err == nil {
			fd, err = Install(Filter(r))
		}
		var l *os.File
		if err == nil {
			l, err = NewListener(fd)
		}
		if err == nil {
			listen(l)
			do()
		}
		return err
	})
	if err != nil {
		if errors.Is(err, unix.EBUSY) {
			t.Skip("machine: a seccomp filter with a listener holds here already")
		}
		t.Fatal(err)
	}
}

// typeOf is the type that statfs of a path says, by the raw call.
func typeOf(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Errorf("statfs %s: %v", path, err)
	}
	return int64(st.Type)
}

// newFake is a guest that has the file system of a directory of the test's for its view.
func newFake(t *testing.T) (*fake, string) {
	t.Helper()
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	device, err := DeviceOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	return &fake{device: device}, dir
}

func TestStatfs(t *testing.T) {
	guest, dir := newFake(t)
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/a/b/../../a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "absolute")); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(filepath.Join(dir, "a"), unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(cwd, dir)
	if err != nil {
		t.Fatal(err)
	}
	number := strconv.Itoa(fd)
	served := make(chan error, 1)
	onFiltered(t, Rules{Type: true}, func(l *os.File) {
		go func() { served <- (&Supervisor{Guest: guest}).Serve(l, nil) }()
	}, func() {
		want := int64(unix.CGROUP2_SUPER_MAGIC)
		for _, path := range []string{
			dir, dir + "/a/b", dir + "/a/../a", dir + "/absolute/b", relative + "/a",
			"/proc/self/fd/" + number, "/proc/thread-self/fd/" + number, "/proc/self/fd/" + number + "/b",
			"/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + number, "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/fd/" + number,
		} {
			if got := typeOf(t, path); got != want {
				t.Errorf("statfs %s: type %#x", path, got)
			}
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil || int64(st.Type) != want {
			t.Errorf("fstatfs: type %#x, %v", st.Type, err)
		}
		if st.Bsize == 0 || st.Namelen == 0 {
			t.Errorf("fstatfs: %+v", st)
		}
		if got := typeOf(t, "/proc/self/status"); got != unix.PROC_SUPER_MAGIC {
			t.Errorf("/proc: type %#x", got)
		}
		for _, path := range []string{dir + "/none", dir + "/link", "", dir + "/" + strings.Repeat("x", 5000)} {
			var st unix.Statfs_t
			err := unix.Statfs(path, &st)
			want := unix.ENOENT
			if len(path) > 4096 {
				want = unix.ENAMETOOLONG
			}
			if !errors.Is(err, want) {
				t.Errorf("statfs %.40s: %v", path, err)
			}
		}
		if _, _, errno := unix.Syscall(unix.SYS_STATFS, 8, uintptr(unsafe.Pointer(&st)), 0); errno != unix.EFAULT {
			t.Errorf("a bad pointer to a path: %v", errno)
		}
		path, _ := unix.BytePtrFromString(dir)
		if _, _, errno := unix.Syscall(unix.SYS_STATFS, uintptr(unsafe.Pointer(path)), 8, 0); errno != unix.EFAULT {
			t.Errorf("a bad pointer to the result: %v", errno)
		}
		if err := unix.Fstatfs(1<<20, &st); !errors.Is(err, unix.EBADF) {
			t.Errorf("fstatfs of no descriptor: %v", err)
		}
	})
	if err := <-served; err != nil {
		t.Errorf("after the last thread: %v", err)
	}
}

// TestBounds: a call of which no answer comes is passed on after the time; no more than some wait for one.
func TestBounds(t *testing.T) {
	guest, dir := newFake(t)
	guest.hang = make(chan struct{})
	defer close(guest.hang)
	const threads = 2
	s := &Supervisor{Guest: guest, Threads: threads, Timeout: 300 * time.Millisecond}
	onFiltered(t, Rules{Type: true}, func(l *os.File) { go s.Serve(l, nil) }, func() {
		for i := range threads + 2 {
			began := time.Now()
			if got := typeOf(t, dir); got == unix.CGROUP2_SUPER_MAGIC {
				t.Error("an answer, from a guest that gives none")
			}
			if took := time.Since(began); took < s.Timeout || took > s.Timeout*10 {
				t.Errorf("call %d took %v", i, took)
			}
		}
	})
	if n := guest.asked.Load(); n != threads {
		t.Errorf("%d calls were tried", n)
	}
}

// TestCrowded: where all that may wait for a guest's file system do, paths in the kernel's cache are still answered, others are passed on
// after a while, and at the same path at once.
func TestCrowded(t *testing.T) {
	guest, dir := newFake(t)
	onFiltered(t, Rules{Type: true}, func(l *os.File) {
		var stuck atomic.Int32
		x, err := newServer(&Supervisor{Guest: guest, Threads: 1, Stuck: func() { stuck.Add(1) }}, l)
		if err != nil {
			t.Error(err)
			return
		}
		gone := &Caller{server: x} // whose call has no number that is in use
		end, ended := make(chan struct{}), make(chan bool)
		go func() { ended <- x.withRoom(gone, "hangs", func() { <-end }) }()
		t.Cleanup(func() {
			close(end)
			if !<-ended {
				t.Error("the first path was not looked up")
			}
			if len(x.slow) > 0 || len(x.looking[0]) > 0 || stuck.Load() == 0 {
				t.Errorf("afterwards: %v, %d; stuck %d times", x.slow, len(x.looking[0]), stuck.Load())
			}
		})
		time.Sleep(2 * slowAfter)
		for path, least := range map[string]time.Duration{"hangs": 0, "other": roomTime} {
			began := time.Now()
			if x.withRoom(gone, path, func() {}) || time.Since(began) < least || least == 0 && time.Since(began) > roomTime/2 {
				t.Errorf("%s: looked up after %v", path, time.Since(began))
			}
		}
		x.free = make(chan *Request, 2)
		x.free <- &Request{}
		x.free <- &Request{}
		go x.serve()
	}, func() {
		var got int64 // of the kernel, which the call is passed on to until the cache has the path
		for end := time.Now().Add(10 * time.Second); got != unix.CGROUP2_SUPER_MAGIC && time.Now().Before(end); {
			got = int64(typeOf(t, dir))
		}
		if got != unix.CGROUP2_SUPER_MAGIC {
			t.Errorf("in the cache: type %#x", got)
		}
	})
}

// TestTakeOver: what a server has received and not answered is answered by the next, or passed on.
func TestTakeOver(t *testing.T) {
	for _, form := range []string{"serve", "pass on"} {
		guest, dir := newFake(t)
		slots := []*Request{{}, {}, {}}
		onFiltered(t, Rules{Type: true}, func(l *os.File) {
			go func() {
				if err := receive(l, slots[1]); err != nil { // and no more: the server has died
					t.Error(err)
				}
				if slots[1].ID == 0 || slots[1].Tid == 0 || slots[1].Nr == 0 {
					t.Errorf("received: %+v", slots[1])
				}
				if form == "serve" {
					(&Supervisor{Guest: guest}).Serve(l, slots)
				} else {
					PassOn(l, slots)
				}
			}()
		}, func() {
			for range 3 {
				if got := typeOf(t, dir); (got == unix.CGROUP2_SUPER_MAGIC) != (form == "serve") {
					t.Errorf("%s: type %#x", form, got)
				}
			}
		})
	}
}

// TestClose: a server whose listener is closed returns, and what it is answering is still answered.
func TestClose(t *testing.T) {
	guest, dir := newFake(t)
	guest.hang = make(chan struct{})
	served := make(chan error, 1)
	onFiltered(t, Rules{Type: true}, func(l *os.File) {
		go func() { served <- (&Supervisor{Guest: guest}).Serve(l, nil) }()
		go func() {
			for guest.asked.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			l.Close()
			if err := <-served; !errors.Is(err, os.ErrClosed) {
				t.Errorf("closed: %v", err)
			}
			close(guest.hang)
		}()
	}, func() {
		if got := typeOf(t, dir); got != unix.CGROUP2_SUPER_MAGIC {
			t.Errorf("type %#x", got)
		}
	})
}

func TestRequestSize(t *testing.T) {
	if n := unsafe.Sizeof(Request{}); n != 80 {
		t.Errorf("a request has %d bytes", n)
	}
}

// TestStuck: a thread that is kept by a caller's memory, or by a view, is told of when nobody waits for its call any more.
func TestStuck(t *testing.T) {
	for what, do := range map[string]func(c *Caller, until chan struct{}){
		"memory": func(c *Caller, until chan struct{}) {
			_ = c.memory(func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error) {
				<-until
				return 0, unix.EFAULT
			}, 0, make([]byte, 1))
		},
		"view": func(c *Caller, until chan struct{}) {
			c.server.Guest.(*fake).hang = until
			c.ask(-1, &unix.Statfs_t{})
		},
	} {
		until := make(chan struct{})
		s := &Supervisor{Guest: &fake{}, Stuck: sync.OnceFunc(func() { close(until) })}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			do(&Caller{server: s.at(nil, -1)}, until) // at no listener nobody waits
		}()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: nothing was said of the thread", what)
		}
	}
}

// TestOwnForeign: a file system that a user has mounted by fusermount is no view, whatever it is called.
func TestOwnForeign(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("machine: not root")
	}
	for user, want := range map[string]string{"0": "fuse.cgroup2", "1000": ""} {
		err := host.OnThread(func() error {
			dir := t.TempDir()
			dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(dev)
			options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%s,group_id=0", dev, user)
			if err := unix.Mount("vcgroupfs", dir, "fuse.cgroup2", 0, options); err != nil {
				return err
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			at, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(at)
			device, err := DeviceOf(at)
			if got := (&Own{}).fstype(device); err == nil && got != want {
				t.Errorf("mounted by user %s: %q, want %q", user, got, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
