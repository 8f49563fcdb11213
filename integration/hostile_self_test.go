package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSelfStranger: nobody gets a container's view, or has anything mounted, who is not in its cgroup and in mounts of its own.
func TestSelfStranger(t *testing.T) {
	d := startSelf(t)
	x, limit := selfInsider(t, d, "self-stranger")
	before := mountTable()
	// In the cgroup, but in the host's mounts.
	h := startHelper(t, "commands")
	if err := x.place.tree.Attach(x.place.path, h.pid()); err != nil {
		t.Fatal(err)
	}
	at := topOf(d.self(), x.place.tree) + "/pids.max"
	for range 2 {
		if got := h.ask(t, "read", at); got != "ENOENT" {
			t.Errorf("in the host's mounts: %q", got)
		}
	}
	if n := strings.Count(d.log(), "finds nothing at self"); n != 1 || !strings.Contains(d.log(), "host's own mount namespace") {
		t.Errorf("it was said %d times: %s", n, d.log())
	}
	// In the mounts, but not in the cgroup.
	guest := startHelper(t, "commands")
	if got := guest.ask(t, "enter", "/proc/"+strconv.Itoa(x.pid())+"/ns/mnt"); got != "ok" {
		t.Fatal(got)
	}
	if got := guest.ask(t, "read", at); got != "ENOENT" {
		t.Errorf("a process of the host in the container's mounts: %q", got)
	}
	if n := len(d.guestsNow(t)); n != 0 {
		t.Errorf("%d guests", n)
	}
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max: %q", got)
	}
	// Of another container, in this one's mounts.
	path := boundary(t, "self-other", x.place.tree)
	if err := x.place.tree.Attach(path, guest.pid()); err != nil {
		t.Fatal(err)
	}
	x.ask(t, "umount", d.self())
	x.ask(t, "bind", d.self(), "/mnt")
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max: %q", got)
	}
	if got := guest.ask(t, "read", at); got != "77\n" { // what is mounted there, as anything else in it
		t.Errorf("another container's process in this one's mounts: %q", got)
	}
	x.ask(t, "bind", d.self(), "/mnt")
	if after := mountTable(); strings.Count(after, "fuse.cgroup-self") != strings.Count(before, "fuse.cgroup-self") {
		t.Errorf("the host's mounts were\n%s\nand are\n%s", before, after)
	}
	d.stop(t)
}

// TestSelfOwner: who is root in the view is settled by the container, not by which of its users looks first.
func TestSelfOwner(t *testing.T) {
	d := startSelf(t)
	x, limit := selfInsider(t, d, "self-owner")
	if got := x.ask(t, "nested", topOf(d.self(), x.place.tree)+"/pids.max"); got != "77\n" {
		t.Errorf("in namespaces of a user's own: %q", got)
	}
	d.wantOne(t, x.place.path, "0:0")
	if got := limit(); got != "77\n" {
		t.Errorf("pids.max: %q", got)
	}
	d.stop(t)
}

// TestSelfNamespaces: a container that makes mount namespaces without end gets its view in each, and leaves nothing.
func TestSelfNamespaces(t *testing.T) {
	d := startSelf(t)
	x, limit := selfInsider(t, d, "self-namespaces")
	again := func(n int) {
		for i := range n {
			if got := limit(); got != "77\n" {
				t.Fatalf("%d: pids.max: %q", i, got)
			}
			for _, op := range []string{"umount", "unshare"} {
				if got := x.ask(t, op, d.self()); got != "ok" {
					t.Fatalf("%s: %s", op, got)
				}
			}
		}
	}
	again(5)
	before := d.used()
	again(100)
	after := d.used()
	if after.fds > before.fds+2 || after.threads > before.threads+8 {
		t.Errorf("the daemon had %d descriptors and %d threads, and has %d and %d", before.fds, before.threads, after.fds, after.threads)
	}
	d.wantOne(t, x.place.path, "0:0")
	d.stop(t)
}

// TestSelfQuota: guests by self are guests as any other to --max-guests; one more finds nothing, until there is room.
func TestSelfQuota(t *testing.T) {
	d := startSelf(t, "--max-guests", "1")
	x, limit := selfInsider(t, d, "self-quota-1")
	_, other := selfInsider(t, d, "self-quota-2")
	if a, b := limit(), other(); a != "77\n" || b != "ENOENT" {
		t.Errorf("with room for one: %q, %q", a, b)
	}
	if !strings.Contains(d.log(), "--max-guests") {
		t.Errorf("nothing is said of it: %s", d.log())
	}
	x.in.Close()
	x.cmd.Wait()
	if err := x.place.tree.RemoveAll(x.place.path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room for the other", func() bool { return other() == "77\n" })
	d.stop(t)
}

// selfFlood is how many threads of a container ask at once.
const selfFlood = 50

// TestSelfFlood: a container that keeps self busy, or us, makes no other wait.
func TestSelfFlood(t *testing.T) {
	d := startSelf(t)
	quiet, limit := selfInsider(t, d, "self-quiet")
	longest := func() (most time.Duration) {
		for range 20 {
			began := time.Now()
			if got := limit(); got != "77\n" {
				t.Fatalf("pids.max: %q", got)
			}
			most = max(most, time.Since(began))
			quiet.ask(t, "umount", d.self())
		}
		return most
	}
	alone := longest()
	loud, _ := selfInsider(t, d, "self-loud")
	loud.ask(t, "keep", d.self())
	loud.ask(t, "kept-flood")
	beside := longest()
	t.Logf("the longest first look: %v alone, %v beside %d threads", alone.Round(time.Millisecond), beside.Round(time.Millisecond), selfFlood)
	if beside > time.Duration(float64(2*time.Second)/scale(t)) {
		t.Errorf("beside a flood the first look takes %v", beside)
	}
	d.stop(t)
}

// TestSelfHangs: a container whose file systems do not answer keeps itself waiting for a while, and nobody else; killing it in the
// middle leaves nothing behind.
func TestSelfHangs(t *testing.T) {
	d := startSelf(t)
	x, _ := selfInsider(t, d, "self-hangs")
	_, limit := selfInsider(t, d, "self-beside")
	dead := publicDir(t)
	place := filepath.Join(dead, "place")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(place) })
	if got := x.ask(t, "bind", d.self(), place); got != "ok" {
		t.Fatal(got)
	}
	if got := x.ask(t, "deadfuse", dead); got != "ok" {
		t.Fatal(got)
	}
	began := time.Now()
	fmt.Fprintf(x.in, "read %q\n", d.self()+"/x")
	time.Sleep(100 * time.Millisecond)
	if got := limit(); got != "77\n" {
		t.Errorf("beside it: pids.max is %q", got)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("beside it: that took %v", took)
	}
	x.cmd.Process.Kill()
	x.cmd.Wait()
	if took := time.Since(began); took > patience {
		t.Errorf("it took %v to end", took)
	}
	eventually(t, "the first thread of the worker to be back", func() bool { return len(d.guestsNow(t)) == 2 })
	if err := x.place.tree.RemoveAll(x.place.path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guest to go", func() bool { return len(d.guestsNow(t)) == 1 })
	d.stop(t)
}
