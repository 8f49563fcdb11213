package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// holder opens a site's file until it gets no more, in the boundary or outside, and says how many it has.
func holder(t *testing.T, s site, inside bool) (h *helper, opened int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=flood hold 1 1 %s", roleVariable, s.at("f0")))
	cmd.Stderr = os.Stderr
	h = startProcess(t, cmd)
	if line, _ := h.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process says %q", line)
	}
	if inside {
		if err := s.pids.Attach(s.path, h.pid()); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(h.in)
	line, _ := h.out.ReadString('\n')
	got := map[string]int{}
	addCounts(got, line)
	if got["ENFILE"] != 1 || len(got) > 2 {
		t.Fatalf("opening without end: %v, want one ENFILE", got)
	}
	return h, got["ok"]
}

// TestStrangersBounds: what somebody outside the guest holds open does not count as the guest's, before and after a
// worker's death.
func TestStrangersBounds(t *testing.T) {
	h := openHost(t)
	d := startDaemonWith(t, program(t), []string{"--max-open", "160"})
	s := newSite(t, h, "bounds-strangers")
	if err := s.pids.Create(s.path+"/f0", 0o755); err != nil {
		t.Fatal(err)
	}
	if s.pids == s.unified {
		if err := s.pids.Enable(s.path+"/f0", "pids"); err != nil {
			t.Fatal(err)
		}
	}
	s = d.add(t, "bounds-strangers", s)
	stranger, theirs := holder(t, s, false)
	if theirs != 40 {
		t.Errorf("a stranger has %d of 160 files open, want 40", theirs)
	}
	d.signal(t, unix.SIGKILL, 0)
	if _, again := holder(t, s, false); again != 0 {
		t.Errorf("after the worker's death a stranger opens %d more", again)
	}
	guest, own := holder(t, s, true)
	if own != 120 {
		t.Errorf("the guest opens %d files beside them, want 120", own)
	}
	t.Logf("of 160 a stranger has %d and the guest %d", theirs, own)
	stranger.in.Close()
	stranger.cmd.Wait()
	eventually(t, "room when the stranger's are closed", func() bool {
		_, n := holder(t, s, false)
		return n > 0
	})
	guest.in.Close()
	guest.cmd.Wait()
	d.stop(t)
}

// TestStrangersWatches: a stranger who looks at everything puts no end to what the guest's watches are told.
func TestStrangersWatches(t *testing.T) {
	h := openHost(t)
	d := startDaemonWith(t, program(t), []string{"--max-watches", "8"})
	if !d.ready(t).Resend {
		t.Skip("kernel: before 6.9 a guest's inotify under the daemon sees only what the guest itself writes")
	}
	s := newSite(t, h, "bounds-watches")
	for i := range 50 {
		if err := s.unified.Create(fmt.Sprint(s.path, "/c", i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s = d.add(t, "bounds-watches", s)
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	file := filepath.Join(s.eventsDir, "c0/cgroup.events")
	if _, err := unix.InotifyAddWatch(watch, file, unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	for i := range 50 { // this process is outside the boundary
		if text := readFile(filepath.Join(s.eventsDir, "c"+strconv.Itoa(i), "cgroup.events")); !strings.Contains(text, "populated 0") {
			t.Fatalf("cgroup.events: %q", text)
		}
	}
	if err := s.unified.Attach(s.path+"/c0", sleeper(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guest's watch to be told", func() bool { n, _ := unix.Read(watch, make([]byte, 4096)); return n > 0 })
	d.stop(t)
}

// TestViewsDirectory: who is not told a guest's name does not find its view, and who is can bind it.
func TestViewsDirectory(t *testing.T) {
	h := openHost(t)
	d := startDaemon(t)
	s := newSite(t, h, "bounds-views")
	d.run(t, "guest", "add", "hidden", "--boundary", s.path, "--controllers", siteControllers)
	views := filepath.Join(d.dir, "views")
	if err := os.Chmod(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	asUser(65534, func() {
		if _, err := os.ReadDir(views); !os.IsPermission(err) {
			t.Errorf("a user lists the views: %v", err)
		}
		if _, err := os.Stat(filepath.Join(views, "hidden")); err != nil {
			t.Errorf("a user who knows its name cannot reach the view: %v", err)
		}
	})
	d.run(t, "guest", "rm", "hidden")
	d.stop(t)
}
