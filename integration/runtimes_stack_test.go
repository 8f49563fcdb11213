package integration

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// kernelMount is a mount of the kernel's cgroups in a mountinfo.
type kernelMount struct{ at, root, options, super string }

func (m kernelMount) readOnly() bool { return slices.Contains(strings.Split(m.options, ","), "ro") }

func kernelMounts(mountinfo string) (all []kernelMount) {
	for line := range strings.Lines(mountinfo) {
		mount, super, _ := strings.Cut(strings.TrimSpace(line), " - ")
		f, s := strings.Fields(mount), strings.Fields(super)
		if len(s) == 3 && (s[0] == "cgroup" || s[0] == "cgroup2") {
			all = append(all, kernelMount{f[4], f[3], f[5], s[2]})
		}
	}
	return all
}

// stackedBundle is a bundle whose container may unmount its view: it has every capability in a user namespace of its
// own, to whose root the runtime gives cgroups that it mounts writable.
func stackedBundle(t *testing.T, d *daemon, runtime string, hookArgs ...string) *bundle {
	b := newBundle(t, d, runtime, "stack", "commands", hookArgs...)
	b.with("user", "cgroup")
	b.allow(allCapabilities(t))
	b.delegate()
	b.write(t)
	return b
}

// TestStackDefault: below a view stay the kernel's own mounts of what it shows, read-only, and no other. Root in the
// container that takes its view away finds them, and gains nothing; the view comes back over them.
func TestStackDefault(t *testing.T) {
	runtime := needRuntime(t, ociRuntimes(t)[0])
	h := openHost(t)
	tree := need(t, h, "pids")
	needPlainCrun(t, h, runtime)
	d := startDaemon(t)
	b := stackedBundle(t, d, runtime, "--controllers", "pids")
	cmd := b.command(runtime)
	cmd.Stderr = os.Stderr
	x := startProcess(t, cmd)
	top := topOf(guestView, tree)
	below := func() []kernelMount { return kernelMounts(x.ask(t, "read", "/proc/self/mountinfo")) }
	check := func(when string) {
		t.Helper()
		got := below()
		if len(got) != 1 || got[0].at != top || got[0].root != "/" || !got[0].readOnly() {
			t.Errorf("%s: below the view are %+v; want one, read-only, at %s", when, got, top)
		}
	}
	check("at the start")
	sight := map[hierarchy.Version]string{hierarchy.V1: "stacked-dirs", hierarchy.V2: "stacked"}[tree.Version]
	if says := d.doctorOf(t, initOf(t, runtime, b)); says.Sight != sight {
		t.Errorf("doctor says %q, want %q", says.Sight, sight)
	}
	x.useView(t, tree, "64", b.cgroup)

	if got := x.ask(t, "umount", "/sys/fs/cgroup"); got != "ok" {
		t.Fatalf("umount: %s", got)
	}
	for _, file := range []string{"pids.max", "child/pids.max", "cgroup.procs"} {
		if got := x.ask(t, "write", top+"/"+file, "5"); got != "EROFS" && got != "EACCES" {
			t.Errorf("writing to the real %s: %s", file, got)
		}
	}
	if got := x.ask(t, "mkdir", top+"/evil"); got != "EROFS" && got != "EACCES" {
		t.Errorf("making a real cgroup: %s", got)
	}
	d.wantTry(t, 0, "", "guest", "attach", b.id)
	check("when it is back")
	if got := x.ask(t, "read", top+"/child/pids.max"); got != "50\n" {
		t.Errorf("the view that is back: %q", got)
	}
	x.in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the container ended with %v", err)
	}
	nothingLeft(t, d, h, b.cgroup)
	d.stop(t)
}

