package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// inUserns gives a bundle's container a user namespace and all that its root can have there.
func inUserns(t testing.TB) func(b *bundle) {
	return func(b *bundle) {
		b.with("user", "cgroup")
		b.allow(allCapabilities(t))
	}
}

// TestListenerMount: what a guest mounts as cgroup or cgroup2 is its own view, rooted at the cgroup namespace of who
// mounts it; what it may not mount has the kernel's errno.
func TestListenerMount(t *testing.T) {
	d := startUnaided(t)
	c := startListening(t, d, "mount", func(b *bundle) {
		inUserns(t)(b)
		hidden := filepath.Join(b.dir, "rootfs/hidden") // its root, who is none of the container's users, alone may search it
		if err := errors.Join(os.Mkdir(hidden, 0o700), os.Mkdir(hidden+"/at", 0o755), os.WriteFile(hidden+"/file", nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	})
	kind, options, right := "cgroup", strings.Join(c.tree.Controllers, ","), cgroupType
	if c.tree.Version == hierarchy.V2 {
		kind, options, right = "cgroup2", "", cgroup2Type
	}
	want := func(want string, op string, args ...string) {
		t.Helper()
		if got := c.ask(t, op, args...); got != want {
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
	if !c.tree.Exists(c.bundle.cgroup + "/kid") {
		t.Error("a cgroup that was made in the mount is not in the guest's own")
	}
	want("EBUSY", "mount", "/tmp/m", kind, options)
	for _, refused := range []struct{ errno, kind, options string }{
		{"EINVAL", "cgroup", "nonsense"}, {"EPERM", "cgroup", "none,name=brandnew"}, {"EINVAL", "cgroup", "none," + options},
		{"EINVAL", "cgroup2", "nonsense"},
	} {
		if c.tree.Version == hierarchy.V2 && refused.kind == "cgroup" && refused.errno == "EPERM" {
			continue // where there is no v1 the kernel's say depends on the release agent
		}
		want(refused.errno, "mount", "/tmp", refused.kind, refused.options)
	}
	want("ENOENT", "mount", "/nowhere", kind, options)
	for _, path := range []string{"/hidden/at", "/hidden/file", "/hidden/none", "/hidden/at/../../tmp/m"} {
		want("EACCES", "mount", path, kind, options)
		want("EACCES", "type", path)
	}
	want("EACCES", "type", "/hidden/at/../.."+guestView)
	want("EACCES", "type", "/hidden/none/../.."+guestView)
	want("ok", "mkdir", "/tmp/m2")
	want("ok", "mount", "/tmp/m2", "tmpfs", "") // which is none of the daemon's business
	want(tmpfsType, "type", "/tmp/m2")
	mountNested(t, c, kind, options)
	var shown struct {
		Calls struct{ Listeners, Answered, PassedOn uint64 }
	}
	if err := d.call("GET", "/v1/guests/"+c.bundle.id, nil, &shown); err != nil {
		t.Fatal(err)
	}
	if n := shown.Calls; n.Listeners != 1 || n.Answered < 8 || n.PassedOn == 0 {
		t.Errorf("the daemon counts %+v", n)
	}
	c.end(t)
	nothingLeft(t, d, c.h, c.bundle.cgroup)
	d.stop(t)
}

// mountNested mounts in a cgroup namespace that begins further down.
func mountNested(t *testing.T, c *listening, kind, options string) {
	t.Helper()
	steps := [][]string{
		{"write", "/tmp/m/kid/pids.max", "50"}, {"write", "/tmp/m/kid/cgroup.procs", "0"}, {"unshare-cgroup"}, {"mkdir", "/tmp/n"},
		{"mount", "/tmp/n", kind, options},
	}
	if c.tree.Version == hierarchy.V2 {
		steps = append([][]string{{"write", "/tmp/m/cgroup.subtree_control", "+pids"}}, steps...)
	}
	for _, step := range steps {
		if got := c.ask(t, step[0], step[1:]...); got != "ok" {
			t.Fatalf("%q: %s", step, got)
		}
	}
	if got := c.ask(t, "read", "/tmp/n/pids.max"); got != "50\n" {
		t.Errorf("the mount of a nested namespace has pids.max %q, want that of its root", got)
	}
	if got := c.ask(t, "mkdir", "/tmp/n/grandkid"); got != "ok" || !c.tree.Exists(c.bundle.cgroup+"/kid/grandkid") {
		t.Errorf("mkdir there: %s", got)
	}
}

// TestListenerMountRefused: who may not mount is told so.
func TestListenerMountRefused(t *testing.T) {
	d := startUnaided(t)
	c := startListening(t, d, "norights", nil)
	for _, options := range []string{"pids", "memory", "none,name=systemd"} {
		if got := c.ask(t, "mount", "/tmp", "cgroup", options); got != "EPERM" {
			t.Errorf("mount of %s without CAP_SYS_ADMIN: %s", options, got)
		}
	}
	if got := c.ask(t, "fsopen", "cgroup2"); got != "EPERM" {
		t.Errorf("fsopen without CAP_SYS_ADMIN: %s", got)
	}
	c.end(t)
	d.stop(t)
}

// TestListenerHung: a guest's file system that never answers keeps nobody else waiting, and not the next process that
// answers.
func TestListenerHung(t *testing.T) {
	d := startUnaided(t)
	hung := startListening(t, d, "hung", func(b *bundle) {
		b.allow(allCapabilities(t))
		b.linux()["resources"] = map[string]any{"devices": []any{map[string]any{"allow": true, "access": "rwm"}}}
		b.config["mounts"] = append(b.config["mounts"].([]any), map[string]any{
			"destination": "/dev/fuse", "source": "/dev/fuse", "type": "bind", "options": []string{"bind"},
		})
	})
	other := startListening(t, d, "other", nil)
	at := topOf(guestView, other.tree)
	right := map[string]string{at: viewTypes(other.tree)[at]}
	for _, step := range [][]string{{"mkdir", "/tmp/dead"}, {"deadfuse", "/tmp/dead"}, {"hang", "/tmp/dead/x"}} {
		if got := hung.ask(t, step[0], step[1:]...); got != "ok" {
			t.Fatalf("%q: %s", step, got)
		}
	}
	for range 2 {
		for range 20 {
			other.wantTypes(t, right)
		}
		d.killAnswerer(t, 0)
	}
	other.wantTypes(t, right)
	if got := hung.ask(t, "type", "/proc"); got != procType {
		t.Errorf("in the container itself: %s", got)
	}
	other.end(t)
	hung.in.Close()
	if err := hung.run.Wait(); err != nil {
		t.Logf("the container with the dead file system ended with %v", err)
	}
	d.stop(t)
}

// TestListenerForged: who is not the host's root, or is in a guest, hands over no listener; nor does who sends
// nonsense.
func TestListenerForged(t *testing.T) {
	d := startUnaided(t)
	c := startListening(t, d, "forged", nil)
	at := topOf(guestView, c.tree)
	c.wantTypes(t, map[string]string{at: viewTypes(c.tree)[at]})
	forge(t, d, "from inside a guest", "is in a guest", func() string {
		return strings.TrimSpace(printedBy(t, within(c.bundle.cgroup, c.h.Hierarchies(), publicProgram(t)), "forge "+d.listeners()))
	})
	asUser(guestID, func() {
		if got := forgeAt(d.listeners(), "{}"); got != "EACCES" {
			t.Errorf("as another user: %s", got)
		}
	})
	for _, text := range []string{
		"", "{}", "nonsense", `{"fds":["seccompFd"],"state":{"id":"x","pid":1}}`, `{"state":{"id":"x"}}` + strings.Repeat(" ", 70000),
	} {
		if got := forgeAt(d.listeners(), text); got != "closed" {
			t.Errorf("%.40q: %s", text, got)
		}
	}
	c.wantTypes(t, map[string]string{at: viewTypes(c.tree)[at]})
	c.end(t)
	d.stop(t)
}

// forge has somebody try, and looks for what the daemon says of it.
func forge(t *testing.T, d *daemon, who, says string, try func() string) {
	t.Helper()
	if got := try(); got != "closed" {
		t.Errorf("%s: %s", who, got)
	}
	eventually(t, fmt.Sprintf("the daemon to refuse somebody %s", who), func() bool { return strings.Contains(d.log(), says) })
}
