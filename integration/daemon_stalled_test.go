package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// Of userfaultfd, include/uapi/linux/userfaultfd.h.
const (
	uffdAPI             = 0xaa
	uffdioAPI           = 0xc018aa3f
	uffdioRegister      = 0xc020aa00
	uffdRegisterMissing = 1
)

// lockDirectory keeps a directory of the host's from being changed: a getdents holds its lock while it waits for a page of memory that a
// userfaultfd does not give. It gives the directory free when unlock is called, or the test ends.
func lockDirectory(t *testing.T, path string) (unlock func()) {
	t.Helper()
	uffd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.Skipf("machine: no userfaultfd: %v", errno)
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	api := [3]uint64{uffdAPI}
	register := [4]uint64{uint64(uintptr(unsafe.Pointer(&page[0]))), uint64(len(page)), uffdRegisterMissing}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uffd, uffdioAPI, uintptr(unsafe.Pointer(&api))); errno != 0 {
		t.Fatal(errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uffd, uffdioRegister, uintptr(unsafe.Pointer(&register))); errno != 0 {
		t.Fatal(errno)
	}
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		unix.Getdents(dir, page)
		close(read)
	}()
	unlock = sync.OnceFunc(func() {
		unix.Close(int(uffd)) // who waits for the page gets one of zeroes
		<-read
		unix.Close(dir)
		unix.Munmap(page)
	})
	t.Cleanup(unlock)
	// The event of the fault: the directory is locked.
	fds := []unix.PollFd{{Fd: int32(uffd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int(kit.Patience.Milliseconds())); n != 1 {
		t.Fatalf("the directory is not read: %v", err)
	}
	return unlock
}

// figure is a figure of a daemon without labels, as its metrics have it; -1 when they have not.
func figure(t *testing.T, address, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (.*)$`).FindSubmatch(body)
	if m == nil {
		return -1
	}
	value, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestStalled: the metrics say for how long a guest has waited without any answer, while the host lets none be given. A guest that is
// answered is not stalled, also when it asks all the time.
func TestStalled(t *testing.T) {
	const control = "/sys/fs/fuse/connections"
	if kit.IsMounted(control) {
		t.Log("fusectl is mounted")
	} else if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		t.Skipf("machine: no fusectl: %v", err)
	} else {
		t.Cleanup(func() { unix.Unmount(control, 0) })
	}
	const stalled = "vcgroupfs_stalled_seconds"
	address := kit.LoopbackAddress(t)
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--metrics", address})
	p := kit.NewPlace(t, d, "stalled")
	d.WantTry(t, 0, "", p.Add("web")...)
	if err := unix.Mkdir(p.At("a"), 0o755); err != nil {
		t.Fatal(err)
	}
	unlock := lockDirectory(t, filepath.Join(kit.HostDir(p.Hierarchy, p.Path), "a"))
	made := make(chan error)
	go func() { made <- unix.Mkdir(p.At("a/b"), 0o755) }()
	var st unix.Stat_t
	if err := unix.Stat(p.Dir, &st); err != nil {
		t.Fatal(err)
	}
	waiting := fmt.Sprintf("%s/%d/waiting", control, unix.Minor(st.Dev))
	kit.Eventually(t, "the kernel to count the mkdir", func() bool { return kit.ReadFile(waiting) == "1\n" })
	begun := time.Now()
	kit.Eventually(t, "the metrics to say that the guest waits", func() bool { return figure(t, address, stalled) >= 2 })
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("they say after %v that it has waited for 2 s", took)
	}
	if healthy := figure(t, address, "vcgroupfs_healthy"); healthy != 1 {
		t.Errorf("the daemon's health is %v", healthy)
	}
	unlock()
	if err := <-made; err != nil {
		t.Error(err)
	}
	busy := kit.Repeat(func() bool { kit.ReadFile(p.At("pids.max")); return true })
	defer busy()
	kit.Eventually(t, "the metrics to say that the guest waits no more", func() bool { return figure(t, address, stalled) == 0 })
	busy()
	for _, dir := range []string{"a/b", "a"} {
		if err := unix.Rmdir(p.At(dir)); err != nil {
			t.Error(err)
		}
	}
	d.Stop(t)
}