// TestStackShown: with --stack, too, of the kernel's own mounts those stay that the view shows: a manager that takes its controllers from
// mountinfo, as runc's does, wants each of them in the view.
func TestStackShown(t *testing.T) {
	runtime := needRuntime(t, ociRuntimes(t)[0])
	h := openHost(t)
	tree := need(t, h, "pids")
	needPlainCrun(t, h, runtime)
	d := startDaemon(t)
	forms := map[string][]string{"view": {"--stack", "--controllers", "pids"}}
	if tree.Version == hierarchy.V1 {
		forms["tmpfs"] = []string{"--stack", "--tmpfs", "--controllers", "pids"}
	}
	for name, args := range forms {
		t.Run(name, func(t *testing.T) {
			b := stackedBundle(t, d, runtime, args...)
			x := startProcess(t, b.command(runtime))
			top := topOf(guestView, tree)
			mounts := kernelMounts(x.ask(t, "read", "/proc/self/mountinfo"))
			if len(mounts) != 1 || mounts[0].at != top || mounts[0].root != "/" {
				t.Errorf("in mountinfo are %+v; want one mount, at %s", mounts, top)
			}
			x.in.Close()
			if err := x.cmd.Wait(); err != nil {
				t.Errorf("the container ended with %v", err)
			}
			nothingLeft(t, d, h, b.cgroup)
		})
	}
	d.stop(t)
}

// TestStackNone: with --no-stack nothing stays, where the kernel can do that.
func TestStackNone(t *testing.T) {
	if !conn.KernelAtLeast(6, 5) {
		t.Skip("kernel: before 6.5 nothing can be mounted beneath what is there (MOVE_MOUNT_BENEATH)")
	}
	runtime := needRuntime(t, ociRuntimes(t)[0])
	h := openHost(t)
	tree := need(t, h, "pids")
	needPlainCrun(t, h, runtime)
	d := startDaemon(t)
	b := stackedBundle(t, d, runtime, "--no-stack")
	x := startProcess(t, b.command(runtime))
	if got := kernelMounts(x.ask(t, "read", "/proc/self/mountinfo")); len(got) > 0 {
		t.Errorf("left: %+v", got)
	}
	x.useView(t, tree, "64", b.cgroup)
	x.in.Close()
	if err := x.cmd.Wait(); err != nil {
		t.Errorf("the container ended with %v", err)
	}
	nothingLeft(t, d, h, b.cgroup)
	d.stop(t)
}

// TestRunStack: the command of "run" finds in mountinfo the kernel's own mounts of what its view shows, read-only,
// unless it was told not to; what it reads by path is the view's. The host's mounts, and what they are mounted with,
// stay as they are.
func TestRunStack(t *testing.T) {
	h := openHost(t)
	tree := need(t, h, "pids")
	if tree.View {
		t.Skip("machine: this host is a guest itself, and has no cgroups of the kernel's to mount")
	}
	before := kernelMounts(mountTable())
	args := []string{"--controllers", "pids", "--limit", "pids.max=64"}
	top := topOf(guestView, tree)
	got := runGuest(t, args, "cat /proc/self/mountinfo; cat "+top+"/pids.max; "+
		"mount -o remount,rw "+top+" 2>&1 || umount "+guestView+" 2>&1")
	mounts := kernelMounts(got.out)
	if len(mounts) != 1 || mounts[0].at != top || mounts[0].root != "/" || !mounts[0].readOnly() {
		t.Errorf("the command finds %+v; want one mount, read-only, at %s; %s", mounts, top, got.err)
	}
	if lines := strings.Split(strings.TrimSpace(got.out), "\n"); !slices.Contains(lines, "64") || got.status == 0 {
		t.Errorf("status %d: %s", got.status, got.out)
	}
	if mounts := kernelMounts(runGuest(t, append(args, "--no-stack"), "cat /proc/self/mountinfo").out); len(mounts) > 0 {
		t.Errorf("with --no-stack the command finds %+v", mounts)
	}
	if after := kernelMounts(mountTable()); !slices.Equal(before, after) {
		t.Errorf("the host's mounts were %+v and are %+v", before, after)
	}
}
