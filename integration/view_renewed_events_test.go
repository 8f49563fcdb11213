package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// eventsFile is a control file of v2 that the kernel tells of changes of, and goes with its controller.
type eventsFile struct {
	controller, name string
	limit            string                       // what to set to 0, so that
	exceed           func(cgroup int) (err error) // changes the file: a process in the cgroup wants more than the limit
}

// eventsFiles are those of a hierarchy.
func eventsFiles(hier *host.Hierarchy) (files []eventsFile) {
	if hier.Holds("pids") {
		files = append(files, eventsFile{"pids", "pids.events", "pids.max", func(cgroup int) error {
			cmd := exec.Command("/proc/self/exe", "-test.run=^$")
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup}
			if err := cmd.Run(); !errors.Is(err, unix.EAGAIN) {
				return fmt.Errorf("a process more than pids.max: %v, want EAGAIN", err)
			}
			return nil
		}})
	}
	if sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-2048kB"); hier.Holds("hugetlb") && len(sizes) > 0 {
		files = append(files, eventsFile{"hugetlb", "hugetlb.2MB.events", "hugetlb.2MB.rsvd.max", func(cgroup int) error {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), kit.RoleVariable+"=huge")
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup}
			if out, err := cmd.Output(); err != nil || string(out) != "ENOMEM\n" {
				return fmt.Errorf("a huge page more than the limit: %q, %v, want ENOMEM", out, err)
			}
			return nil
		}})
	}
	return files
}

// waiting is a cgroup whose events file somebody waits for: natively, or by a view.
type waiting struct {
	t      *testing.T
	of     eventsFile
	parent string // as the one who waits finds it
	host   string // the same on the host
	server *os.Process
}

func (x waiting) file() string { return filepath.Join(x.parent, "c", x.of.name) }

// renew has the file made anew by a write below a directory: parent or host. What the host does is over before the server is told of it.
func (x waiting) renew(by string) {
	x.t.Helper()
	if by != x.parent {
		x.server.Signal(unix.SIGSTOP)
		defer x.server.Signal(unix.SIGCONT)
	}
	for _, sign := range []string{"-", "+"} {
		if got := kit.WriteFile(filepath.Join(by, "cgroup.subtree_control"), sign+x.of.controller); got != "ok" {
			x.t.Fatalf("%s%s: %s", sign, x.of.controller, got)
		}
	}
}

// exceed changes the file, after the kernel was made to forget what nobody holds.
func (x waiting) exceed() {
	x.t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		x.t.Fatal(err)
	}
	dir := filepath.Join(x.host, "c")
	if got := kit.WriteFile(filepath.Join(dir, x.of.limit), "0"); got != "ok" {
		x.t.Fatalf("%s: %s", x.of.limit, got)
	}
	cgroup, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	defer unix.Close(cgroup)
	if err := x.of.exceed(cgroup); err != nil {
		x.t.Fatal(err)
	}
}

// inotify is an instance that watches the file.
func (x waiting) inotify() (fd, number int) {
	x.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { unix.Close(fd) })
	return fd, x.again(fd)
}

// again has an instance watch the file, perhaps once more, and says by which number.
func (x waiting) again(fd int) int {
	x.t.Helper()
	number, err := unix.InotifyAddWatch(fd, x.file(), unix.IN_MODIFY)
	if err != nil {
		x.t.Fatal(err)
	}
	return number
}

// told waits until an instance has something.
func (x waiting) told(fd int, what string) {
	x.t.Helper()
	kit.Eventually(x.t, what, func() bool { return strings.HasPrefix(kit.ReadInotify(fd), "2 ") })
	time.Sleep(50 * time.Millisecond) // a view may tell twice
	kit.ReadInotify(fd)
}

// polled is what poll says of a descriptor now.
func polled(t *testing.T, fd int) int16 {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	for {
		if _, err := unix.Poll(fds, 0); err == nil {
			return fds[0].Revents
		} else if err != unix.EINTR { // Go's own signals
			t.Fatal(err)
		}
	}
}

