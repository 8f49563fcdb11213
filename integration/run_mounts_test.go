package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// guestMounts is what a container has mounted, and the type; of the guests of "run" those that are not in --privileged. All else is of files.
var guestMounts = map[string]string{
	"/proc": "proc", "/sys": "sysfs", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue", "/dev/console": "devpts",
	"/proc/cgroups": "tmpfs", "/sys/fs/cgroup/proc": "proc",
	"/proc/bus": "proc", "/proc/fs": "proc", "/proc/irq": "proc", "/proc/sys": "proc", "/proc/sysrq-trigger": "proc",
	"/proc/acpi": "tmpfs", "/proc/asound": "tmpfs", "/proc/interrupts": "tmpfs", "/proc/kcore": "tmpfs", "/proc/keys": "tmpfs", "/proc/latency_stats": "tmpfs",
	"/proc/sched_debug": "tmpfs", "/proc/scsi": "tmpfs", "/proc/timer_list": "tmpfs", "/proc/timer_stats": "tmpfs", "/sys/devices/virtual/powercap": "tmpfs",
	"/sys/firmware": "tmpfs",
}

// hostMounts are mounts by which a program reaches the kernel or another namespace, as a host has them, and one of files with a device among
// them. Those whose kind the kernel does not have are left out.
func hostMounts(dir string) (made []string, err error) {
	for _, m := range []struct{ kind, at string }{
		{"proc", dir + "/proc"}, {"sysfs", dir + "/sys"}, {"devtmpfs", dir + "/dev"}, {"debugfs", "/sys/kernel/debug"}, {"tracefs", "/sys/kernel/tracing"},
		{"tracefs", dir + "/tracing"}, {"securityfs", "/sys/kernel/security"}, {"configfs", "/sys/kernel/config"}, {"bpf", "/sys/fs/bpf"}, {"bpf", dir + "/bpf"},
		{"fusectl", "/sys/fs/fuse/connections"}, {"fusectl", dir + "/fusectl"}, {"mqueue", dir + "/mqueue"}, {"devpts", dir + "/pts"},
		{"binfmt_misc", "/proc/sys/fs/binfmt_misc"}, {"tmpfs", dir + "/files"},
	} {
		if strings.HasPrefix(m.at, dir) {
			if err := os.Mkdir(m.at, 0o755); err != nil {
				return nil, err
			}
		}
		switch err := unix.Mount("none", m.at, m.kind, 0, ""); {
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EPERM):
		case err != nil:
			return nil, fmt.Errorf("mount of %s at %s: %w", m.kind, m.at, err)
		default:
			made = append(made, m.at)
		}
	}
	device, ns := dir+"/files/device", dir+"/files/ns"
	err = errors.Join(unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Chmod(device, 0o666), os.WriteFile(ns, nil, 0o644),
		unix.Mount("/proc/self/ns/user", ns, "", unix.MS_BIND, ""))
	return append(made, ns), err
}

// TestRunMounts: whatever the host has mounted, a guest has files of it, and else what a container has.
func TestRunMounts(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	dir := t.TempDir()
	for at := dir; at != "/tmp" && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, form := range [][]string{nil, {"--no-stack"}, {"--userns"}, {"--userns", "--privileged"}} {
		t.Run(kit.FormName(form), func(t *testing.T) {
			var out []byte
			var made []string
			err := host.OnThread(func() (err error) {
				if err = unix.Unshare(unix.CLONE_NEWNS); err == nil {
					err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
				}
				if err == nil {
					err = unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755")
				}
				if err == nil {
					made, err = hostMounts(dir)
				}
				if err != nil {
					return err
				}
				args := append(append([]string{"run", "--controllers", "pids"}, form...), "--", "sh", "-c", "cat /proc/self/mountinfo; cat "+dir+"/files/device 2>/dev/null; echo device $?")
				cmd := exec.Command(kit.Program(t), args...)
				out, err = cmd.Output()
				return err
			})
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			table, device, _ := strings.Cut(string(out), "device ")
			if device == "0\n" {
				t.Error("a device file in a mount of the host's can be opened")
			}
			wantGuestMounts(t, table, made, dir+"/files")
		})
	}
}

// wantGuestMounts looks at a guest's mount table: what was made is not there, some files are, and nothing is that is neither a container's nor of files.
func wantGuestMounts(t *testing.T, table string, made []string, files string) {
	t.Helper()
	all, err := mountinfo.GetMountsFromReader(strings.NewReader(table), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d mounts", len(all))
	nodev := kit.ReadFile("/proc/filesystems")
	found := false
	for _, m := range all {
		found = found || m.Mountpoint == files
		want, known := guestMounts[m.Mountpoint]
		switch {
		case strings.HasPrefix(m.Mountpoint, kit.GuestView): // the view, and below it the kernel's cgroups, read-only
			if m.FSType == "cgroup" || m.FSType == "cgroup2" {
				known = slices.Contains(strings.Split(m.Options, ","), "ro")
			} else {
				known = kit.OneOf(m.FSType, "tmpfs|proc|fuse.cgroup|fuse.cgroup2")
			}
		case known:
			known = m.FSType == want || m.Root != "/" && kit.OneOf(m.FSType, "tmpfs|devtmpfs") // a device
		case strings.HasPrefix(m.Mountpoint, "/dev/"):
			known = m.Root != "/" // in a user namespace, where no device file can be made
		case m.Mountpoint == "/":
			known = true
		default:
			known = (m.Mountpoint == files || !slices.Contains(made, m.Mountpoint)) &&
				(strings.Contains(nodev, "\n\t"+m.FSType+"\n") || kit.OneOf(m.FSType, "tmpfs|overlay|9p|virtiofs|nfs|nfs4|rootfs"))
		}
		if !known {
			t.Errorf("the guest has %s at %s (%s, root %s)", m.FSType, m.Mountpoint, m.Options, m.Root)
		}
		if m.Mountpoint == "/sys" && slices.Contains(strings.Split(m.Options, ","), "rw") && !strings.Contains(t.Name(), "privileged") {
			t.Errorf("the guest may write to /sys: %s", m.Options)
		}
	}
	if !found {
		t.Errorf("the guest has no %s, which is of files", files)
	}
	if len(made) < 5 {
		t.Errorf("the host has only %q to keep from it", made)
	}
}
