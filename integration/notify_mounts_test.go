package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// nativeMounts are what comes of the mounts of playMounts in a user, a mount and a cgroup namespace on the host.
func nativeMounts(t *testing.T, binary, at, which string) []string {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), kit.RoleVariable+"=notify-nested "+which+" notify-mounts "+at)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("natively: %v: %s", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// notifyMountDifferences are the results that differ from the native ones, with the reason.
var notifyMountDifferences = map[string]string{}

// TestNotifyMounts: what a guest mounts that has all hierarchies of the host comes to what it comes to natively in namespaces, errno by
// errno: natively it is the real cgroups, in the guest its view.
func TestNotifyMounts(t *testing.T) {
	h := kit.OpenHost(t)
	binary, at := kit.PublicProgram(t), kit.PublicDir(t)
	all := []string{"--controllers", kit.AllControllers(h)}
	for _, c := range []struct {
		form  []string
		which string // namespaces below the guest's, and natively
	}{
		{[]string{"--userns"}, "umc"}, {[]string{"--privileged"}, "mc"}, {[]string{"--userns", "--privileged"}, "umc"}, {[]string{"--userns"}, "um"},
	} {
		t.Run(kit.FormName(c.form)+"-"+c.which, func(t *testing.T) {
			native := nativeMounts(t, binary, at, c.which)
			got := kit.RunRole(t, binary, "notify-nested "+c.which+" notify-mounts "+at, append(c.form, all...)...)
			if len(native) < len(notifyMounts) || len(got) != len(native) {
				t.Fatalf("%d results, natively %d", len(got), len(native))
			}
			for i := range native {
				name, _, _ := strings.Cut(native[i], ":")
				if _, declared := notifyMountDifferences[name]; got[i] != native[i] && !declared {
					t.Errorf("%q, natively %q", got[i], native[i])
				}
			}
			t.Logf("%d results; natively: %s", len(native), strings.Join(native, "; "))
		})
	}
}

// TestNotifyHidden: hierarchies that a guest does not have cannot be mounted.
func TestNotifyHidden(t *testing.T) {
	h := kit.OpenHost(t)
	pids := kit.NeedHierarchy(t, h, "pids")
	want := map[string]string{"cgroup foo": "EINVAL", "cgroup none,name=systemd": "EPERM", "cgroup name=systemd": "EINVAL", "cgroup none,name=unknown": "EPERM"}
	if pids.Version == hierarchy.V1 {
		want["cgroup2 "], want["cgroup memory"], want["cgroup pids"], want["cgroup "] = "ENODEV", "EINVAL", "ok", "ok"
	} else {
		want["cgroup2 "], want["cgroup memory"], want["cgroup pids"], want["cgroup "] = "ok", "EINVAL", "EPERM", "EPERM"
	}
	binary, at := kit.PublicProgram(t), kit.PublicDir(t)
	for _, form := range [][]string{{"--userns"}, {"--privileged"}} {
		got := kit.RunRole(t, binary, "notify-nested umc notify-mounts "+at, append(form, "--controllers", "pids")...)
		for name, errno := range want {
			if !slices.Contains(got, name+": "+errno) {
				t.Errorf("%v: %s is not %s: %q", form, name, errno, got)
			}
		}
	}
	// Without CAP_SYS_ADMIN the kernel's own answer stands.
	plain := kit.RunGuest(t, []string{"--controllers", "pids"}, "mount -t cgroup2 none "+at)
	if plain.Status == 0 || !strings.Contains(plain.Stderr, "permission denied") {
		t.Errorf("without CAP_SYS_ADMIN: status %d, %q", plain.Status, plain.Stderr)
	}
}

// TestNotifyPart: a mount is rooted at the caller's cgroup namespace, wherever in it the caller is, and is nosuid, nodev, noexec.
func TestNotifyPart(t *testing.T) {
	h := kit.OpenHost(t)
	kit.NeedHierarchy(t, h, "pids")
	binary, at := kit.PublicProgram(t), kit.PublicDir(t)
	type part struct{ controllers, dir, kind, options, root, magic string }
	parts := []part{{"pids", "", "cgroup2", "", "/part", fmt.Sprintf("%#x", unix.CGROUP2_SUPER_MAGIC)}}
	if kit.OnV1(h, "pids") {
		parts = []part{
			{"pids", "pids", "cgroup", "pids", "/pids/part", fmt.Sprintf("%#x", unix.CGROUP_SUPER_MAGIC)},
			{"pids,unified", "unified", "cgroup2", "", "/unified/part", fmt.Sprintf("%#x", unix.CGROUP2_SUPER_MAGIC)},
		}
	}
	for _, p := range parts {
		for _, form := range [][]string{{"--privileged"}, {"--userns", "--privileged"}} {
			arg, _ := json.Marshal([]string{p.dir, p.kind, p.options, at})
			got := kit.RunRole(t, binary, "notify-part "+string(arg), append(form, "--controllers", p.controllers)...)
			want := []string{
				"below true", "beside false", "part false", "../beside false", "type " + p.magic,
				"root " + p.root + " options [rw nosuid nodev noexec]",
			}
			if !slices.Equal(got, want) {
				t.Errorf("%v %s: %q, want %q", form, p.kind, got, want)
			}
		}
	}
}

// TestNotifyUtilLinux: mount(8) of two generations, of which the newer one asks for fsopen first.
func TestNotifyUtilLinux(t *testing.T) {
	h := kit.OpenHost(t)
	kit.NeedHierarchy(t, h, "pids")
	at := kit.PublicDir(t)
	if out, err := exec.Command("mount", "--version").Output(); err != nil || !strings.Contains(string(out), "util-linux") {
		t.Skip("machine: mount is not util-linux's")
	}
	mounts := map[string]string{"installed": "mount"}
	if dir := os.Getenv("VCGROUPFS_MOUNT"); dir != "" {
		lib := filepath.Join(dir, "usr/lib/x86_64-linux-gnu")
		mounts["newer"] = filepath.Join(lib, "ld-linux-x86-64.so.2") + " --library-path " + lib + " " + filepath.Join(dir, "usr/bin/mount")
	}
	kind, options, magic := "cgroup2", "nsdelegate", "63677270"
	if kit.OnV1(h, "pids") {
		kind, options, magic = "cgroup", "pids", "27e0eb"
	}
	for name, mount := range mounts {
		script := fmt.Sprintf(`%[1]s --version && %[1]s -t %[2]s -o %[3]s cgroup %[4]s && stat -f -c %%t %[4]s && cat %[4]s/cgroup.procs >/dev/null && umount %[4]s
%[1]s -t cgroup -o foo cgroup %[4]s || echo refused`, mount, kind, options, at)
		got := kit.RunGuest(t, []string{"--privileged", "--controllers", "pids"}, script)
		lines := strings.Split(strings.TrimSpace(got.Stdout), "\n")
		if len(lines) != 3 || lines[1] != magic || lines[2] != "refused" || !strings.Contains(got.Stderr, "wrong fs type, bad option") {
			t.Errorf("%s: %q %q", name, got.Stdout, got.Stderr)
		}
		t.Logf("%s: %s", name, lines[0])
	}
	if len(mounts) < 2 {
		t.Skip("machine: VCGROUPFS_MOUNT names no newer util-linux; that of this machine was tried")
	}
}

// joinedOptions name a hierarchy of two controllers, and what is none.
var joinedOptions = []string{
	"net_cls,net_prio", "net_prio,net_cls", "rw,net_prio,net_cls,xattr", "net_cls", "net_prio", "net_cls,net_prio,memory", "none,name=joined", "name=joined,net_cls",
	"name=joined", "name=joined,net_prio,net_cls",
}

// playJoined mounts by each of joinedOptions at a directory, and prints what came of it.
func playJoined(at string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, options := range joinedOptions {
		err := unix.Mount("none", at, "cgroup", 0, options)
		fmt.Println(options, kit.Word(err))
		if err == nil {
			unix.Unmount(at, unix.MNT_DETACH)
		}
	}
	return nil
}

// TestNotifyJoined: of a hierarchy that has several controllers on the host a guest mounts all, in any order, or nothing: natively so, too.
func TestNotifyJoined(t *testing.T) {
	host, at, binary := kit.PublicDir(t), kit.PublicDir(t), kit.PublicProgram(t)
	if err := unix.Mount("none", host, "cgroup", 0, "net_cls,net_prio"); err != nil {
		t.Skipf("machine: net_cls and net_prio are not free for a hierarchy: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(host, 0); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), kit.RoleVariable+"=notify-nested umc notify-joined "+at)
	native, err := cmd.Output()
	if err != nil {
		t.Fatalf("natively: %v: %s", err, native)
	}
	for _, form := range [][]string{{"--userns"}, {"--privileged"}} {
		got := kit.RunRole(t, binary, "notify-nested umc notify-joined "+at, append(form, "--controllers", "net_cls,net_prio,"+needed(t))...)
		if want := strings.Split(strings.TrimSpace(string(native)), "\n"); !slices.Equal(got, want) {
			t.Errorf("%v: %q, natively %q", form, got, want)
		}
	}
	t.Logf("natively: %q", native)
}

// needed is a controller that every guest of these tests has beside.
func needed(t *testing.T) string {
	t.Helper()
	kit.NeedHierarchy(t, kit.OpenHost(t), "memory")
	return "memory"
}
