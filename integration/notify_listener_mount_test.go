package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// inUserns gives a bundle's container a user namespace and all that its root can have there.
func inUserns(t testing.TB) func(b *kit.Bundle) {
	return func(b *kit.Bundle) {
		b.WithNamespaces("user", "cgroup")
		b.Allow(kit.AllCapabilities(t))
	}
}

// TestListenerMount: what a guest mounts as cgroup or cgroup2 is its own view, rooted at the cgroup namespace of who
// mounts it; what it may not mount has the kernel's errno.
func TestListenerMount(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	c := kit.StartListened(t, d, "mount", func(b *kit.Bundle) {
		inUserns(t)(b)
		hidden := filepath.Join(b.Dir, "rootfs/hidden") // its root, who is none of the container's users, alone may search it
		if err := errors.Join(os.Mkdir(hidden, 0o700), os.Mkdir(hidden+"/at", 0o755), os.WriteFile(hidden+"/file", nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	})
	kind, options, right := "cgroup", strings.Join(c.Hierarchy.Controllers, ","), kit.CgroupType
	if c.Hierarchy.Version == hierarchy.V2 {
		kind, options, right = "cgroup2", "", kit.Cgroup2Type
	}
	want := func(want string, op string, args ...string) {
		t.Helper()
		if got := c.Ask(t, op, args...); got != want {
			t.Errorf("%s %q: %q, want %q", op, args, got, want)
		}
	}
	want("ok", "mkdir", "/tmp/m")
	want("ENOSYS", "fsopen", kind)
	want("ok", "mount", "/tmp/m", kind, options)
	want(right, "type", "/tmp/m")
	want("64\n", "read", "/tmp/m/pids.max")
	want("EPERM", "write", "/tmp/m/pids.max", "max")
	want("ok", "mkdir", "/tmp/m/kid")
	if !c.Hierarchy.Exists(c.Bundle.Cgroup + "/kid") {
		t.Error("a cgroup that was made in the mount is not in the guest's own")
	}
	want("EBUSY", "mount", "/tmp/m", kind, options)
	for _, refused := range []struct{ errno, kind, options string }{
		{"EINVAL", "cgroup", "nonsense"}, {"EPERM", "cgroup", "none,name=brandnew"}, {"EINVAL", "cgroup", "none," + options},
		{"EINVAL", "cgroup2", "nonsense"},
	} {
		if c.Hierarchy.Version == hierarchy.V2 && refused.kind == "cgroup" && refused.errno == "EPERM" {
			continue // where there is no v1 the kernel's say depends on the release agent
		}
		want(refused.errno, "mount", "/tmp", refused.kind, refused.options)
	}
	want("ENOENT", "mount", "/nowhere", kind, options)
	for _, path := range []string{"/hidden/at", "/hidden/file", "/hidden/none", "/hidden/at/../../tmp/m"} {
		want("EACCES", "mount", path, kind, options)
		want("EACCES", "type", path)
	}
	want("EACCES", "type", "/hidden/at/../.."+kit.GuestView)
	want("EACCES", "type", "/hidden/none/../.."+kit.GuestView)
	want("ok", "mkdir", "/tmp/m2")
	want("ok", "mount", "/tmp/m2", "tmpfs", "") // which is none of the daemon's business
	want(kit.TmpfsType, "type", "/tmp/m2")
	mountNested(t, c, kind, options)
	var shown struct {
		Calls struct{ Listeners, Answered, PassedOn uint64 }
	}
	if err := d.Call("GET", "/v1/guests/"+c.Bundle.ID, nil, &shown); err != nil {
		t.Fatal(err)
	}
	if n := shown.Calls; n.Listeners != 1 || n.Answered < 8 || n.PassedOn == 0 {
		t.Errorf("the daemon counts %+v", n)
	}
	c.End(t)
	kit.WantNothingLeft(t, d, c.Host, c.Bundle.Cgroup)
	d.Stop(t)
}

// mountNested mounts in a cgroup namespace that begins further down.
func mountNested(t *testing.T, c *kit.Listened, kind, options string) {
	t.Helper()
	steps := [][]string{
		{"write", "/tmp/m/kid/pids.max", "50"}, {"write", "/tmp/m/kid/cgroup.procs", "0"}, {"unshare-cgroup"}, {"mkdir", "/tmp/n"},
		{"mount", "/tmp/n", kind, options},
	}
	if c.Hierarchy.Version == hierarchy.V2 {
		steps = append([][]string{{"write", "/tmp/m/cgroup.subtree_control", "+pids"}}, steps...)
	}
	for _, step := range steps {
		if got := c.Ask(t, step[0], step[1:]...); got != "ok" {
			t.Fatalf("%q: %s", step, got)
		}
	}
	if got := c.Ask(t, "read", "/tmp/n/pids.max"); got != "50\n" {
		t.Errorf("the mount of a nested namespace has pids.max %q, want that of its root", got)
	}
	if got := c.Ask(t, "mkdir", "/tmp/n/grandkid"); got != "ok" || !c.Hierarchy.Exists(c.Bundle.Cgroup+"/kid/grandkid") {
		t.Errorf("mkdir there: %s", got)
	}
}

// TestListenerMountRefused: who may not mount is told so.
func TestListenerMountRefused(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	c := kit.StartListened(t, d, "norights", nil)
	for _, options := range []string{"pids", "memory", "none,name=systemd"} {
		if got := c.Ask(t, "mount", "/tmp", "cgroup", options); got != "EPERM" {
			t.Errorf("mount of %s without CAP_SYS_ADMIN: %s", options, got)
		}
	}
	if got := c.Ask(t, "fsopen", "cgroup2"); got != "EPERM" {
		t.Errorf("fsopen without CAP_SYS_ADMIN: %s", got)
	}
	c.End(t)
	d.Stop(t)
}

// TestListenerHung: a guest's file system that never answers keeps nobody else waiting, and not the next process that
// answers.
func TestListenerHung(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	hung := kit.StartListened(t, d, "hung", func(b *kit.Bundle) {
		b.Allow(kit.AllCapabilities(t))
		b.Linux()["resources"] = map[string]any{"devices": []any{map[string]any{"allow": true, "access": "rwm"}}}
		b.Config["mounts"] = append(b.Config["mounts"].([]any), map[string]any{
			"destination": "/dev/fuse", "source": "/dev/fuse", "type": "bind", "options": []string{"bind"},
		})
	})
	other := kit.StartListened(t, d, "other", nil)
	at := kit.TopOf(kit.GuestView, other.Hierarchy)
	right := map[string]string{at: kit.ViewTypes(other.Hierarchy)[at]}
	for _, step := range [][]string{{"mkdir", "/tmp/dead"}, {"deadfuse", "/tmp/dead"}, {"hang", "/tmp/dead/x"}} {
		if got := hung.Ask(t, step[0], step[1:]...); got != "ok" {
			t.Fatalf("%q: %s", step, got)
		}
	}
	for range 2 {
		for range 20 {
			other.WantTypes(t, right)
		}
		d.KillAnswerer(t, 0)
	}
	other.WantTypes(t, right)
	if got := hung.Ask(t, "type", "/proc"); got != kit.ProcType {
		t.Errorf("in the container itself: %s", got)
	}
	other.End(t)
	hung.In.Close()
	if err := hung.Run.Wait(); err != nil {
		t.Logf("the container with the dead file system ended with %v", err)
	}
	d.Stop(t)
}

// TestListenerForged: who is not the host's root, or is in a guest, hands over no listener; nor does who sends
// nonsense.
func TestListenerForged(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	c := kit.StartListened(t, d, "forged", nil)
	at := kit.TopOf(kit.GuestView, c.Hierarchy)
	c.WantTypes(t, map[string]string{at: kit.ViewTypes(c.Hierarchy)[at]})
	forge(t, d, "from inside a guest", "is in a guest", func() string {
		return strings.TrimSpace(kit.PrintedBy(t, kit.CommandWithin(c.Bundle.Cgroup, c.Host.Hierarchies(), kit.PublicProgram(t)), "forge "+d.ListenerSocket()))
	})
	kit.AsUser(kit.GuestID, func() {
		if got := forgeAt(d.ListenerSocket(), "{}"); got != "EACCES" {
			t.Errorf("as another user: %s", got)
		}
	})
	for _, text := range []string{
		"", "{}", "nonsense", `{"fds":["seccompFd"],"state":{"id":"x","pid":1}}`, `{"state":{"id":"x"}}` + strings.Repeat(" ", 70000),
	} {
		if got := forgeAt(d.ListenerSocket(), text); got != "closed" {
			t.Errorf("%.40q: %s", text, got)
		}
	}
	c.WantTypes(t, map[string]string{at: kit.ViewTypes(c.Hierarchy)[at]})
	c.End(t)
	d.Stop(t)
}

// forge has somebody try, and looks for what the daemon says of it.
func forge(t *testing.T, d *kit.Daemon, who, says string, try func() string) {
	t.Helper()
	if got := try(); got != "closed" {
		t.Errorf("%s: %s", who, got)
	}
	d.WantLog(t, says)
}

// playForge hands over a listener that it has not.
func playForge(socket string) { fmt.Println(forgeAt(socket, "{}")) }

// forgeAt connects to a socket for listeners, sends a state without one, and says what came of it.
func forgeAt(socket, text string) string {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return kit.Word(err)
	}
	defer c.Close()
	_, err = c.Write([]byte(text))
	if text == "" {
		err = c.(*net.UnixConn).CloseWrite()
	}
	if errors.Is(err, unix.EPIPE) {
		return "closed"
	}
	if err != nil {
		return kit.Word(err)
	}
	c.SetReadDeadline(time.Now().Add(kit.Patience))
	if n, err := c.Read(make([]byte, 1)); n > 0 || os.IsTimeout(err) {
		return "heard"
	}
	return "closed"
}
