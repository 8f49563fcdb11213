package notify

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

const statusText = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t9 10 \nNStgid:\t1\nCapPrm:\tffff\nCapEff:\t0000000000000006\n"

// TestParseRights: the ids are those of files, and all groups are read.
func TestParseRights(t *testing.T) {
	r, err := parseRights(statusText)
	if err != nil || r.uid != 4 || r.gid != 8 || r.caps != searchCaps || len(r.groups) != 2 || r.groups[1] != 10 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "Uid:\t1\t2\t3\t4\n", statusText[:len(statusText)-20]} {
		if r, err := parseRights(bad); err == nil {
			t.Errorf("%q: %+v", bad, r)
		}
	}
}

// TestRangesHas: owner and group must both be ids of the namespace.
func TestRangesHas(t *testing.T) {
	r := idRanges{[]host.IDRange{{Outside: 100, Size: 10}}, []host.IDRange{{Outside: 200, Size: 1}, {Outside: 300, Size: 1}}}
	for _, c := range []struct {
		uid, gid uint32
		want     bool
	}{{100, 200, true}, {109, 300, true}, {110, 200, false}, {99, 200, false}, {100, 201, false}, {0, 0, false}} {
		if got := r.has(&unix.Statx_t{Uid: c.uid, Gid: c.gid}); got != c.want {
			t.Errorf("%d:%d: %v", c.uid, c.gid, got)
		}
	}
}

// TestWithRights: a thread has the caller's rights while it looks, and its own afterwards; by those of a namespace below it searches what
// that one's ids own.
func TestWithRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("machine: not root")
	}
	top := t.TempDir()
	hidden, given := filepath.Join(top, "hidden"), filepath.Join(top, "given")
	if err := os.Chmod(filepath.Dir(top), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{hidden, given} {
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(filepath.Join(dir, "at"), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(given, 5001, 5001); err != nil {
		t.Skipf("machine: there is no user 5001: %v", err)
	}
	ranges := []host.IDRange{{Outside: 5000, Size: 10}}
	below := &rights{uid: 5000, gid: 5000, caps: searchCaps, outer: &idRanges{ranges, ranges}}
	look := func(r *rights, path string) (err error) {
		rerr := r.with(func() error {
			fd, oerr := open(unix.AT_FDCWD, path, 0, unix.RESOLVE_NO_MAGICLINKS)
			if oerr == nil {
				unix.Close(fd)
			}
			if r.outer != nil && errors.Is(oerr, unix.EACCES) {
				if fd, oerr = r.search(unix.AT_FDCWD, path); oerr == nil {
					unix.Close(fd)
				}
			}
			err = oerr
			return nil
		})
		return errors.Join(rerr, err)
	}
	for _, c := range []struct {
		who  string
		r    *rights
		path string
		want error
	}{
		{"root", &rights{caps: searchCaps}, hidden + "/at", nil},
		{"root without capabilities", &rights{}, given + "/at", unix.EACCES},
		{"a user", &rights{uid: 5001, gid: 5001}, given + "/at", nil},
		{"a user", &rights{uid: 5001, gid: 5001}, hidden + "/at", unix.EACCES},
		{"another user", &rights{uid: 5002, gid: 5001}, given + "/none", unix.EACCES},
		{"root of a namespace", below, given + "/at/", nil},
		{"root of a namespace", below, given + "/none", unix.ENOENT},
		{"root of a namespace", below, hidden + "/at", unix.EACCES},
		{"root of a namespace", below, hidden + "/none", unix.EACCES},
	} {
		if err := look(c.r, c.path); !errors.Is(err, c.want) {
			t.Errorf("%s at %s: %v, want %v", c.who, c.path, err, c.want)
		}
	}
}

// TestRightsReturn: a thread that has had a caller's rights has its own again.
func TestRightsReturn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("machine: not root")
	}
	status := func() string {
		b, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			t.Fatal(err)
		}
		r, err := parseRights(string(b))
		own, oerr := ownRights()
		if err := errors.Join(err, oerr); err != nil {
			t.Fatal(err)
		}
		if r.sameIDs(own) && r.caps == own.caps {
			return "own"
		}
		return "other"
	}
	r := &rights{uid: 5000, gid: 5000, groups: []int{5003}}
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and with() once more: it is the same thread before and after
		defer runtime.UnlockOSThread()
		for range 3 {
			var during string
			if err := r.with(func() error { during = status(); return nil }); err != nil {
				t.Errorf("cannot take rights: %v", err)
			}
			if after := status(); during != "other" || after != "own" {
				t.Errorf("during: %s; after: %s", during, after)
			}
		}
	}()
	<-done
}
