package integration

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestLXC: a container of LXC that is configured with the hook, or with self, has the view at /sys/fs/cgroup.
func TestLXC(t *testing.T) {
	if _, err := exec.LookPath("lxc-start"); err != nil {
		t.Skip("machine: lxc-start is not installed")
	}
	for name, idmap := range map[string]string{"privileged": "", "idmap": kit.LXCIDs} {
		t.Run(name, func(t *testing.T) { testLXC(t, idmap, false) })
		t.Run(name+"-self", func(t *testing.T) { testLXC(t, idmap, true) })
	}
}

func testLXC(t *testing.T, idmap string, self bool) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	rootfs := kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs"))
	s := kit.ViewScript(kit.TopOf(kit.GuestView, hier), hier.Version == hierarchy.V2)
	limit := "lxc.cgroup.pids.max = 64\n"
	if hier.Version == hierarchy.V2 {
		limit = "lxc.cgroup2.pids.max = 64\n"
	}
	var d *kit.Daemon
	var how string
	if self {
		d = kit.StartSelfDaemon(t, "--container", "/lxc.payload."+kit.Prefix+"*")
		how = kit.LXCSelf(d)
	} else {
		d = kit.StartDaemon(t)
		how = kit.LXCHook(t, d, "--proc-cgroups")
		s.Lines, s.Want = append(s.Lines, `write "/proc/cgroups" "x"`), append(s.Want, "=EROFS") // it is the view's, not the kernel's
	}
	s.Put(t, rootfs)
	cmd := kit.NewLXC(t, h, rootfs, "script", limit+idmap+how)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("lxc-start: %v: %s", err, out)
	}
	s.Check(t, rootfs, out)
	if self {
		d.WantNone(t)
	}
	kit.WantNothingLeft(t, d, h, "/lxc.payload."+kit.LXCName())
	d.Stop(t)
}