// open opens the file and reads it, after which poll has nothing to say.
func (x waiting) open() (fd int) {
	x.t.Helper()
	fd, err := unix.Open(x.file(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { unix.Close(fd) })
	kit.Eventually(x.t, "poll to be quiet after a read", func() bool {
		unix.Pread(fd, make([]byte, 100), 0)
		return polled(x.t, fd) == 0
	})
	return fd
}

// woken waits for poll to say that there is something.
func (x waiting) woken(fd int, what string) {
	x.t.Helper()
	kit.Eventually(x.t, what, func() bool { return polled(x.t, fd) == unix.POLLPRI|unix.POLLERR })
}

// play waits for a file, has it made anew, and waits again. It says how long a guest that asks again and again finds the earlier file at
// least.
func (x waiting) play(by string) (stale time.Duration) {
	first, number := x.inotify()
	x.exceed()
	x.told(first, "inotify: the first event")
	old := x.open()
	x.exceed()
	x.woken(old, "poll: the first event")
	kit.ReadInotify(first)

	stale = time.Hour
	for round := range 3 {
		x.renew(by)
		renewed := time.Now()
		x.woken(old, "poll: the file is gone")
		if _, err := unix.Pread(old, make([]byte, 1), 0); err != unix.ENODEV {
			x.t.Errorf("reading a file that is gone: %v, want ENODEV", err)
		}
		kit.Eventually(x.t, "inotify to find the new file", func() bool { return x.again(first) > number })
		stale = min(stale, time.Since(renewed))
		number = x.again(first)
		second, _ := x.inotify()
		x.exceed()
		x.told(first, fmt.Sprintf("inotify: an event of new file %d, of a guest that watched the old one", round))
		x.told(second, fmt.Sprintf("inotify: an event of new file %d", round))
		old = x.open()
		x.exceed()
		x.woken(old, fmt.Sprintf("poll: an event of new file %d", round))
		x.told(first, fmt.Sprintf("inotify: the second event of new file %d", round))
	}
	return stale
}

// playHuge wants a huge page.
func playHuge(string) {
	_, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB|unix.MAP_HUGE_2MB)
	fmt.Println(kit.Word(err))
}

// TestRenewedEvents: a controller that is switched off and on again makes its files anew. Whoever watches and polls the new one is told
// of its changes, natively and by a view, and whether the guest or the host has switched.
func TestRenewedEvents(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, hierarchy.Unified)
	files := eventsFiles(hier)
	if len(files) == 0 {
		t.Skip("machine: no controller of the v2 hierarchy has an events file that a test can change")
	}
	path := kit.NewBoundary(t, "renewed-events", hier)
	v := kit.MountView(t, "--boundary", path, "--controllers", strings.Join(kit.ShownControllers(hier), ","), "--layout", "v2")
	for _, of := range files {
		for _, by := range []string{"native", "guest", "host"} {
			t.Run(of.controller+"-"+by, func(t *testing.T) {
				parent := path + "/" + of.controller + "-" + by
				if err := hier.Create(parent+"/c", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := hier.Enable(parent+"/c", of.controller); err != nil {
					t.Fatal(err)
				}
				x := waiting{t: t, of: of, host: kit.HostDir(hier, parent), parent: filepath.Join(v.Dir, filepath.Base(parent)), server: v.Cmd.Process}
				if by == "native" {
					x.parent = x.host
				}
				renewer := x.parent
				if by == "host" {
					renewer = x.host
				}
				if stale := x.play(renewer); stale > 500*time.Millisecond { // the kernel's cache, when it is not told, keeps for a second
					t.Errorf("the earlier file is found for %v", stale)
				} else {
					t.Logf("the earlier file is found for %v", stale)
				}
			})
		}
	}
}
