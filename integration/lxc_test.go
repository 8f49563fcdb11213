package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestLXC: a container of LXC that is configured with the hook has the view at /sys/fs/cgroup.
func TestLXC(t *testing.T) {
	if _, err := exec.LookPath("lxc-start"); err != nil {
		t.Skip("machine: lxc-start is not installed")
	}
	for name, idmap := range map[string]string{"privileged": "", "idmap": fmt.Sprintf("lxc.idmap = u 0 %[1]d 65536\nlxc.idmap = g 0 %[1]d 65536\n", guestID)} {
		t.Run(name, func(t *testing.T) { testLXC(t, idmap) })
	}
}

func testLXC(t *testing.T, idmap string) {
	h := openHost(t)
	tree := need(t, h, "pids")
	pivots := map[string]bool{}
	for _, tree := range h.Trees() {
		pivots[tree.String()] = tree.Exists("/lxc.pivot")
	}
	d := startDaemon(t)
	dir := publicDir(t)
	name := "vcgroupfs-test-" + itoa(os.Getpid()) + "-lxc"
	rootfs := newRootfs(t, filepath.Join(dir, "rootfs"))
	t.Cleanup(func() { os.RemoveAll(filepath.Join(dir, name)) })
	s := viewScript(topOf(guestView, tree), tree.Version == hierarchy.V2)
	s.lines, s.want = append(s.lines, `write "/proc/cgroups" "x"`), append(s.want, "=EROFS") // it is the view's, not the kernel's
	s.put(t, rootfs)
	hook := absProgram(t) + " hook lxc --proc-cgroups --socket " + d.socket
	limit := "lxc.cgroup.pids.max = 64\n"
	if tree.Version == hierarchy.V2 {
		limit = "lxc.cgroup2.pids.max = 64\n"
	}
	config := "lxc.rootfs.path = dir:" + rootfs + "\nlxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\nlxc.net.0.type = empty\n" +
		"lxc.apparmor.profile = unconfined\nlxc.init.cmd = /program\nlxc.environment = " + roleVariable + "=script\n" + limit + idmap +
		"lxc.hook.version = 1\nlxc.hook.start-host = " + hook + "\nlxc.hook.post-stop = " + hook + "\n"
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(filepath.Join(dir, "config")) })
	cmd := exec.Command("lxc-start", "--foreground", "--name", name, "--rcfile", filepath.Join(dir, "config"), "--lxcpath", dir, "--logfile", "/dev/stderr", "--logpriority", "ERROR")
	timer := time.AfterFunc(patience, func() { exec.Command("lxc-stop", "--kill", "--name", name, "--lxcpath", dir).Run() })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("lxc-start: %v: %s", err, out)
	}
	s.check(t, rootfs, out)
	nothingLeft(t, d, h, "/lxc.payload."+name)
	for _, tree := range h.Trees() { // LXC's own
		if err := tree.RemoveAll("/lxc.monitor." + name); err != nil {
			t.Error(err)
		}
		if !pivots[tree.String()] {
			tree.RemoveAll("/lxc.pivot") // another container may be using it
		}
	}
	d.stop(t)
}
