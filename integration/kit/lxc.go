package kit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// LXCIDs put a container into a user namespace.
var LXCIDs = fmt.Sprintf("lxc.idmap = u 0 %[1]d 65536\nlxc.idmap = g 0 %[1]d 65536\n", GuestID)

// LXCSelf is the configuration of a container that has self.
func LXCSelf(d *Daemon) string {
	return "lxc.mount.auto = proc:mixed sys:mixed\nlxc.mount.entry = " + d.Self() + " sys/fs/cgroup none bind 0 0\n"
}

// LXCHook is the configuration of a container with the hook of a daemon.
func LXCHook(t *testing.T, d *Daemon, args ...string) string {
	t.Helper()
	hook := strings.Join(append([]string{AbsProgram(t), "hook lxc --socket", d.Socket}, args...), " ")
	return "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\nlxc.hook.version = 1\nlxc.hook.start-host = " + hook +
		"\nlxc.hook.post-stop = " + hook + "\n"
}

// LXCName is the name of the container.
func LXCName() string { return Prefix + "lxc" }

// NewLXC is the command that runs a container whose program plays a role, with more lines of configuration.
func NewLXC(t *testing.T, h *host.Host, rootfs, role, more string) *exec.Cmd {
	t.Helper()
	dir, name := PublicDir(t), LXCName()
	pivots := map[*host.Hierarchy]bool{}
	for _, hier := range h.Hierarchies() {
		pivots[hier] = hier.Exists("/lxc.pivot")
	}
	config := "lxc.rootfs.path = dir:" + rootfs +
		"\nlxc.net.0.type = empty\nlxc.apparmor.profile = unconfined\nlxc.init.cmd = /program\n" +
		"lxc.environment = " + RoleVariable + "=" + role + "\n" + more
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	kill := func() { exec.Command("lxc-stop", "--kill", "--name", name, "--lxcpath", dir).Run() }
	timer := time.AfterFunc(Patience, kill)
	t.Cleanup(func() {
		timer.Stop()
		kill() // of a test that failed
		os.Remove(filepath.Join(dir, "config"))
		os.RemoveAll(filepath.Join(dir, name))
		for _, hier := range h.Hierarchies() { // LXC's own
			if err := hier.RemoveAll("/lxc.monitor." + name); err != nil {
				t.Error(err)
			}
			if !pivots[hier] {
				hier.RemoveAll("/lxc.pivot") // another container may be using it
			}
		}
	})
	return exec.Command("lxc-start", "--foreground", "--name", name, "--rcfile", filepath.Join(dir, "config"),
		"--lxcpath", dir,
		"--logfile", "/dev/stderr", "--logpriority", "ERROR")
}
