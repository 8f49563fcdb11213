package integration

import (
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

// scripted is what a container that only reads a file and writes a file is told to do with its view, and what it must find.
type scripted struct {
	lines, want []string
}

// viewScript reads and tries the limit of 64 tasks, makes a child and goes into it.
func viewScript(dir string, v2 bool) scripted {
	at := func(op, file string, value ...string) string {
		line := fmt.Sprintf("%s %q", op, filepath.Join(dir, file))
		for _, v := range value {
			line += fmt.Sprintf(" %q", v)
		}
		return line
	}
	s := scripted{}
	add := func(line, want string) { s.lines, s.want = append(s.lines, line), append(s.want, want) }
	if v2 {
		add(at("write", "cgroup.subtree_control", "+pids"), "=ok")
	}
	add(at("read", "pids.max"), `="64\n"`)
	add(at("write", "pids.max", "max"), "=EPERM")
	add(at("mkdir", "child"), "=ok")
	add(at("write", "child/pids.max", "50"), "=ok")
	add(at("write", "child/cgroup.procs", "0"), "=ok")
	return s
}

// unifiedScript does the like with what every cgroup of v2 has.
func unifiedScript(dir string) scripted {
	q := func(op, file, value string) string {
		return fmt.Sprintf("%s %q %q", op, filepath.Join(dir, file), value)
	}
	return scripted{
		[]string{q("read", "cgroup.max.depth", ""), q("write", "cgroup.max.depth", "1"), q("mkdir", "child", ""), q("write", "child/cgroup.max.depth", "3"), q("write", "child/cgroup.procs", "0")},
		[]string{`="max\n"`, "=EPERM", "=ok", "=ok", "=ok"},
	}
}

// put writes the script into a root file system.
func (s scripted) put(t testing.TB, rootfs string) {
	t.Helper()
	for file, text := range map[string]string{"in": strings.Join(append(s.lines, `read "/proc/self/mountinfo"`), "\n") + "\n", "out": ""} {
		path := filepath.Join(rootfs, file)
		err := os.WriteFile(path, []byte(text), 0o666)
		if err == nil {
			err = os.Chmod(path, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// check compares what the container wrote, and looks for real cgroups among its mounts that it could write to. said is what its runtime said.
func (s scripted) check(t testing.TB, rootfs string, said []byte) {
	t.Helper()
	got := strings.Split(strings.TrimSpace(readFile(filepath.Join(rootfs, "out"))), "\n")
	if len(got) != len(s.want)+1 || !slices.Equal(got[:len(s.want)], s.want) {
		t.Errorf("in the container: got %q, want %q; it was said: %s", got, s.want, said)
		return
	}
	mounts, err := strconv.Unquote(strings.TrimPrefix(got[len(s.want)], "="))
	if err != nil || !strings.Contains(mounts, " /sys/fs/cgroup ") {
		t.Errorf("what is mounted in the container: %s, %v", mounts, err)
	}
	for _, m := range kernelMounts(mounts) {
		if !m.readOnly() {
			t.Errorf("real cgroups that can be written to are mounted in the container: %+v", m)
		}
	}
}

// TestPodman: the same hook, for the containers that ask for it: by a file of podman's hooks directory and an annotation, or as a
// device that CDI describes.
func TestPodman(t *testing.T) {
	podman, err := exec.LookPath("podman")
	if err != nil {
		t.Skip("machine: podman is not installed")
	}
	needRuntime(t, "runc")
	t.Run("hooks", func(t *testing.T) {
		testPodman(t, podman, func(d *daemon) (before, of []string) {
			dir := t.TempDir()
			ours(t, d, "../packaging/runtimes/vcgroupfs.json", filepath.Join(dir, "vcgroupfs.json"), "")
			return []string{"--hooks-dir", dir}, []string{"--annotation", "dev.vcgroupfs=true", "--annotation", "dev.vcgroupfs.controllers=memory+pids"}
		})
	})
	t.Run("cdi", func(t *testing.T) {
		testPodman(t, podman, func(d *daemon) (before, of []string) {
			return nil, []string{"--device", ourDevices(t, d, podmanCDI) + "=view"}
		})
	})
}

// podmanCDI is where podman looks for devices beside /etc/cdi.
const podmanCDI = "/var/run/cdi"

// ourDevices puts the packaged devices into a directory, with more options for their hooks, and says of what kind they are.
func ourDevices(t *testing.T, d *daemon, dir string, options ...string) (kind string) {
	t.Helper()
	kind = "test-" + strconv.Itoa(os.Getpid()) + ".vcgroupfs.dev/cgroup"
	if err := os.Mkdir(dir, 0o755); err == nil {
		t.Cleanup(func() { os.Remove(dir) })
	}
	file := filepath.Join(dir, "vcgroupfs-test-"+strconv.Itoa(os.Getpid())+".json")
	ours(t, d, "../packaging/runtimes/cdi.json", file, kind, options...)
	t.Cleanup(func() { os.Remove(file) })
	return kind
}

// ours copies a packaged file, with this test's program and daemon instead of the installed ones.
func ours(t *testing.T, d *daemon, from, to, kind string, options ...string) {
	t.Helper()
	text := readFile(from)
	args := `"hook", "oci"`
	for _, o := range append([]string{"--socket", d.socket}, options...) {
		args += ", " + strconv.Quote(o)
	}
	for _, change := range [][2]string{
		{`"/usr/bin/vcgroupfs"`, strconv.Quote(absProgram(t))}, {`"hook", "oci"`, args}, {"vcgroupfs.dev/cgroup", kind},
		{"/run/vcgroupfs/serve/self", d.self()},
	} {
		if change[1] != "" {
			text = strings.ReplaceAll(text, change[0], change[1])
		}
	}
	if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func testPodman(t *testing.T, podman string, configure func(d *daemon) (before, of []string)) {
	d := startDaemon(t)
	before, of := configure(d)
	testPodmanWith(t, podman, d, before, of)
}

// testPodmanWith runs a container with options before and after "run".
func testPodmanWith(t *testing.T, podman string, d *daemon, before, of []string) {
	h := openHost(t)
	tree := need(t, h, "pids")
	dir := publicDir(t)
	rootfs := newRootfs(t, filepath.Join(dir, "rootfs"))
	s := viewScript(topOf(guestView, tree), tree.Version == hierarchy.V2)
	s.put(t, rootfs)
	out, err := newPodman(t, h, podman).run("script", rootfs, before, append(of, "--pids-limit", "64")).CombinedOutput()
	if err != nil {
		t.Fatalf("podman: %v: %s", err, out)
	}
	s.check(t, rootfs, out)
	if exists(d.self()) { // guests of self go by themselves; a hook has seen to it
		d.wantNone(t)
	}
	nothingLeft(t, d, h, "/no-cgroup-of-ours")
	d.stop(t)
}

// podman is one with a store of its own.
type podman struct {
	program, parent string   // the parent of its containers' cgroups
	global          []string // options
}

func newPodman(t *testing.T, h *host.Host, program string) *podman {
	t.Helper()
	store, err := os.MkdirTemp("", "podman-") // its paths must be short
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{program, "/vcgroupfs-test-" + strconv.Itoa(os.Getpid()) + "-podman", []string{"--root", store + "/root", "--runroot", store + "/run",
		"--tmpdir", store + "/tmp", "--cgroup-manager", "cgroupfs", "--runtime", "runc", "--events-backend", "none"}}
	removeEverywhere(t, h, p.parent)
	t.Cleanup(func() {
		exec.Command(program, append(p.global, "rm", "--all", "--force")...).Run()
		unix.Unmount(store+"/root/overlay", unix.MNT_DETACH)
		if err := os.RemoveAll(store); err != nil {
			t.Error(err)
		}
	})
	return p
}

// run is the command that runs a container whose program plays a role. before are options of podman, of are those of its run.
func (p *podman) run(role, rootfs string, before, of []string) *exec.Cmd {
	return exec.Command(p.program, slices.Concat(p.global, before, []string{"run", "--rm", "--network", "none", "--cgroup-parent", p.parent,
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--env", roleVariable + "=" + role}, of, []string{"--rootfs", rootfs, "/program"})...)
}

// startManager starts a manager of containers of the test's own, which has all that it has in a directory, and the cgroups of its containers
// below one. At the end nothing of it is left.
func startManager(t *testing.T, h *host.Host, cmd *exec.Cmd, dir, cgroup string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	for _, shared := range []string{"/run/containerd", "/run/containerd/s", "/run/docker", "/run/docker/plugins"} { // wherever it is told to have its own
		if !exists(shared) {
			made = append(made, shared)
		}
	}
	removeEverywhere(t, h, cgroup)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(readFile(log.Name()))
		}
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		log.Close()
		killAllOf(t, dir) // a test that failed leaves containers, which outlive it
		for _, path := range slices.Backward(made) {
			os.Remove(path)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

// newLayer makes the archive of a root file system that has this test binary as /program, for an image.
func newLayer(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "layer.tar")
	if out, err := exec.Command("tar", "-C", newRootfs(t, filepath.Join(dir, "rootfs")), "-cf", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return file
}

// killAllOf ends the processes whose command line names a directory.
func killAllOf(t *testing.T, dir string) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			if strings.Contains(readFile(file), dir+"/") {
				t.Errorf("process %d is left: %q", pid, readFile(file))
				unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
			unix.Close(fd)
		}
	}
}

// removeEverywhere removes a cgroup from all hierarchies at the end, after what is cleaned up from here on: nspawn makes the one that it is in
// also for systemd.
func removeEverywhere(t *testing.T, h *host.Host, path string) {
	t.Cleanup(func() {
		for _, tree := range h.Hierarchies() {
			if err := tree.RemoveAll(path); err != nil {
				t.Error(err)
			}
		}
	})
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
	h := openHost(t)
	tree, controller := need(t, h, "pids"), "pids"
	if form == "systemd-nspawn" { // it wants v2, whatever is in it
		tree, controller = need(t, h, hierarchy.Unified), hierarchy.Unified
	}
	path := boundary(t, "bind", tree)
	d, view := (*daemon)(nil), ""
	if self {
		d = startSelf(t, "--self-controllers", controller)
		view = d.self()
	} else {
		d = startDaemon(t)
		d.wantTry(t, 0, "views/box", "guest", "add", "box", "--boundary", path, "--controllers", controller)
		view = filepath.Join(filepath.Dir(d.socket), "views", "box")
	}
	removeEverywhere(t, h, path)
	dir := publicDir(t)
	rootfs := newRootfs(t, filepath.Join(dir, "rootfs"))
	s := unifiedScript(guestView)
	if controller == "pids" {
		s = viewScript(topOf(guestView, tree), tree.Version == hierarchy.V2)
		if err := tree.WriteFile(path, "pids.max", "64"); err != nil {
			t.Fatal(err)
		}
	}
	s.put(t, rootfs)
	command := map[string][]string{
		"bwrap": {sandbox, "--bind", rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/sys/fs", "--bind", view, "/sys/fs/cgroup",
			"--unshare-pid", "--unshare-cgroup-try", "--setenv", roleVariable, "script", "/program"},
		"systemd-nspawn": {sandbox, "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--directory", rootfs, "--bind", view + ":/sys/fs/cgroup",
			"--setenv", roleVariable + "=script", "/program"},
	}[form]
	start := within(path, []*host.Hierarchy{tree}, command...) // whoever starts a sandbox says where it is
	start.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	out, err := start.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", form, err, out)
	}
	s.check(t, rootfs, out)
	if self {
		d.wantOne(t, path, "0:0")
	} else {
		d.wantTry(t, 0, "", "guest", "rm", "box")
	}
	d.stop(t)
	if exists(view) {
		t.Errorf("%s is left", view)
	}
}
