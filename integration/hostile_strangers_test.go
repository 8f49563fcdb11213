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

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// holder opens a site's file until it gets no more, in the boundary or outside, and says how many it has.
func holder(t *testing.T, s kit.Site, inside bool) (h *kit.Helper, opened int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=flood hold 1 1 %s", kit.RoleVariable, s.At("f0")))
	cmd.Stderr = os.Stderr
	h = kit.StartProcess(t, cmd)
	if line, _ := h.Out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process says %q", line)
	}
	if inside {
		if err := s.Pids.Attach(s.Path, h.PID()); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(h.In)
	line, _ := h.Out.ReadString('\n')
	got := map[string]int{}
	kit.AddCounts(got, line)
	if got["ENFILE"] != 1 || len(got) > 2 {
		t.Fatalf("opening without end: %v, want one ENFILE", got)
	}
	return h, got["ok"]
}

// TestStrangersBounds: what somebody outside the guest holds open does not count as the guest's, before and after a
// worker's death.
func TestStrangersBounds(t *testing.T) {
	h := kit.OpenHost(t)
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--max-open", "160"})
	s := kit.NewSite(t, h, "bounds-strangers")
	if err := s.Pids.Create(s.Path+"/f0", 0o755); err != nil {
		t.Fatal(err)
	}
	if s.Pids == s.Unified {
		if err := s.Pids.Enable(s.Path+"/f0", "pids"); err != nil {
			t.Fatal(err)
		}
	}
	s = d.Add(t, "bounds-strangers", s)
	stranger, theirs := holder(t, s, false)
	if theirs != 40 {
		t.Errorf("a stranger has %d of 160 files open, want 40", theirs)
	}
	d.Signal(t, unix.SIGKILL, 0)
	if _, again := holder(t, s, false); again != 0 {
		t.Errorf("after the worker's death a stranger opens %d more", again)
	}
	guest, own := holder(t, s, true)
	if own != 120 {
		t.Errorf("the guest opens %d files beside them, want 120", own)
	}
	t.Logf("of 160 a stranger has %d and the guest %d", theirs, own)
	stranger.In.Close()
	stranger.Cmd.Wait()
	kit.Eventually(t, "room when the stranger's are closed", func() bool {
		_, n := holder(t, s, false)
		return n > 0
	})
	guest.In.Close()
	guest.Cmd.Wait()
	d.Stop(t)
}

// TestStrangersWatches: a stranger who looks at everything puts no end to what the guest's watches are told.
func TestStrangersWatches(t *testing.T) {
	h := kit.OpenHost(t)
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--max-watches", "8"})
	if !d.Ready(t).Resend {
		t.Skip("kernel: before 6.9 a guest's inotify under the daemon sees only what the guest itself writes")
	}
	s := kit.NewSite(t, h, "bounds-watches")
	for i := range 50 {
		if err := s.Unified.Create(fmt.Sprint(s.Path, "/c", i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s = d.Add(t, "bounds-watches", s)
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	file := filepath.Join(s.EventsDir, "c0/cgroup.events")
	if _, err := unix.InotifyAddWatch(watch, file, unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	for i := range 50 { // this process is outside the boundary
		if text := kit.ReadFile(filepath.Join(s.EventsDir, "c"+strconv.Itoa(i), "cgroup.events")); !strings.Contains(text, "populated 0") {
			t.Fatalf("cgroup.events: %q", text)
		}
	}
	if err := s.Unified.Attach(s.Path+"/c0", kit.StartSleeper(t)); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the guest's watch to be told", func() bool { n, _ := unix.Read(watch, make([]byte, 4096)); return n > 0 })
	d.Stop(t)
}

// TestViewsDirectory: who is not told a guest's name does not find its view, and who is can bind it.
func TestViewsDirectory(t *testing.T) {
	h := kit.OpenHost(t)
	d := kit.StartDaemon(t)
	s := kit.NewSite(t, h, "bounds-views")
	d.Run(t, "guest", "add", "hidden", "--boundary", s.Path, "--controllers", kit.SiteControllers)
	views := filepath.Join(d.Dir, "views")
	if err := os.Chmod(d.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	kit.AsUser(65534, func() {
		if _, err := os.ReadDir(views); !os.IsPermission(err) {
			t.Errorf("a user lists the views: %v", err)
		}
		if _, err := os.Stat(filepath.Join(views, "hidden")); err != nil {
			t.Errorf("a user who knows its name cannot reach the view: %v", err)
		}
	})
	d.Run(t, "guest", "rm", "hidden")
	d.Stop(t)
}
