package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// hostileBox is a container to be made, whose program plays the hostile role as root with every capability: over the host in the
// form "privileged", over a user namespace in the form "userns".
type hostileBox struct {
	h        *host.Host
	d        *kit.Daemon
	userns   bool
	answered bool   // its statfs and mount are answered by seccomp notification
	policy   string // a file
	role     string
}

// hostileRuntime makes the command that runs a container in the foreground, with the program's input and output as its own.
type hostileRuntime struct {
	name, program string
	command       func(t *testing.T, b *hostileBox, program string) *exec.Cmd
	bound         bool   // the view is bound into it: the guest is the test's to remove
	self          string // self is bound into it; the pattern of its cgroup
	answers       string // who can answer for it: "daemon" at a listener, "exec" (notify-exec), "" nobody
}

var hostileRuntimes = []hostileRuntime{
	{"runc", "runc", hostileOCI, false, "", "daemon"},
	{"crun", "crun", hostileOCI, false, "", "daemon"},
	{"podman", "podman", hostilePodman, false, "", "daemon"},
	{"docker", "runc", hostileDocker, false, "", "daemon"},
	{"lxc", "lxc-start", hostileLXC, false, "", "daemon"},
	{"lxc-self", "lxc-start", hostileLXCSelf, false, "/lxc.payload." + kit.Prefix + "*", ""},
	{"bwrap", "bwrap", hostileBwrap, true, "", "exec"},
	{"systemd-nspawn", "systemd-nspawn", hostileNspawn, true, "", ""},
}

// TestRuntimeHostile: root in a container of each runtime tries what it can against its view and around it.
func TestRuntimeHostile(t *testing.T) {
	for _, r := range hostileRuntimes {
		for _, form := range []string{"privileged", "userns"} {
			t.Run(r.name+"-"+form, func(t *testing.T) { r.test(t, form, false) })
		}
	}
}

// TestHostileAnswered: the same where the container's statfs and mount are answered by seccomp notification: by the daemon, and by
// notify-exec in a sandbox. TestHostile has what "run" answers. With VCGROUPFS_HOSTILE=all it is every runtime.
func TestHostileAnswered(t *testing.T) {
	for _, r := range hostileRuntimes {
		for _, form := range []string{"privileged", "userns"} {
			if r.answers == "" {
				continue
			}
			t.Run(r.name+"-"+form, func(t *testing.T) {
				if os.Getenv("VCGROUPFS_HOSTILE") != "all" && r.name != kit.OCIRuntimes(t)[0] && r.name != "bwrap" {
					t.Skip("machine: VCGROUPFS_HOSTILE is not \"all\", so only one runtime and a sandbox are tried")
				}
				if form == "privileged" && kit.Scale(t) < 1 {
					t.Skip("machine: its processor is emulated, which takes minutes for one form")
				}
				r.test(t, form, true)
			})
		}
	}
}

func (r hostileRuntime) test(t *testing.T, form string, answered bool) {
	path, err := exec.LookPath(r.program)
	if err != nil {
		t.Skipf("machine: %s is not installed", r.program)
	}
	h := kit.OpenHost(t)
	kit.NeedHierarchy(t, h, "pids")
	kit.NeedPlainCrun(t, h, path)
	if r.name == "runc" && kit.Scale(t) < 1 {
		t.Skip("machine: its processor is emulated, which takes minutes for one runtime, and crun runs only there")
	}
	b := &hostileBox{h: h, userns: form == "userns", answered: answered, policy: filepath.Join(t.TempDir(), "policy.yaml")}
	if err := os.WriteFile(b.policy, []byte(hostilePolicy), 0o644); err != nil {
		t.Fatal(err)
	}
	b.role = form + " " + strconv.Itoa(kit.StartStranger(t))
	if answered {
		b.role = "answered-" + b.role
	}
	b.role = "hostile " + b.role
	switch {
	case r.self != "":
		shown := slices.DeleteFunc([]string{"cpu", "cpuset", "memory", "pids"}, func(c string) bool { return h.Hierarchy(c) == nil })
		b.d = kit.StartSelfDaemon(t, "--container", r.self, "--self-policy", b.policy, "--self-controllers", strings.Join(shown, ","))
	case r.answers == "exec" && answered:
		b.d = kit.StartUnaidedDaemon(t) // with the type right notify-exec would ask for less
	default:
		b.d = kit.StartDaemon(t) // with BPF, where there is that: both may answer
	}
	cgroup := b.judge(t, r.command(t, b, path), r.answers == "daemon")
	if r.bound {
		b.d.WantTry(t, 0, "", "guest", "rm", "box")
		cgroup = "/no-cgroup-of-ours"
	}
	if r.self != "" {
		b.d.WantNone(t)
	}
	kit.WantNothingLeft(t, b.d, h, cgroup)
	b.d.Stop(t)
}

// viewType is what judgeHostile is to find.
func (b *hostileBox) viewType() string {
	if b.answered || kit.TypeRefusal() == "" {
		return typeRight
	}
	return kit.FUSEType
}

