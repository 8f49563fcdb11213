package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// lxcIDs put a container into a user namespace.
var lxcIDs = fmt.Sprintf("lxc.idmap = u 0 %[1]d 65536\nlxc.idmap = g 0 %[1]d 65536\n", guestID)

// TestLXC: a container of LXC that is configured with the hook, or with self, has the view at /sys/fs/cgroup.
func TestLXC(t *testing.T) {
	if _, err := exec.LookPath("lxc-start"); err != nil {
		t.Skip("machine: lxc-start is not installed")
	}
	for name, idmap := range map[string]string{"privileged": "", "idmap": lxcIDs} {
		t.Run(name, func(t *testing.T) { testLXC(t, idmap, false) })
		t.Run(name+"-self", func(t *testing.T) { testLXC(t, idmap, true) })
	}
}

func testLXC(t *testing.T, idmap string, self bool) {
	h := openHost(t)
	tree := need(t, h, "pids")
	rootfs := newRootfs(t, filepath.Join(publicDir(t), "rootfs"))
	s := viewScript(topOf(guestView, tree), tree.Version == hierarchy.V2)
	limit := "lxc.cgroup.pids.max = 64\n"
	if tree.Version == hierarchy.V2 {
		limit = "lxc.cgroup2.pids.max = 64\n"
	}
	var d *daemon
	var how string
	if self {
		d = startSelf(t, "--container", "/lxc.payload."+testPrefix+"*")
		how = lxcSelf(d)
	} else {
		d = startDaemon(t)
		how = lxcHook(t, d, "--proc-cgroups")
		s.lines, s.want = append(s.lines, `write "/proc/cgroups" "x"`), append(s.want, "=EROFS") // it is the view's, not the kernel's
	}
	s.put(t, rootfs)
	cmd := newLXC(t, h, rootfs, "script", limit+idmap+how)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("lxc-start: %v: %s", err, out)
	}
	s.check(t, rootfs, out)
	if self {
		d.wantNone(t)
	}
	nothingLeft(t, d, h, "/lxc.payload."+lxcName())
	d.stop(t)
}

// lxcSelf is the configuration of a container that has self.
func lxcSelf(d *daemon) string {
	return "lxc.mount.auto = proc:mixed sys:mixed\nlxc.mount.entry = " + d.self() + " sys/fs/cgroup none bind 0 0\n"
}

// lxcHook is the configuration of a container with the hook of a daemon.
func lxcHook(t *testing.T, d *daemon, args ...string) string {
	t.Helper()
	hook := strings.Join(append([]string{absProgram(t), "hook lxc --socket", d.socket}, args...), " ")
	return "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\nlxc.hook.version = 1\nlxc.hook.start-host = " + hook + "\nlxc.hook.post-stop = " + hook + "\n"
}

func lxcName() string { return testPrefix + "lxc" }

// newLXC is the command that runs a container whose program plays a role, with more lines of configuration.
func newLXC(t *testing.T, h *host.Host, rootfs, role, more string) *exec.Cmd {
	t.Helper()
	dir, name := publicDir(t), lxcName()
	pivots := map[*host.Hierarchy]bool{}
	for _, tree := range h.Hierarchies() {
		pivots[tree] = tree.Exists("/lxc.pivot")
	}
	config := "lxc.rootfs.path = dir:" + rootfs + "\nlxc.net.0.type = empty\nlxc.apparmor.profile = unconfined\nlxc.init.cmd = /program\n" +
		"lxc.environment = " + roleVariable + "=" + role + "\n" + more
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	kill := func() { exec.Command("lxc-stop", "--kill", "--name", name, "--lxcpath", dir).Run() }
	timer := time.AfterFunc(patience, kill)
	t.Cleanup(func() {
		timer.Stop()
		kill() // of a test that failed
		os.Remove(filepath.Join(dir, "config"))
		os.RemoveAll(filepath.Join(dir, name))
		for _, tree := range h.Hierarchies() { // LXC's own
			if err := tree.RemoveAll("/lxc.monitor." + name); err != nil {
				t.Error(err)
			}
			if !pivots[tree] {
				tree.RemoveAll("/lxc.pivot") // another container may be using it
			}
		}
	})
	return exec.Command("lxc-start", "--foreground", "--name", name, "--rcfile", filepath.Join(dir, "config"), "--lxcpath", dir,
		"--logfile", "/dev/stderr", "--logpriority", "ERROR")
}
