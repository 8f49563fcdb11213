package kit

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Bundle is an OCI bundle whose program is this test binary, in a role.
type Bundle struct {
	Dir, ID, Cgroup string
	Config          map[string]any
}

// Inside runs a command in the container, and answers with all that it said.
func (b *Bundle) Inside(runtime string, args ...string) (string, error) {
	out, err := exec.Command(runtime, append([]string{"exec", b.ID}, args...)...).CombinedOutput()
	return string(out), err
}

// capabilityNames are by number (include/uapi/linux/capability.h).
var capabilityNames = strings.Fields(
	"CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
		"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE " +
		"SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE " +
		"SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP")

// AllCapabilities are those that this process can give a container: the view must hold against them.
func AllCapabilities(t testing.TB) (names []string) {
	t.Helper()
	var set uint64
	for line := range strings.Lines(ReadFile("/proc/self/status")) {
		fmt.Sscanf(line, "CapEff: %x", &set)
	}
	for n, name := range capabilityNames {
		if set&(1<<n) != 0 {
			names = append(names, "CAP_"+name)
		}
	}
	if !slices.Contains(names, "CAP_SYS_ADMIN") {
		t.Fatalf("this process has only %v", names)
	}
	return names
}

// NeedRuntime finds a runtime that works on this host by itself.
func NeedRuntime(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("machine: %s is not installed", name)
	}
	if out, err := exec.Command(path, "spec", "--help").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return path
}

// OCIRuntimes are runc and crun; where the processor is emulated, and each container takes seconds, crun alone, which
// on a host with v1 and v2 does not run.
func OCIRuntimes(t testing.TB) []string {
	if Scale(t) < 1 {
		return []string{"crun"}
	}
	return []string{"runc", "crun"}
}