// judge runs the container, and says what its cgroup was.
func (b *hostileBox) judge(t *testing.T, cmd *exec.Cmd, byDaemon bool) (cgroup string) {
	t.Helper()
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	if _, err := x.Out.Peek(1); err != nil { // its first attempt is made
		t.Fatalf("the container says nothing: %v: %s", err, b.d.Log())
	}
	type guest struct {
		Spec struct {
			Boundary string
			Pid      int
		}
		Hierarchies []string
		Calls       struct{ Answered uint64 }
	}
	var guests []guest
	if err := b.d.Call("GET", "/v1/guests", nil, &guests); err != nil || len(guests) != 1 {
		t.Fatalf("guests: %+v, %v", guests, err)
	}
	var dirs []string
	for _, hier := range b.h.Hierarchies() {
		if !slices.Contains(guests[0].Hierarchies, hier.String()) {
			continue
		}
		if cgroup = guests[0].Spec.Boundary; cgroup == "" {
			var err error
			if cgroup, err = hier.PathOf(guests[0].Spec.Pid); err != nil || cgroup == "/" {
				t.Fatalf("the container is in %q of the hierarchy %s: %v", cgroup, hier, err)
			}
		}
		dirs = append(dirs, kit.HostDir(hier, cgroup))
	}
	n := judgeHostile(t, x, dirs, b.viewType(), func(n int) {
		if !b.answered || !byDaemon || n%100 != 0 {
			return
		}
		if err := b.d.Call("GET", "/v1/guests", nil, &guests); err != nil || len(guests) != 1 || guests[0].Calls.Answered < uint64(n) {
			t.Errorf("after %d attempts: guests %+v, %v", n, guests, err)
		}
	})
	if err := cmd.Wait(); err != nil {
		t.Errorf("the container ended with %v", err)
	}
	t.Logf("%d attempts, judged by %d cgroups", n, len(dirs))
	if n < 60*len(dirs) {
		t.Errorf("only %d attempts", n)
	}
	return cgroup
}

func hostileOCI(t *testing.T, b *hostileBox, program string) *exec.Cmd {
	o := kit.NewBundle(t, b.d, program, "hostile", b.role, "--policy", b.policy)
	o.Linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 1000}, "memory": map[string]any{"limit": 512 << 20}}
	o.Allow(kit.AllCapabilities(t))
	o.WithNamespaces("cgroup")
	if b.userns {
		o.WithNamespaces("user")
		o.Delegate()
	}
	if b.answered {
		o.Linux()["seccomp"] = kit.ListenedProfile(b.d)
		shareVolume(t, o)
	}
	o.Write(t)
	return o.Command(program)
}

// shareVolume gives a container a volume in which the host sees what it mounts, unless a user namespace keeps it from that.
func shareVolume(t *testing.T, b *kit.Bundle) {
	t.Helper()
	dir := kit.PublicDir(t)
	if err := errors.Join(os.Mkdir(filepath.Join(b.Dir, "rootfs", "shared"), 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"), unix.Mount("", dir, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	b.Config["mounts"] = append(b.Config["mounts"].([]any), map[string]any{
		"destination": "/shared", "type": "bind", "source": dir, "options": []string{"bind", "shared"},
	})
	b.Linux()["rootfsPropagation"] = "shared"
}

func hostilePodman(t *testing.T, b *hostileBox, program string) *exec.Cmd {
	kit.NeedRuntime(t, "runc")
	p := kit.NewPodman(t, b.h, program)
	hooks := t.TempDir()
	kit.InstallPackaged(t, b.d, "../packaging/runtimes/vcgroupfs.json", filepath.Join(hooks, "vcgroupfs.json"), "", "--policy", b.policy)
	of := []string{"--interactive", "--privileged", "--annotation", "dev.vcgroupfs=true", "--pids-limit", "1000", "--memory", "512m", "--cgroupns", "private"}
	if b.answered {
		of = append(of, "--security-opt", "seccomp="+kit.PackagedProfile(t, b.d, "podman.json"))
	}
	rootfs := kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs"))
	if b.userns {
		for _, dir := range []string{"etc", "run"} { // podman makes files there
			if err := os.Chown(filepath.Join(rootfs, dir), kit.GuestID, kit.GuestID); err != nil {
				t.Fatal(err)
			}
		}
		ids := "0:" + strconv.Itoa(kit.GuestID) + ":65536"
		of = append(of, "--uidmap", ids, "--gidmap", ids)
	}
	return p.Run(b.role, rootfs, []string{"--hooks-dir", hooks}, of)
}

func hostileLXC(t *testing.T, b *hostileBox, _ string) *exec.Cmd {
	return b.lxc(t, kit.LXCHook(t, b.d, "--policy", b.policy))
}

func hostileLXCSelf(t *testing.T, b *hostileBox, _ string) *exec.Cmd {
	return b.lxc(t, kit.LXCSelf(b.d))
}

