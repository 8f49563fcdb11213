package integration

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// stackedBundle is a bundle whose container may unmount its view: it has every capability in a user namespace of its
// own, to whose root the runtime gives cgroups that it mounts writable.
func stackedBundle(t *testing.T, d *kit.Daemon, runtime string, hookArgs ...string) *kit.Bundle {
	b := kit.NewBundle(t, d, runtime, "stack", "commands", hookArgs...)
	b.WithNamespaces("user", "cgroup")
	b.Allow(kit.AllCapabilities(t))
	b.Delegate()
	b.Write(t)
	return b
}

// TestStackDefault: below a view stay the kernel's own mounts of what it shows, read-only, and no other. Root in the
// container that takes its view away finds them, and gains nothing; the view comes back over them.
func TestStackDefault(t *testing.T) {
	runtime := kit.NeedRuntime(t, kit.OCIRuntimes(t)[0])
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	kit.NeedPlainCrun(t, h, runtime)
	d := kit.StartDaemon(t)
	b := stackedBundle(t, d, runtime, "--controllers", "pids")
	cmd := b.Command(runtime)
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	top := kit.TopOf(kit.GuestView, hier)
	below := func() []kit.KernelMount { return kit.KernelMounts(x.Ask(t, "read", "/proc/self/mountinfo")) }
	check := func(when string) {
		t.Helper()
		got := below()
		if len(got) != 1 || got[0].At != top || got[0].Root != "/" || !got[0].ReadOnly() {
			t.Errorf("%s: below the view are %+v; want one, read-only, at %s", when, got, top)
		}
	}
	check("at the start")
	sight := map[hierarchy.Version]string{hierarchy.V1: "stacked-dirs", hierarchy.V2: "stacked"}[hier.Version]
	if says := d.DoctorOf(t, kit.InitOf(t, runtime, b)); says.Sight != sight {
		t.Errorf("doctor says %q, want %q", says.Sight, sight)
	}
	x.UseView(t, hier, "64", b.Cgroup)

	if got := x.Ask(t, "umount", "/sys/fs/cgroup"); got != "ok" {
		t.Fatalf("umount: %s", got)
	}
	for _, file := range []string{"pids.max", "child/pids.max", "cgroup.procs"} {
		if got := x.Ask(t, "write", top+"/"+file, "5"); got != "EROFS" && got != "EACCES" {
			t.Errorf("writing to the real %s: %s", file, got)
		}
	}
	if got := x.Ask(t, "mkdir", top+"/evil"); got != "EROFS" && got != "EACCES" {
		t.Errorf("making a real cgroup: %s", got)
	}
	d.WantTry(t, 0, "", "guest", "attach", b.ID)
	check("when it is back")
	if got := x.Ask(t, "read", top+"/child/pids.max"); got != "50\n" {
		t.Errorf("the view that is back: %q", got)
	}
	x.End(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// TestStackShown: with --stack, too, of the kernel's own mounts those stay that the view shows: a manager that takes its controllers from
// mountinfo, as runc's does, wants each of them in the view.
func TestStackShown(t *testing.T) {
	runtime := kit.NeedRuntime(t, kit.OCIRuntimes(t)[0])
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	kit.NeedPlainCrun(t, h, runtime)
	d := kit.StartDaemon(t)
	forms := map[string][]string{"view": {"--stack", "--controllers", "pids"}}
	if hier.Version == hierarchy.V1 {
		forms["tmpfs"] = []string{"--stack", "--tmpfs", "--controllers", "pids"}
	}
	for name, args := range forms {
		t.Run(name, func(t *testing.T) {
			b := stackedBundle(t, d, runtime, args...)
			x := kit.StartProcess(t, b.Command(runtime))
			top := kit.TopOf(kit.GuestView, hier)
			mounts := kit.KernelMounts(x.Ask(t, "read", "/proc/self/mountinfo"))
			if len(mounts) != 1 || mounts[0].At != top || mounts[0].Root != "/" {
				t.Errorf("in mountinfo are %+v; want one mount, at %s", mounts, top)
			}
			x.End(t)
			kit.WantNothingLeft(t, d, h, b.Cgroup)
		})
	}
	d.Stop(t)
}

// TestStackNone: with --no-stack nothing stays, where the kernel can do that.
func TestStackNone(t *testing.T) {
	if !conn.KernelAtLeast(6, 5) {
		t.Skip("kernel: before 6.5 nothing can be mounted beneath what is there (MOVE_MOUNT_BENEATH)")
	}
	runtime := kit.NeedRuntime(t, kit.OCIRuntimes(t)[0])
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	kit.NeedPlainCrun(t, h, runtime)
	d := kit.StartDaemon(t)
	b := stackedBundle(t, d, runtime, "--no-stack")
	x := kit.StartProcess(t, b.Command(runtime))
	if got := kit.KernelMounts(x.Ask(t, "read", "/proc/self/mountinfo")); len(got) > 0 {
		t.Errorf("left: %+v", got)
	}
	x.UseView(t, hier, "64", b.Cgroup)
	x.End(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// TestRunStack: the command of "run" finds in mountinfo the kernel's own mounts of what its view shows, read-only,
// unless it was told not to; what it reads by path is the view's. The host's mounts, and what they are mounted with,
// stay as they are.
func TestRunStack(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	if hier.View {
		t.Skip("machine: this host is a guest itself, and has no cgroups of the kernel's to mount")
	}
	before := kit.KernelMounts(kit.MountTable())
	args := []string{"--controllers", "pids", "--limit", "pids.max=64"}
	top := kit.TopOf(kit.GuestView, hier)
	got := kit.RunGuest(t, args, "cat /proc/self/mountinfo; cat "+top+"/pids.max; "+
		"mount -o remount,rw "+top+" 2>&1 || umount "+kit.GuestView+" 2>&1")
	mounts := kit.KernelMounts(got.Stdout)
	if len(mounts) != 1 || mounts[0].At != top || mounts[0].Root != "/" || !mounts[0].ReadOnly() {
		t.Errorf("the command finds %+v; want one mount, read-only, at %s; %s", mounts, top, got.Stderr)
	}
	if lines := strings.Split(strings.TrimSpace(got.Stdout), "\n"); !slices.Contains(lines, "64") || got.Status == 0 {
		t.Errorf("status %d: %s", got.Status, got.Stdout)
	}
	if mounts := kit.KernelMounts(kit.RunGuest(t, append(args, "--no-stack"), "cat /proc/self/mountinfo").Stdout); len(mounts) > 0 {
		t.Errorf("with --no-stack the command finds %+v", mounts)
	}
	if after := kit.KernelMounts(kit.MountTable()); !slices.Equal(before, after) {
		t.Errorf("the host's mounts were %+v and are %+v", before, after)
	}
}
