package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOwnMounts: a daemon in a mount namespace of its own attaches no view in the host's.
func TestOwnMounts(t *testing.T) {
	apart := filepath.Join(t.TempDir(), "apart")
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m %s \"$@\"\n", absProgram(t))
	if err := os.WriteFile(apart, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	d := startDaemonOf(t, apart)
	h := openHost(t)
	tree := need(t, h, "pids")
	path := boundary(t, "own-mounts", tree)
	pid := sleeper(t)
	if err := tree.Attach(path, pid); err != nil {
		t.Fatal(err)
	}
	into := publicDir(t)
	d.wantTry(t, 1, "the host's own mount namespace", "guest", "add", "host", "--pid", strconv.Itoa(pid), "--current-cgroup", "--controllers", "pids", "--into", into)
	if mounted(into) {
		t.Errorf("a view is mounted on the host at %s", into)
		unix.Unmount(into, unix.MNT_DETACH)
	}
	x := startHelper(t, "commands")
	if err := tree.Attach(path, x.pid()); err != nil {
		t.Fatal(err)
	}
	if got := x.ask(t, "unshare"); got != "ok" {
		t.Fatalf("unshare: %s", got)
	}
	d.wantTry(t, 0, "added", "guest", "add", "guest", "--pid", strconv.Itoa(x.pid()), "--controllers", "pids", "--into", guestView)
	if got := x.ask(t, "read", filepath.Join(topOf(guestView, tree), "pids.max")); got != "max\n" {
		t.Errorf("a guest of that daemon reads %q", got)
	}
	x.in.Close()
	d.stop(t)
}