// lxc is a container of LXC that has its view in some way.
func (b *hostileBox) lxc(t *testing.T, how string) *exec.Cmd {
	more := "lxc.console.path = none\n"
	if b.userns {
		more += kit.LXCIDs
	}
	if b.answered {
		more += kit.PackagedLXC(t, b.d)
	}
	return kit.NewLXC(t, b.h, kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs")), b.role, more+how)
}

// bind adds a guest with a boundary in some hierarchies, whose view is to be bound into a sandbox.
func (b *hostileBox) bind(t *testing.T, hierarchies []*host.Hierarchy) (cgroup, view string) {
	t.Helper()
	cgroup = kit.NewBoundary(t, "hostile-bind", hierarchies...)
	kit.RemoveEverywhere(t, b.h, cgroup)
	var names []string
	for _, hier := range hierarchies {
		names = append(names, kit.ShownControllers(hier)...)
	}
	args := []string{"guest", "add", "box", "--boundary", cgroup, "--policy", b.policy, "--controllers", strings.Join(names, ",")}
	if slices.Contains(names, "pids") {
		args = append(args, guestLimits(b.h)...)
	}
	if b.userns {
		args = append(args, "--owner", strconv.Itoa(kit.GuestID)+":"+strconv.Itoa(kit.GuestID))
	}
	b.d.WantTry(t, 0, "views/box", args...)
	return cgroup, filepath.Join(filepath.Dir(b.d.Socket), "views", "box")
}

// hostileBwrap: bubblewrap maps one id only, to that of who starts it. So that it is not the host's root, that is the root of a user
// namespace.
func hostileBwrap(t *testing.T, b *hostileBox, program string) *exec.Cmd {
	var hierarchies []*host.Hierarchy
	for _, hier := range b.h.Hierarchies() {
		if len(kit.ShownControllers(hier)) > 0 && hier.Name == "" {
			hierarchies = append(hierarchies, hier)
		}
	}
	cgroup, view := b.bind(t, hierarchies)
	rootfs := kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs"))
	args := []string{program, "--bind", rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/sys", "--dir", "/sys/fs",
		"--bind", view, "/sys/fs/cgroup", "--unshare-pid", "--unshare-cgroup", "--cap-add", "ALL", "--setenv", kit.RoleVariable, b.role}
	if b.userns {
		args = append(args, "--unshare-user", "--uid", "0", "--gid", "0")
	}
	if b.answered {
		kit.CopyProgram(t, kit.AbsProgram(t), filepath.Join(rootfs, "vcgroupfs"))
		args = append(args, "/vcgroupfs", "notify-exec", "--")
	}
	if args = append(args, "/program"); !b.userns {
		return kit.CommandWithin(cgroup, hierarchies, args...)
	}
	if err := os.Chmod(b.d.Dir, 0o755); err != nil { // as the daemon's own is
		t.Fatal(err)
	}
	cmd := kit.CommandWithin(cgroup, hierarchies, append([]string{kit.PublicProgram(t)}, args...)...)
	cmd.Env = append(os.Environ(), kit.RoleVariable+"=userns")
	return cmd
}

// playUserns runs the command of its arguments as the root of a user namespace.
func playUserns(string) {
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	ids := []syscall.SysProcIDMap{{HostID: kit.GuestID, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{}, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hostileNspawn: it wants v2, whatever is in it.
func hostileNspawn(t *testing.T, b *hostileBox, program string) *exec.Cmd {
	hierarchies := []*host.Hierarchy{kit.NeedHierarchy(t, b.h, hierarchy.Unified)}
	cgroup, view := b.bind(t, hierarchies)
	args := []string{program, "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--console=pipe", "--capability=all", "--bind", view + ":/sys/fs/cgroup",
		"--directory", kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs")), "--setenv", kit.RoleVariable + "=" + b.role}
	if b.userns {
		// It gives the cgroup to the container's root, when the guest is added already: the real cgroupfs is not to be mounted.
		args = append(args, "--private-users="+strconv.Itoa(kit.GuestID)+":65536", "--private-users-ownership=off", "--system-call-filter=~@mount")
	}
	cmd := kit.CommandWithin(cgroup, hierarchies, append(args, "/program")...)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	return cmd
}

// hostileDocker: with a user namespace --privileged would not do, it wants the host's.
func hostileDocker(t *testing.T, b *hostileBox, _ string) *exec.Cmd {
	cdi := t.TempDir()
	kind := kit.PackagedDevices(t, b.d, cdi, "--policy", b.policy)
	profile := "unconfined"
	if b.answered {
		profile = kit.PackagedProfile(t, b.d, "docker.json")
	}
	options := []string{"--cgroupns", "private", "--pids-limit", "1000", "--memory", "512m", "--device", kind + "=view", "--cap-add", "ALL",
		"--security-opt", "seccomp=" + profile, "--security-opt", "systempaths=unconfined", "--security-opt", "apparmor=unconfined"}
	return kit.StartDocker(t, b.h, cdi, b.userns).Run(b.role, options...)
}
