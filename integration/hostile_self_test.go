package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestSelfStranger: nobody gets a container's view, or has anything mounted, who is not in its cgroup and in mounts of its own.
func TestSelfStranger(t *testing.T) {
	d := kit.StartSelfDaemon(t)
	x, limit := kit.StartSelfInsider(t, d, "self-stranger")
	before := kit.MountTable()
	// In the cgroup, but in the host's mounts.
	h := kit.StartHelper(t, "commands")
	if err := x.Place.Hierarchy.Attach(x.Place.Path, h.PID()); err != nil {
		t.Fatal(err)
	}
	at := kit.TopOf(d.Self(), x.Place.Hierarchy) + "/pids.max"
	for range 2 {
		if got := h.Ask(t, "read", at); got != "ENOENT" {
			t.Errorf("in the host's mounts: %q", got)
		}
	}
	d.WantLog(t, "host's own mount namespace")
	if n := strings.Count(d.Log(), "finds nothing at self"); n != 1 {
		t.Errorf("it was said %d times: %s", n, d.Log())
	}
	// In the mounts, but not in the cgroup.
	guest := kit.StartHelper(t, "commands")
	if got := guest.Ask(t, "enter", "/proc/"+strconv.Itoa(x.PID())+"/ns/mnt"); got != "ok" {
		t.Fatal(got)
	}
	if got := guest.Ask(t, "read", at); got != "ENOENT" {
		t.Errorf("a process of the host in the container's mounts: %q", got)
	}
	if n := len(d.Guests(t)); n != 0 {
		t.Errorf("%d guests", n)
	}
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max: %q", got)
	}
	// Of another container, in this one's mounts.
	path := kit.NewBoundary(t, "self-other", x.Place.Hierarchy)
	if err := x.Place.Hierarchy.Attach(path, guest.PID()); err != nil {
		t.Fatal(err)
	}
	x.Ask(t, "umount", d.Self())
	x.Ask(t, "bind", d.Self(), "/mnt")
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max: %q", got)
	}
	if got := guest.Ask(t, "read", at); got != "77\n" { // what is mounted there, as anything else in it
		t.Errorf("another container's process in this one's mounts: %q", got)
	}
	x.Ask(t, "bind", d.Self(), "/mnt")
	if after := kit.MountTable(); strings.Count(after, "fuse.cgroup-self") != strings.Count(before, "fuse.cgroup-self") {
		t.Errorf("the host's mounts were\n%s\nand are\n%s", before, after)
	}
	d.Stop(t)
}

// TestSelfOwner: who is root in the view is settled by the container, not by which of its users looks first.
func TestSelfOwner(t *testing.T) {
	d := kit.StartSelfDaemon(t)
	x, limit := kit.StartSelfInsider(t, d, "self-owner")
	if got := x.Ask(t, "nested", kit.TopOf(d.Self(), x.Place.Hierarchy)+"/pids.max"); got != "77\n" {
		t.Errorf("in namespaces of a user's own: %q", got)
	}
	d.WantOne(t, x.Place.Path, "0:0")
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max: %q", got)
	}
	d.Stop(t)
}

// TestSelfNamespaces: a container that makes mount namespaces without end gets its view in each, and leaves nothing.
func TestSelfNamespaces(t *testing.T) {
	d := kit.StartSelfDaemon(t)
	x, limit := kit.StartSelfInsider(t, d, "self-namespaces")
	again := func(n int) {
		for i := range n {
			if got := limit(); got != "77\n" {
				t.Fatalf("%d: pids.max: %q", i, got)
			}
			for _, op := range []string{"umount", "unshare"} {
				if got := x.Ask(t, op, d.Self()); got != "ok" {
					t.Fatalf("%s: %s", op, got)
				}
			}
		}
	}
	again(5)
	before := d.Usage()
	again(100)
	after := d.Usage()
	if after.FDs > before.FDs+2 || after.Threads > before.Threads+8 {
		t.Errorf("the daemon had %d descriptors and %d threads, and has %d and %d", before.FDs, before.Threads, after.FDs, after.Threads)
	}
	d.WantOne(t, x.Place.Path, "0:0")
	d.Stop(t)
}

// TestSelfQuota: guests by self are guests as any other to --max-guests; one more finds nothing, until there is room.
func TestSelfQuota(t *testing.T) {
	d := kit.StartSelfDaemon(t, "--max-guests", "1")
	x, limit := kit.StartSelfInsider(t, d, "self-quota-1")
	_, other := kit.StartSelfInsider(t, d, "self-quota-2")
	if a, b := limit(), other(); a != "77\n" || b != "ENOENT" {
		t.Errorf("with room for one: %q, %q", a, b)
	}
	d.WantLog(t, "--max-guests")
	x.In.Close()
	x.Cmd.Wait()
	if err := x.Place.Hierarchy.RemoveAll(x.Place.Path); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "room for the other", func() bool { return other() == "77\n" })
	d.Stop(t)
}

// TestSelfFlood: a container that keeps self busy, or us, makes no other wait.
func TestSelfFlood(t *testing.T) {
	d := kit.StartSelfDaemon(t)
	quiet, limit := kit.StartSelfInsider(t, d, "self-quiet")
	longest := func() (most time.Duration) {
		for range 20 {
			began := time.Now()
			if got := limit(); got != "77\n" {
				t.Fatalf("pids.max: %q", got)
			}
			most = max(most, time.Since(began))
			quiet.Ask(t, "umount", d.Self())
		}
		return most
	}
	alone := longest()
	loud, _ := kit.StartSelfInsider(t, d, "self-loud")
	loud.Ask(t, "keep", d.Self())
	loud.Ask(t, "kept-flood")
	beside := longest()
	t.Logf("the longest first look: %v alone, %v beside %d threads", alone.Round(time.Millisecond), beside.Round(time.Millisecond), kit.SelfFlood)
	if beside > time.Duration(float64(2*time.Second)/kit.Scale(t)) {
		t.Errorf("beside a flood the first look takes %v", beside)
	}
	d.Stop(t)
}

// TestSelfHangs: a container whose file systems do not answer keeps itself waiting for a while, and nobody else; killing it in the
// middle leaves nothing behind.
func TestSelfHangs(t *testing.T) {
	d := kit.StartSelfDaemon(t)
	x, _ := kit.StartSelfInsider(t, d, "self-hangs")
	_, limit := kit.StartSelfInsider(t, d, "self-beside")
	dead := kit.PublicDir(t)
	place := filepath.Join(dead, "place")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(place) })
	if got := x.Ask(t, "bind", d.Self(), place); got != "ok" {
		t.Fatal(got)
	}
	if got := x.Ask(t, "deadfuse", dead); got != "ok" {
		t.Fatal(got)
	}
	began := time.Now()
	fmt.Fprintf(x.In, "read %q\n", d.Self()+"/x")
	time.Sleep(100 * time.Millisecond)
	if got := limit(); got != "77\n" {
		t.Errorf("beside it: pids.max is %q", got)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("beside it: that took %v", took)
	}
	x.Cmd.Process.Kill()
	x.Cmd.Wait()
	if took := time.Since(began); took > kit.Patience {
		t.Errorf("it took %v to end", took)
	}
	kit.Eventually(t, "the first thread of the worker to be back", func() bool { return len(d.Guests(t)) == 2 })
	if err := x.Place.Hierarchy.RemoveAll(x.Place.Path); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the guest to go", func() bool { return len(d.Guests(t)) == 1 })
	d.Stop(t)
}
