package integration

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
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
	want := "EIO"
	if !d.Ready(t).Resend {
		want = "ECONNABORTED" // the kernel does not send it again, but the next workers handle it again
	}
	if got := kit.ErrnoName(unix.Mkdir(p.At("a"), 0o755)); got != want {
		t.Errorf("the request that crashes got %q, want %q", got, want)
	}
	if got := kit.ReadFile(p.At("cgroup.procs")); got != "" {
		t.Errorf("another file says %q", got)
	}
	const crashes = state.MaxCrashes + 1
	kit.Eventually(t, "the last crash", func() bool { return len(kit.ReadFile(counted)) >= crashes })
	kit.Eventually(t, "another worker", func() bool { info, err := d.Info(); return err == nil && info.Restarts >= crashes })
	if info := d.Ready(t); len(kit.ReadFile(counted)) != crashes || info.Guests != 1 || info.Restarts != crashes {
		t.Errorf("%d crashes, %+v; want %d", len(kit.ReadFile(counted)), info, crashes)
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
