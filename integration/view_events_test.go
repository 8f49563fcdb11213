package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestInotify: a guest's watch on cgroup.events fires when the kernel says that the cgroup is empty, or no longer.
func TestInotify(t *testing.T) {
	hier, path, top := kit.MountUnified(t, "inotify")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(top, "a/cgroup.events"), unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	woken := func(what string) {
		t.Helper()
		kit.Eventually(t, "inotify: "+what, func() bool { return strings.HasPrefix(kit.ReadInotify(fd), "2 ") })
		time.Sleep(50 * time.Millisecond)
		kit.ReadInotify(fd)
	}
	pid := kit.StartSleeper(t)
	if err := hier.Attach(path+"/a", pid); err != nil {
		t.Fatal(err)
	}
	woken("populated")
	if got := kit.ReadFile(filepath.Join(top, "a/cgroup.events")); !strings.Contains(got, "populated 1") {
		t.Errorf("the guest reads %q", got)
	}
	if err := hier.Attach(path, pid); err != nil {
		t.Fatal(err)
	}
	woken("empty")
	if got := kit.ReadFile(filepath.Join(top, "a/cgroup.events")); !strings.Contains(got, "populated 0") {
		t.Errorf("the guest reads %q", got)
	}
}

// TestPoll: poll on cgroup.events is as on a native file: ready before the first read, then quiet until the next event.
func TestPoll(t *testing.T) {
	hier, path, top := kit.MountUnified(t, "poll")
	pid := kit.StartSleeper(t)
	for _, dir := range []string{kit.HostDir(hier, path), top} {
		fd, err := unix.Open(filepath.Join(dir, "a/cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		poll := func(wait int) int16 {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
			for {
				if _, err := unix.Poll(fds, wait); err == nil {
					break
				} else if err != unix.EINTR { // Go's own signals
					t.Fatal(err)
				}
			}
			return fds[0].Revents
		}
		const event = unix.POLLPRI | unix.POLLERR
		read := func() { unix.Pread(fd, make([]byte, 100), 0) }
		if got := poll(0); got != event {
			t.Errorf("%s: before the first read %#x", dir, got)
		}
		read()
		if hier.View && poll(20) == event { // in a guest the first wait may end for nothing
			read()
		}
		if got := poll(20); got != 0 {
			t.Errorf("%s: after a read %#x", dir, got)
		}
		done := make(chan int16)
		go func() { done <- poll(10000) }()
		time.Sleep(50 * time.Millisecond)
		if err := hier.Attach(path+"/a", pid); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got != event {
			t.Errorf("%s: woken with %#x", dir, got)
		}
		read()
		if err := hier.Attach(path, pid); err != nil {
			t.Fatal(err)
		}
		kit.Eventually(t, "the second event", func() bool { return poll(0) == event })
	}
}

// TestPressureTrigger: who waits for a pressure trigger is woken each time that it fires.
func TestPressureTrigger(t *testing.T) {
	hier, path, top := kit.MountUnified(t, "trigger")
	file := filepath.Join(top, "a/cpu.pressure")
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.EOPNOTSUPP {
		t.Skip("machine: no pressure stall information")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range 2 * runtime.NumCPU() {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		if err := hier.Attach(path+"/a", cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := unix.Write(fd, []byte("some 100000 2000000")); err != nil {
		t.Fatal(err)
	}
	poll := func(wait int) int16 {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		for {
			if _, err := unix.Poll(fds, wait); err == nil {
				return fds[0].Revents
			} else if err != unix.EINTR { // Go's own signals
				t.Fatal(err)
			}
		}
	}
	for i := range 2 {
		if got := poll(15000); got != unix.POLLPRI {
			t.Errorf("event %d: %#x, want POLLPRI", i, got)
		}
		if got := poll(0); got != 0 {
			t.Errorf("event %d is told twice: %#x", i, got)
		}
	}
	time.Sleep(5 * time.Second) // it fires while nobody waits
	if got := poll(0); got != unix.POLLPRI {
		t.Errorf("asked later: %#x, want POLLPRI", got)
	}
}

// TestCoherence: what the host changes is seen at once where the kernel's caches are told, and within a second anywhere.
func TestCoherence(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "coherence", hier)
	v := kit.MountView(t, "--boundary", path, "--controllers", "pids")
	top := v.Top(hier)
	if kit.Exists(filepath.Join(top, "made")) {
		t.Fatal("there already")
	}
	if err := hier.Create(path+"/made", 0o755); err != nil {
		t.Fatal(err)
	}
	if !kit.Exists(filepath.Join(top, "made")) {
		t.Error("a cgroup that the host made is not seen at once")
	}
	if err := hier.RemoveAll(path + "/made"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	kit.Eventually(t, "a removed cgroup to vanish", func() bool { return !kit.Exists(filepath.Join(top, "made")) })
	if d := time.Since(began); d > 1200*time.Millisecond {
		t.Errorf("a removed cgroup was seen for %v", d)
	}
	if err := hier.WriteFile(path, "pids.max", "17"); err != nil {
		t.Fatal(err)
	}
	if got := kit.ReadFile(filepath.Join(top, "pids.max")); got != "17\n" {
		t.Errorf("a value that the host set reads %q", got)
	}
	if os.Mkdir(filepath.Join(top, "b"), 0o755) != nil || !hier.Exists(path+"/b") {
		t.Error("a cgroup that the guest made is not on the host")
	}
	if kit.Rmdir(filepath.Join(top, "b")) != "ok" || kit.Exists(filepath.Join(top, "b")) || hier.Exists(path+"/b") {
		t.Error("a cgroup that the guest removed is still there")
	}
}
