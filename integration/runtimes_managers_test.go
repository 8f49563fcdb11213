package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestPodman: the same hook, for the containers that ask for it: by a file of podman's hooks directory and an annotation, or as a
// device that CDI describes.
func TestPodman(t *testing.T) {
	podman := kit.NeedPodman(t)
	kit.NeedRuntime(t, "runc")
	t.Run("hooks", func(t *testing.T) {
		testPodman(t, podman, func(d *kit.Daemon) (before, of []string) {
			dir := t.TempDir()
			kit.InstallPackaged(t, d, "../packaging/runtimes/vcgroupfs.json", filepath.Join(dir, "vcgroupfs.json"), "")
			return []string{"--hooks-dir", dir}, []string{"--annotation", "dev.vcgroupfs=true", "--annotation", "dev.vcgroupfs.controllers=memory+pids"}
		})
	})
	t.Run("cdi", func(t *testing.T) {
		testPodman(t, podman, func(d *kit.Daemon) (before, of []string) {
			return nil, []string{"--device", kit.PackagedDevices(t, d, kit.PodmanCDI) + "=view"}
		})
	})
}

func testPodman(t *testing.T, podman string, configure func(d *kit.Daemon) (before, of []string)) {
	d := kit.StartDaemon(t)
	before, of := configure(d)
	kit.CheckPodman(t, podman, d, before, of)
}

// TestBind: a sandbox that knows nothing of views has one bound into it by the path at which the daemon mounts it, or self.
func TestBind(t *testing.T) {
	for _, form := range []string{"bwrap", "systemd-nspawn"} {
		t.Run(form, func(t *testing.T) { testBind(t, form, false) })
		t.Run(form+"-self", func(t *testing.T) { testBind(t, form, true) })
	}
}

func testBind(t *testing.T, form string, self bool) {
	sandbox, err := exec.LookPath(form)
	if err != nil {
		t.Skipf("machine: %s is not installed", form)
	}
	h := kit.OpenHost(t)
	hier, controller := kit.NeedHierarchy(t, h, "pids"), "pids"
	if form == "systemd-nspawn" { // it wants v2, whatever is in it
		hier, controller = kit.NeedHierarchy(t, h, hierarchy.Unified), hierarchy.Unified
	}
	path := kit.NewBoundary(t, "bind", hier)
	d, view := (*kit.Daemon)(nil), ""
	if self {
		d = kit.StartSelfDaemon(t, "--self-controllers", controller)
		view = d.Self()
	} else {
		d = kit.StartDaemon(t)
		d.WantTry(t, 0, "views/box", "guest", "add", "box", "--boundary", path, "--controllers", controller)
		view = filepath.Join(filepath.Dir(d.Socket), "views", "box")
	}
	kit.RemoveEverywhere(t, h, path)
	dir := kit.PublicDir(t)
	rootfs := kit.NewRootfs(t, filepath.Join(dir, "rootfs"))
	s := kit.UnifiedScript(kit.GuestView)
	if controller == "pids" {
		s = kit.ViewScript(kit.TopOf(kit.GuestView, hier), hier.Version == hierarchy.V2)
		if err := hier.WriteFile(path, "pids.max", "64"); err != nil {
			t.Fatal(err)
		}
	}
	s.Put(t, rootfs)
	command := map[string][]string{
		"bwrap": {sandbox, "--bind", rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/sys/fs", "--bind", view, "/sys/fs/cgroup",
			"--unshare-pid", "--unshare-cgroup-try", "--setenv", kit.RoleVariable, "script", "/program"},
		"systemd-nspawn": {sandbox, "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--directory", rootfs, "--bind", view + ":/sys/fs/cgroup",
			"--setenv", kit.RoleVariable + "=script", "/program"},
	}[form]
	start := kit.CommandWithin(path, []*host.Hierarchy{hier}, command...) // whoever starts a sandbox says where it is
	start.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	out, err := start.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", form, err, out)
	}
	s.Check(t, rootfs, out)
	if self {
		d.WantOne(t, path, "0:0")
	} else {
		d.WantTry(t, 0, "", "guest", "rm", "box")
	}
	d.Stop(t)
	if kit.Exists(view) {
		t.Errorf("%s is left", view)
	}
}
