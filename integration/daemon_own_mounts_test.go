package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestOwnMounts: a daemon in a mount namespace of its own attaches no view in the host's.
func TestOwnMounts(t *testing.T) {
	apart := filepath.Join(t.TempDir(), "apart")
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m %s \"$@\"\n", kit.AbsProgram(t))
	if err := os.WriteFile(apart, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	d := kit.StartDaemonOf(t, apart)
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "own-mounts", hier)
	pid := kit.StartSleeper(t)
	if err := hier.Attach(path, pid); err != nil {
		t.Fatal(err)
	}
	into := kit.PublicDir(t)
	d.WantTry(t, 1, "the host's own mount namespace", "guest", "add", "host", "--pid", strconv.Itoa(pid), "--current-cgroup", "--controllers", "pids", "--into", into)
	if kit.IsMounted(into) {
		t.Errorf("a view is mounted on the host at %s", into)
		unix.Unmount(into, unix.MNT_DETACH)
	}
	x := kit.StartHelper(t, "commands")
	if err := hier.Attach(path, x.PID()); err != nil {
		t.Fatal(err)
	}
	if got := x.Ask(t, "unshare"); got != "ok" {
		t.Fatalf("unshare: %s", got)
	}
	d.WantTry(t, 0, "added", "guest", "add", "guest", "--pid", strconv.Itoa(x.PID()), "--controllers", "pids", "--into", kit.GuestView)
	if got := x.Ask(t, "read", filepath.Join(kit.TopOf(kit.GuestView, hier), "pids.max")); got != "max\n" {
		t.Errorf("a guest of that daemon reads %q", got)
	}
	x.In.Close()
	d.Stop(t)
}
