package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestPokeAcrossDeath: a worker dies while it wakes a guest's watches by a truncate of its own, which the kernel sends to the next one
// again. That is no denial of the guest's, and the guest's watch fires.
func TestPokeAcrossDeath(t *testing.T) {
	if !conn.CanResend() {
		t.Skip("kernel: requests are sent again since Linux 6.9")
	}
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, hierarchy.Unified)
	path := kit.NewBoundary(t, "poke", hier)
	deaths := filepath.Join(t.TempDir(), "deaths")
	d := kit.StartDaemonOf(t, kit.FailpointProgram(t), "VCGROUPFS_FAILPOINT=poke-begun", "VCGROUPFS_FAILPOINT_FILE="+deaths)
	dir := kit.PublicDir(t)
	t.Cleanup(func() { d.Stop(t) })
	d.Mounts[dir] = true
	d.WantTry(t, 0, "added", "guest", "add", "g", "--boundary", path, "--controllers", hierarchy.Unified, "--layout", "v2", "--target", dir)
	if err := hier.Create(path+"/q", 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "q", "cgroup.events")
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, file, unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	if got := kit.ReadFile(file); !strings.Contains(got, "populated 0") {
		t.Fatalf("%s: %q", file, got)
	}
	if err := hier.Attach(path+"/q", kit.StartSleeper(t)); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the worker to die in its own truncate", func() bool { return kit.ReadFile(deaths) != "" })
	kit.Eventually(t, "the watch to fire", func() bool {
		n, err := unix.Read(watch, make([]byte, 4096))
		return err == nil && n > 0
	})
	d.Ready(t)
	var usage []struct{ Denials uint64 }
	if err := d.Call("GET", "/v1/top", nil, &usage); err != nil || len(usage) != 1 || usage[0].Denials != 0 {
		t.Errorf("denials after the worker's death: %+v, %v; want none", usage, err)
	}
	if log := d.Log(); strings.Contains(log, "denied") {
		t.Errorf("the audit has a denial: %s", log)
	}
}
