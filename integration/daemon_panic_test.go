package integration

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPanic: a request whose handler panics is answered EIO and ends the worker, not the guests.
func TestPanic(t *testing.T) {
	d, p, counted := failing(t, "panic", "mkdir-begun:1")
	if got := errnoName(unix.Mkdir(p.at("a"), 0o755)); got != "EIO" {
		t.Errorf("the request that panics got %q", got)
	}
	eventually(t, "another worker", func() bool { info, err := d.info(); return err == nil && info.Restarts == 1 })
	if got := errnoName(unix.Mkdir(p.at("b"), 0o755)); got != "" {
		t.Errorf("the next request got %q", got)
	}
	if got := len(readFile(counted)); got != 1 {
		t.Errorf("%d panics", got)
	}
	d.stop(t)
}

// TestCrashAgain: a request during which worker after worker crashes is refused at last, and the guests are served on.
func TestCrashAgain(t *testing.T) {
	d, p, counted := failing(t, "crash", "mkdir-made:50")
	want, least := "EIO", 2
	if !d.ready(t).Resend {
		want, least = "ECONNABORTED", 1 // it is not sent again, so it crashes one worker
	}
	if got := errnoName(unix.Mkdir(p.at("a"), 0o755)); got != want {
		t.Errorf("the request that crashes got %q, want %q", got, want)
	}
	if got := readFile(p.at("cgroup.procs")); got != "" {
		t.Errorf("another file says %q", got)
	}
	if n := len(readFile(counted)); n < least || n > 8 {
		t.Errorf("%d crashes", n)
	}
	info := d.ready(t)
	t.Logf("%d restarts", info.Restarts)
	if info.Guests != 1 {
		t.Errorf("%+v", info)
	}
	d.stop(t)
}

// failing starts a daemon that fails in some way at a point, with a guest.
func failing(t *testing.T, act, point string) (*daemon, *place, string) {
	t.Helper()
	counted := filepath.Join(t.TempDir(), "count")
	d := startDaemonOf(t, failpointProgram(t), "VCGROUPFS_FAILPOINT="+point, "VCGROUPFS_FAILPOINT_FILE="+counted, "VCGROUPFS_FAILPOINT_ACT="+act)
	p := newPlace(t, d, act)
	d.wantTry(t, 0, "", p.add("web")...)
	return d, p, counted
}
