package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// bundle is an OCI bundle whose program is this test binary, in a role.
type bundle struct {
	dir, id, cgroup string
	config          map[string]any
}

// capabilityNames are by number (include/uapi/linux/capability.h).
var capabilityNames = strings.Fields("CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE " +
	"NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE " +
	"SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP")

// allCapabilities are those that this process can give a container: the view must hold against them.
func allCapabilities(t testing.TB) (names []string) {
	t.Helper()
	var set uint64
	for line := range strings.Lines(readFile("/proc/self/status")) {
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

// needRuntime finds a runtime that works on this host by itself.
func needRuntime(t testing.TB, name string) string {
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

// ociRuntimes are runc and crun; where the processor is emulated, and each container takes seconds, crun alone, which on a host with v1
// and v2 does not run.
func ociRuntimes(t testing.TB) []string {
	if scale(t) < 1 {
		return []string{"crun"}
	}
	return []string{"runc", "crun"}
}

// newRootfs makes a root file system that has this test binary as /program.
func newRootfs(t testing.TB, rootfs string) string {
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

// newBundle makes one with the runtime's own default configuration, a limit of 64 tasks and the hook of a daemon.
func newBundle(t testing.TB, d *daemon, runtime, id, role string, hookArgs ...string) *bundle {
	t.Helper()
	b := &bundle{dir: publicDir(t), id: "vcgroupfs-test-" + strconv.Itoa(os.Getpid()) + "-" + id}
	b.cgroup = "/" + b.id
	newRootfs(t, filepath.Join(b.dir, "rootfs"))
	spec := exec.Command(runtime, "spec")
	spec.Dir = b.dir
	if out, err := spec.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		exec.Command(runtime, "delete", "--force", b.id).Run() // of a test that failed
		os.Remove(filepath.Join(b.dir, "config.json"))
	})
	raw, err := os.ReadFile(filepath.Join(b.dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(raw, &b.config)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.config["root"].(map[string]any)["readonly"] = false
	process := b.config["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/program"}
	process["env"] = []string{"PATH=/", roleVariable + "=" + role}
	b.linux()["cgroupsPath"] = b.cgroup
	b.linux()["resources"] = map[string]any{"pids": map[string]any{"limit": 64}}
	hook := map[string]any{"path": absProgram(t), "args": append([]string{"vcgroupfs", "hook", "oci", "--socket", d.socket}, hookArgs...)}
	b.config["hooks"] = map[string]any{"createRuntime": []any{hook}, "poststop": []any{hook}}
	return b
}

// overHost gives the bundle the host's own root, over which the container writes to a directory of its own. That has the files that are
// given, and this test binary as /program.
func (b *bundle) overHost(t testing.TB, files map[string]string) {
	t.Helper()
	b.over(t, "/", files)
}

// over does the like with another root.
func (b *bundle) over(t testing.TB, lower string, files map[string]string) {
	t.Helper()
	rootfs := filepath.Join(b.dir, "rootfs")
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
	if err := unix.Mount("overlay", rootfs, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
		t.Skipf("machine: no overlay over %s: %v", lower, err)
	}
	t.Cleanup(func() { unix.Unmount(rootfs, unix.MNT_DETACH) })
}

func absProgram(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs(program(t))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// allow gives the container's process capabilities.
func (b *bundle) allow(names []string) {
	sets := map[string]any{}
	for _, set := range []string{"bounding", "effective", "permitted"} {
		sets[set] = names
	}
	b.config["process"].(map[string]any)["capabilities"] = sets
}

func (b *bundle) linux() map[string]any { return b.config["linux"].(map[string]any) }

// with adds namespaces to those of the configuration, or takes some away ("-pid").
func (b *bundle) with(kinds ...string) {
	list := b.linux()["namespaces"].([]any)
	for _, kind := range kinds {
		if gone, is := strings.CutPrefix(kind, "-"); is {
			list = slices.DeleteFunc(list, func(n any) bool { return n.(map[string]any)["type"] == gone })
			continue
		}
		list = slices.DeleteFunc(list, func(n any) bool { return n.(map[string]any)["type"] == kind })
		list = append(list, map[string]any{"type": kind})
		if kind == "user" {
			ids := []any{map[string]any{"containerID": 0, "hostID": guestID, "size": 65536}}
			b.linux()["uidMappings"], b.linux()["gidMappings"] = ids, ids
		}
	}
	b.linux()["namespaces"] = list
	if slices.Contains(kinds, "user") && slices.Contains(kinds, "-pid") { // procfs cannot be mounted anew there
		for _, m := range b.config["mounts"].([]any) {
			if m := m.(map[string]any); m["destination"] == "/proc" {
				m["type"], m["source"], m["options"] = "bind", "/proc", []string{"rbind"}
			}
		}
	}
}

// delegate has the runtime mount the container's cgroups writable: on v2 it may then give them to the container's root, which crun does
// in any case ("Cgroup ownership" in config-linux.md of the OCI runtime specification).
func (b *bundle) delegate() {
	for _, m := range b.config["mounts"].([]any) {
		if m := m.(map[string]any); m["type"] == "cgroup" {
			m["options"] = append(slices.DeleteFunc(m["options"].([]any), func(o any) bool { return o == "ro" }), "rw")
		}
	}
}

func (b *bundle) write(t testing.TB) {
	t.Helper()
	raw, err := json.Marshal(b.config)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, "config.json"), raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// command runs the bundle's container, in the foreground.
func (b *bundle) command(runtime string) *exec.Cmd {
	cmd := exec.Command(runtime, "run", "--bundle", b.dir, b.id)
	return cmd
}

// nothingLeft checks that a daemon has no guest, and no place of one.
func nothingLeft(t testing.TB, d *daemon, h *host.Host, cgroup string) {
	t.Helper()
	var guests []any
	if err := d.call("GET", "/v1/guests", nil, &guests); err != nil || len(guests) > 0 {
		t.Errorf("guests are left: %v, %v", guests, err)
	}
	if left, _ := os.ReadDir(filepath.Join(filepath.Dir(d.socket), "views")); len(left) > 0 {
		t.Errorf("places of views are left: %v", left)
	}
	for _, tree := range h.Hierarchies() {
		if tree.Exists(cgroup) {
			t.Errorf("%s is left in the hierarchy %s", cgroup, tree)
		}
	}
}

// useView has a container's program find its limit of tasks, which it cannot lift, and make a child with one of 5, into which it goes.
func (x *helper) useView(t *testing.T, tree *host.Hierarchy, limit, cgroup string) {
	t.Helper()
	top := topOf(guestView, tree)
	if got := x.ask(t, "read", top+"/pids.max"); got != limit+"\n" {
		t.Errorf("pids.max: %q", got)
	}
	if got := x.ask(t, "write", top+"/pids.max", "max"); got != "EPERM" && got != "EACCES" {
		t.Errorf("root lifts its own limit: %s", got)
	}
	if tree.Version == hierarchy.V2 {
		if got := x.ask(t, "write", top+"/cgroup.subtree_control", "+pids"); got != "ok" {
			t.Errorf("+pids: %s", got)
		}
	}
	if got := x.ask(t, "mkdir", top+"/child"); got != "ok" || !tree.Exists(cgroup+"/child") {
		t.Errorf("mkdir: %s", got)
	}
	if got := x.ask(t, "write", top+"/child/pids.max", "50"); got != "ok" { // Go's runtime needs some for itself
		t.Errorf("a limit of a child: %s", got)
	}
	if got := x.ask(t, "write", top+"/child/cgroup.procs", "0"); got != "ok" {
		t.Errorf("going into a child: %s", got)
	}
}

// TestOCI: a container that a runtime starts with the hook has the view at /sys/fs/cgroup.
func TestOCI(t *testing.T) {
	for _, runtime := range []string{"runc", "crun"} {
		for name, namespaces := range map[string][]string{
			"default": nil, "cgroupns": {"cgroup"}, "userns": {"user", "cgroup"}, "hostpid": {"-pid"}, "userns-hostpid": {"user", "-pid"},
		} {
			t.Run(runtime+"-"+name, func(t *testing.T) { testOCI(t, needRuntime(t, runtime), namespaces) })
		}
	}
}

func testOCI(t *testing.T, runtime string, namespaces []string) {
	h := openHost(t)
	tree := need(t, h, "pids")
	needPlainCrun(t, h, runtime)
	d := startDaemon(t)
	b := newBundle(t, d, runtime, "oci", "commands")
	b.with(namespaces...)
	b.write(t)
	cmd := b.command(runtime)
	cmd.Stderr = os.Stderr
	x := startProcess(t, cmd)
	top := topOf(guestView, tree)
	x.useView(t, tree, "64", b.cgroup)
	if got := strings.Fields(x.ask(t, "read", top+"/child/cgroup.procs")); len(got) != 1 || !slices.Contains(namespaces, "-pid") && got[0] != "1" {
		t.Errorf("who is in the child: %q", got)
	}
	for _, m := range kernelMounts(x.ask(t, "read", "/proc/self/mountinfo")) {
		if got := x.ask(t, "read", m.at+"/cgroup.procs"); !m.readOnly() || strings.HasPrefix(got, "E") {
			t.Errorf("of what the view does not show, or writable, %+v is left: %s", m, got)
		}
	}
	around := "no seccomp filter keeps it from a user namespace"
	if slices.Contains(namespaces, "user") {
		around = "the real cgroups are out of its reach"
	}
	d.wantTry(t, 0, around, "doctor", "--pid", strconv.Itoa(initOf(t, runtime, b)))
	d.signal(t, unix.SIGKILL, 0) // the container does not notice
	if got := x.ask(t, "read", top+"/child/pids.max"); got != "50\n" {
		t.Errorf("after the worker was killed: %q", got)
	}
	x.in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the container ended with %v", err)
	}
	nothingLeft(t, d, h, b.cgroup)
	d.stop(t)
}

// needPlainCrun skips where crun starts no container with no hook either.
func needPlainCrun(t *testing.T, h *host.Host, runtime string) {
	if filepath.Base(runtime) == "crun" && len(h.Hierarchies()) > 1 {
		if v2 := h.Hierarchy(hierarchy.Unified); v2 != nil && len(v2.Controllers) > 0 {
			t.Skip("machine: crun wants v1 or v2, and this host has controllers on both")
		}
	}
}

// TestOCIClosed: without its view no container starts, and nothing is left of it.
func TestOCIClosed(t *testing.T) {
	runtime := needRuntime(t, "runc")
	h := openHost(t)
	d := startDaemon(t)
	for name, c := range map[string]struct {
		args  []string
		spoil func(b *bundle)
		says  string
	}{
		"annotation":    {[]string{"--controllers", "pids"}, func(b *bundle) { b.config["annotations"] = map[string]string{"dev.vcgroupfs.controllers": "memory"} }, "not allowed"},
		"place":         {[]string{"--into", "/nowhere"}, nil, "no such file"},
		"controller":    {[]string{"--controllers", "nonsense"}, nil, "nonsense"},
		"daemon":        {[]string{"--socket", d.dir + "/nobody.sock"}, nil, "daemon"},
		"policy":        {[]string{"--policy", "/nowhere.yaml"}, nil, "nowhere.yaml"},
		"host's cgroup": {nil, func(b *bundle) { b.linux()["cgroupsPath"] = "/" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, d, runtime, "closed", "threads ", c.args...)
			if c.spoil != nil {
				c.spoil(b)
			}
			b.write(t)
			out, err := b.command(runtime).CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.says) {
				t.Errorf("%v: %s; want a failure that says %q", err, out, c.says)
			}
			nothingLeft(t, d, h, b.cgroup)
		})
	}
	d.stop(t)
}

// TestOCIMany: containers that come and go side by side leave nothing behind.
func TestOCIMany(t *testing.T) {
	runtime := needRuntime(t, "runc")
	h := openHost(t)
	need(t, h, "pids")
	d := startDaemon(t)
	many := scaled(t, 50, 10)
	bundles := make([]*bundle, many)
	for i := range bundles {
		bundles[i] = newBundle(t, d, runtime, fmt.Sprint("many", i), "threads ")
		bundles[i].write(t)
	}
	run := func() {
		var all sync.WaitGroup
		for _, b := range bundles {
			all.Go(func() {
				if out, err := b.command(runtime).CombinedOutput(); err != nil {
					t.Errorf("%s: %v: %s", b.id, err, out)
				}
			})
		}
		all.Wait()
	}
	run()
	before := d.used()
	run()
	after := d.used()
	if after.fds > before.fds+4 || after.threads > before.threads+many/2 { // one each would be a leak; Go keeps what a burst needed
		t.Errorf("the daemon had %d descriptors and %d threads, and has %d and %d", before.fds, before.threads, after.fds, after.threads)
	}
	for _, b := range bundles {
		nothingLeft(t, d, h, b.cgroup)
	}
	d.stop(t)
}
