package integration

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestPanic: a request whose handler panics is answered EIO and ends the worker, not the guests.
func TestPanic(t *testing.T) {
	d, p, counted := failing(t, "panic", "mkdir-begun:1")
	if got := kit.ErrnoName(unix.Mkdir(p.At("a"), 0o755)); got != "EIO" {
		t.Errorf("the request that panics got %q", got)
	}
	kit.Eventually(t, "another worker", func() bool { info, err := d.Info(); return err == nil && info.Restarts == 1 })
	if got := kit.ErrnoName(unix.Mkdir(p.At("b"), 0o755)); got != "" {
		t.Errorf("the next request got %q", got)
	}
	if got := len(kit.ReadFile(counted)); got != 1 {
		t.Errorf("%d panics", got)
	}
	d.Stop(t)
}

// TestCrashAgain: a request during which worker after worker crashes is refused at last, and the guests are served on.
func TestCrashAgain(t *testing.T) {
	d, p, counted := failing(t, "crash", "mkdir-made:50")
	want, least := "EIO", 2
	if !d.Ready(t).Resend {
		want, least = "ECONNABORTED", 1 // it is not sent again, so it crashes one worker
	}
	if got := kit.ErrnoName(unix.Mkdir(p.At("a"), 0o755)); got != want {
		t.Errorf("the request that crashes got %q, want %q", got, want)
	}
	if got := kit.ReadFile(p.At("cgroup.procs")); got != "" {
		t.Errorf("another file says %q", got)
	}
	if n := len(kit.ReadFile(counted)); n < least || n > 8 {
		t.Errorf("%d crashes", n)
	}
	info := d.Ready(t)
	t.Logf("%d restarts", info.Restarts)
	if info.Guests != 1 {
		t.Errorf("%+v", info)
	}
	d.Stop(t)
}

// failing starts a daemon that fails in some way at a point, with a guest.
func failing(t *testing.T, act, point string) (*kit.Daemon, *kit.Place, string) {
	t.Helper()
	counted := filepath.Join(t.TempDir(), "count")
	d := kit.StartDaemonOf(t, kit.FailpointProgram(t), "VCGROUPFS_FAILPOINT="+point, "VCGROUPFS_FAILPOINT_FILE="+counted, "VCGROUPFS_FAILPOINT_ACT="+act)
	p := kit.NewPlace(t, d, act)
	d.WantTry(t, 0, "", p.Add("web")...)
	return d, p, counted
}