// NewRootfs makes a root file system that has this test binary as /program.
func NewRootfs(t testing.TB, rootfs string) string {
	t.Helper()
	t.Cleanup(func() { os.RemoveAll(rootfs) })
	for _, dir := range []string{"", "proc", "sys", "dev", "tmp", "usr", "etc", "run"} {
		if err := os.Mkdir(filepath.Join(rootfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(rootfs, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(rootfs, "program"), self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rootfs
}

// NewBundle makes one with the runtime's own default configuration, a limit of 64 tasks and the hook of a daemon.
func NewBundle(t testing.TB, d *Daemon, runtime, id, role string, hookArgs ...string) *Bundle {
	t.Helper()
	b := &Bundle{Dir: PublicDir(t), ID: "vcgroupfs-test-" + strconv.Itoa(os.Getpid()) + "-" + id}
	b.Cgroup = "/" + b.ID
	NewRootfs(t, filepath.Join(b.Dir, "rootfs"))
	spec := exec.Command(runtime, "spec")
	spec.Dir = b.Dir
	if out, err := spec.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		exec.Command(runtime, "delete", "--force", b.ID).Run() // of a test that failed
		os.Remove(filepath.Join(b.Dir, "config.json"))
	})
	raw, err := os.ReadFile(filepath.Join(b.Dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(raw, &b.Config)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.Config["root"].(map[string]any)["readonly"] = false
	process := b.Config["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/program"}
	process["env"] = []string{"PATH=/", RoleVariable + "=" + role}
	b.Linux()["cgroupsPath"] = b.Cgroup
	b.Linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 64}}
	hook := map[string]any{"path": AbsProgram(t), "args": append([]string{"vcgroupfs", "hook", "oci", "--socket",
		d.Socket}, hookArgs...)}
	b.Config["hooks"] = map[string]any{"createRuntime": []any{hook}, "poststop": []any{hook}}
	return b
}

// CallHook has the runtime call another program's hook, if it calls any.
func (b *Bundle) CallHook(program string) {
	hooks, _ := b.Config["hooks"].(map[string]any)
	for _, list := range hooks {
		for _, hook := range list.([]any) {
			hook.(map[string]any)["path"] = program
		}
	}
}

// OverHost gives the bundle the host's own root, over which the container writes to a directory of its own. That has
// the files that are given, and this test binary as /program.
func (b *Bundle) OverHost(t testing.TB, files map[string]string) {
	t.Helper()
	b.Over(t, "/", files)
}

// Over does the like with another root.
func (b *Bundle) Over(t testing.TB, lower string, files map[string]string) {
	t.Helper()
	rootfs := filepath.Join(b.Dir, "rootfs")
	upper, work := t.TempDir(), t.TempDir()
	for name, text := range files {
		at := filepath.Join(upper, name)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		if err == nil {
			err = os.WriteFile(at, []byte(text), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(rootfs, "program"), filepath.Join(upper, "program")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", rootfs, "overlay", 0,
		"lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
		t.Skipf("machine: no overlay over %s: %v", lower, err)
	}
	t.Cleanup(func() { unix.Unmount(rootfs, unix.MNT_DETACH) })
}

// Allow gives the container's process capabilities.
func (b *Bundle) Allow(names []string) {
	sets := map[string]any{}
	for _, set := range []string{"bounding", "effective", "permitted"} {
		sets[set] = names
	}
	b.Config["process"].(map[string]any)["capabilities"] = sets
}

// Linux is the part of the configuration that is about Linux.
func (b *Bundle) Linux() map[string]any { return b.Config["linux"].(map[string]any) }

// WithNamespaces adds namespaces to those of the configuration, or takes some away ("-pid").
func (b *Bundle) WithNamespaces(kinds ...string) {
	list := b.Linux()["namespaces"].([]any)
	for _, kind := range kinds {
		if gone, is := strings.CutPrefix(kind, "-"); is {
			list = slices.DeleteFunc(list, func(n any) bool { return n.(map[string]any)["type"] == gone })
			continue
		}
		list = slices.DeleteFunc(list, func(n any) bool { return n.(map[string]any)["type"] == kind })
		list = append(list, map[string]any{"type": kind})
		if kind == "user" {
			ids := []any{map[string]any{"containerID": 0, "hostID": GuestID, "size": 65536}}
			b.Linux()["uidMappings"], b.Linux()["gidMappings"] = ids, ids
		}
	}
	b.Linux()["namespaces"] = list
	if slices.Contains(kinds, "user") && slices.Contains(kinds, "-pid") { // procfs cannot be mounted anew there
		for _, m := range b.Config["mounts"].([]any) {
			if m := m.(map[string]any); m["destination"] == "/proc" {
				m["type"], m["source"], m["options"] = "bind", "/proc", []string{"rbind"}
			}
		}
	}
}

// Delegate has the runtime mount the container's cgroups writable: on v2 it may then give them to the container's root,
// which crun does in any case ("Cgroup ownership" in config-linux.md of the OCI runtime specification).
func (b *Bundle) Delegate() {
	for _, m := range b.Config["mounts"].([]any) {
		if m := m.(map[string]any); m["type"] == "cgroup" {
			m["options"] = append(slices.DeleteFunc(m["options"].([]any), func(o any) bool { return o == "ro" }), "rw")
		}
	}
}

// Write writes the configuration.
func (b *Bundle) Write(t testing.TB) {
	t.Helper()
	raw, err := json.Marshal(b.Config)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.Dir, "config.json"), raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Command runs the bundle's container, in the foreground.
func (b *Bundle) Command(runtime string) *exec.Cmd {
	cmd := exec.Command(runtime, "run", "--bundle", b.Dir, b.ID)
	return cmd
}

// WantNothingLeft checks that a daemon has no guest, and no place of one, once it has removed those whose process has
// ended: a container's last hook does not wait for that.
func WantNothingLeft(t testing.TB, d *Daemon, h *host.Host, cgroup string) {
	t.Helper()
	Eventually(t, "the guests and the places of their views to go", func() bool {
		var guests []any
		err := d.Call("GET", "/v1/guests", nil, &guests)
		left, _ := os.ReadDir(filepath.Join(filepath.Dir(d.Socket), "views"))
		return err == nil && len(guests) == 0 && len(left) == 0
	})
	for _, hier := range h.Hierarchies() {
		if hier.Exists(cgroup) {
			t.Errorf("%s is left in the hierarchy %s", cgroup, hier)
		}
	}
}

// NeedPlainCrun skips where crun starts no container with no hook either.
func NeedPlainCrun(t *testing.T, h *host.Host, runtime string) {
	if filepath.Base(runtime) == "crun" && len(h.Hierarchies()) > 1 {
		if v2 := h.Hierarchy(hierarchy.Unified); v2 != nil && len(v2.Controllers) > 0 {
			t.Skip("machine: crun wants v1 or v2, and this host has controllers on both")
		}
	}
}

// SystemdProgram is Debian's systemd.
const SystemdProgram = "/lib/systemd/systemd"

// SystemdUnits are a target to boot to, and a service with limits.
var SystemdUnits = map[string]string{
	"etc/systemd/system/vcgroupfs-test.target": "[Unit]\nDefaultDependencies=no\n",
	"etc/systemd/system/vcgroupfs-test.service": "[Unit]\nDefaultDependencies=no\n" +
		"[Service]\nType=exec\nMemoryMax=100M\nTasksMax=20\nExecStart=/bin/sleep infinity\n",
}

// BootSystemd has a bundle's container boot to that target, unified or legacy. args are the program, what it is started
// by, and more arguments of its own.
func (b *Bundle) BootSystemd(unified bool, args ...string) {
	process := b.Config["process"].(map[string]any)
	process["terminal"], process["noNewPrivileges"], process["rlimits"] = true, false, []any{}
	process["env"] = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=lxc", "TERM=dumb"}
	mode := "systemd.unified_cgroup_hierarchy=0"
	if unified {
		mode = "systemd.unified_cgroup_hierarchy=1"
	}
	process["args"] = append(args, mode, "--unit=vcgroupfs-test.target", "--log-target=console", "--show-status=yes")
	b.Allow([]string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_SYS_CHROOT"})
}

// Tmpfs gives a bundle's container some of them.
func (b *Bundle) Tmpfs(dirs ...string) {
	for _, dir := range dirs {
		b.Config["mounts"] = append(b.Config["mounts"].([]any),
			map[string]any{"destination": dir, "type": "tmpfs", "source": "tmpfs",
				"options": []string{"nosuid", "nodev", "mode=755"}})
	}
}

// Mount adds a mount to the configuration.
func (b *Bundle) Mount(kind, source, destination string, options ...string) {
	m := map[string]any{"destination": destination, "type": kind, "source": source, "options": options}
	b.Config["mounts"] = append(b.Config["mounts"].([]any), m)
}

// InitOf is the pid of a container's first process.
func InitOf(t *testing.T, runtime string, b *Bundle) (pid int) {
	t.Helper()
	var state struct{ Pid int }
	out, err := exec.Command(runtime, "state", b.ID).Output()
	if err == nil {
		err = json.Unmarshal(out, &state)
	}
	if err != nil {
		t.Fatal(err)
	}
	return state.Pid
}
