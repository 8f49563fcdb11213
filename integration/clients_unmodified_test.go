package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// Programs as they are, from root file systems of Debian's suites, that look at the type of the file system at
// /sys/fs/cgroup: with each mechanism that answers for a view, and with none.

// mechanism makes statfs say of a view what it says of the file system in whose place the view stands.
type mechanism struct {
	name    string
	options []string                                         // of serve
	need    func(t testing.TB)                               // skips where it cannot be
	apply   func(t testing.TB, d *kit.Daemon, b *kit.Bundle) // changes a container's configuration
}

// mechanisms are all; the first is none, the control.
var mechanisms = []mechanism{
	{"off", []string{"--no-bpf"}, func(testing.TB) {}, func(testing.TB, *kit.Daemon, *kit.Bundle) {}},
	{"bpf", nil, kit.NeedType, func(testing.TB, *kit.Daemon, *kit.Bundle) {}},
	{"notify", []string{"--no-bpf"}, needOwnProcessors, func(_ testing.TB, d *kit.Daemon, b *kit.Bundle) {
		b.Linux()["seccomp"] = kit.ListenedProfile(d)
	}},
}

// needOwnProcessors skips a test in a machine whose processors are emulated, where BPF answers, and each run takes
// minutes.
func needOwnProcessors(t testing.TB) {
	t.Helper()
	if kit.Scale(t) < 1 {
		t.Skip("machine: its processors are emulated, and BPF answers for views there")
	}
}

// needTree is the root file system of a Debian suite.
func needTree(t *testing.T, suite string) (dir string) {
	t.Helper()
	dir = filepath.Join(os.Getenv("VCGROUPFS_TREES"), suite)
	if os.Getenv("VCGROUPFS_TREES") == "" || !kit.Exists(dir) {
		t.Skipf("machine: there is no tree of %s, VCGROUPFS_TREES names no directory of it", suite)
	}
	return dir
}

// overTree gives the bundle a root of a suite, over which the container writes to a directory of its own, and tmpfs
// where programs write much.
func overTree(t *testing.T, b *kit.Bundle, suite string, files map[string]string) {
	t.Helper()
	b.Over(t, needTree(t, suite), files)
	for _, dir := range []string{"/run", "/run/lock", "/tmp", "/var/lib"} {
		b.Config["mounts"] = append(b.Config["mounts"].([]any), map[string]any{
			"destination": dir, "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "nodev", "mode=755"},
		})
	}
}

// withoutClone3 answers clone3 as a kernel does that does not know it, and as the default profiles of container managers
// do. A program that asks to begin in a cgroup by a directory of a view must find another way.
func withoutClone3(b *kit.Bundle) {
	b.Linux()["seccomp"] = map[string]any{
		"defaultAction": "SCMP_ACT_ALLOW",
		"architectures": []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"},
		"syscalls": []any{
			map[string]any{"names": []string{"clone3"}, "action": "SCMP_ACT_ERRNO", "errnoRet": uint(unix.ENOSYS)},
		},
	}
}

// guestForm is a view that programs are given, and where the host finds what they make in it.
type guestForm struct {
	name         string
	hook         []string        // its options
	hier         *host.Hierarchy // that has the cgroups which they make
	memory, pids *host.Hierarchy // that have the limits of these, or nil
}

// guestForms are a plain view of one v2 hierarchy and, where memory and tasks are limited on v1, one of all hierarchies.
// This one has the kernel's own mounts below it, for programs that look for v1 in mountinfo, and no blkio, in which no guest
// makes directories.
func guestForms(t testing.TB, h *host.Host) []guestForm {
	t.Helper()
	v2, memory, pids := kit.NeedHierarchy(t, h, hierarchy.Unified), kit.NeedHierarchy(t, h, "memory"), kit.NeedHierarchy(t, h, "pids")
	one := guestForm{name: "v2", hier: v2, memory: memory, pids: pids,
		hook: []string{"--layout", "v2", "--no-stack", "--controllers", "memory,pids,cpu"}}
	if memory == v2 && pids == v2 {
		return []guestForm{one}
	}
	return []guestForm{one, {name: "hybrid", hier: pids, memory: memory, pids: pids, hook: []string{
		"--layout", "hybrid", "--proc-cgroups",
		"--controllers", "cpu,cpuacct,memory,devices,freezer,pids,name=systemd,unified",
	}}}
}

// eachForm runs a test with each form and mechanism. on says whether there is one.
func eachForm(t *testing.T, do func(t *testing.T, h *host.Host, f guestForm, m mechanism, on bool)) {
	h := kit.OpenHost(t)
	for _, f := range guestForms(t, h) {
		for _, m := range mechanisms {
			t.Run(f.name+"-"+m.name, func(t *testing.T) {
				m.need(t)
				do(t, h, f, m, m.name != "off")
			})
		}
	}
}

// wantsGone waits until a cgroup is in none of the form's hierarchies.
func (f guestForm) wantsGone(t *testing.T, cgroup string) {
	t.Helper()
	for _, hier := range []*host.Hierarchy{f.hier, f.memory, f.pids} {
		if hier != nil {
			kit.Eventually(t, kit.HostDir(hier, cgroup)+" to go", func() bool { return !hier.Exists(cgroup) })
		}
	}
}

// hasProcess waits until the host finds a process in a cgroup.
func (f guestForm) hasProcess(t *testing.T, cgroup string) {
	t.Helper()
	dir := kit.HostDir(f.hier, cgroup)
	kit.Eventually(t, "a process in "+dir, func() bool {
		found, err := os.ReadFile(filepath.Join(dir, kit.Procs))
		events := kit.ReadFile(filepath.Join(dir, "cgroup.events")) // of v2, where a container may be a cgroup further down
		return err == nil && len(found) > 0 || strings.Contains(events, "populated 1\n")
	})
	t.Logf("the host finds a process in %s", dir)
}

// wants wants the host to find a process in a cgroup, and its limits.
func (f guestForm) wants(t *testing.T, cgroup string, memory, pids int) {
	t.Helper()
	f.hasProcess(t, cgroup)
	if f.memory == nil {
		return
	}
	name := "memory.max"
	if f.memory.Version == hierarchy.V1 {
		name = "memory.limit_in_bytes"
	}
	for file, want := range map[string]int{
		filepath.Join(kit.HostDir(f.memory, cgroup), name):     memory,
		filepath.Join(kit.HostDir(f.pids, cgroup), "pids.max"): pids,
	} {
		if got := kit.ReadFile(file); got != strconv.Itoa(want)+"\n" {
			t.Errorf("the host finds %q in %s, want %d", got, file, want)
		} else {
			t.Logf("the host finds %d in %s", want, file)
		}
	}
}
