package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// fillAttrs sets attributes of a size in the cgroups c0, c1… of a site until there is no room in any of them, and says how many
// bytes of values were stored.
func fillAttrs(t testing.TB, s kit.Site, cgroups, size int) (stored int) {
	t.Helper()
	for c := range cgroups {
		for _, file := range []string{"", kit.Procs, "cgroup.clone_children", "cgroup.stat", "pids.max", "pids.current"} {
			path := s.At("c"+strconv.Itoa(c), file)
			for i := range 200 {
				err := unix.Setxattr(path, fmt.Sprintf("user.a%d", i), make([]byte, size), 0)
				if err == nil {
					stored += size
					continue
				}
				if err != unix.ENOSPC && err != unix.ENOENT {
					t.Fatalf("setxattr %s: %v", path, err)
				}
				break
			}
		}
	}
	return stored
}

func makeMany(t testing.TB, s kit.Site, n int) {
	t.Helper()
	for i := range n {
		if err := os.Mkdir(s.At("c"+strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAttributeBudget: what a guest stores in attributes is bounded for the guest as a whole, before and after a worker's
// death, and what it removes it can store again. The guest's root can chown whatever else is used up.
func TestAttributeBudget(t *testing.T) {
	h := kit.OpenHost(t)
	d := kit.StartDaemon(t)
	pay := kit.AccountFor(t, h, d)
	s := d.Add(t, "bounds-attributes", kit.NewSite(t, h, "bounds-attributes"))
	const cgroups = 12
	makeMany(t, s, cgroups+2) // two have none of what fills the others
	before := pay.Settled(t)
	small := 1000 / kit.Scaled(t, 10, 1) // 2,200 values of 100 bytes take a minute where processors are emulated
	for _, size := range []int{4000, small, 0} {
		stored := fillAttrs(t, s, cgroups, size)
		t.Logf("values of %d bytes: %d stored", size, stored)
	}
	pay.WantWithin(t, before, kit.MaxKernelMemory)

	full := func(when string) {
		t.Helper()
		if err := unix.Setxattr(s.At("c12"), "user.over", make([]byte, 4000), 0); err != unix.ENOSPC {
			t.Errorf("%s: one more attribute: %v, want ENOSPC", when, err)
		}
	}
	full("at the bound")
	d.Signal(t, unix.SIGKILL, 0)
	full("after the worker's death")
	if err := os.Chown(s.At("c13"), 1234, 1234); err != nil {
		t.Errorf("chown beside a used-up budget: %v", err)
	}

	names := make([]byte, 64<<10)
	n, err := unix.Listxattr(s.At("c0"), names)
	if err != nil || n == 0 {
		t.Fatalf("listxattr: %d, %v", n, err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if err := unix.Removexattr(s.At("c0"), name); err != nil {
			t.Fatalf("removexattr %s: %v", name, err)
		}
	}
	fits := func(after string, path string) {
		t.Helper()
		kit.Eventually(t, "room after "+after, func() bool {
			return unix.Setxattr(path, "user.more", make([]byte, 4000), 0) == nil
		})
	}
	fits("removexattr", s.At("c12"))
	fillAttrs(t, s, cgroups, 4000)
	full("filled again")
	if err := os.Remove(s.At("c1")); err != nil {
		t.Fatal(err)
	}
	fits("rmdir", s.At("c12"))
	unix.Removexattr(s.At("c12"), "user.more")
	fillAttrs(t, s, cgroups, 4000)
	if err := os.Remove(s.Native("c2")); err != nil {
		t.Fatal(err)
	}
	fits("the host's rmdir", s.At("c12"))
}

// TestRemovedAttributes: a guest that keeps files of removed cgroups open keeps no attributes so.
func TestRemovedAttributes(t *testing.T) {
	h := kit.OpenHost(t)
	d := kit.StartDaemon(t)
	pay := kit.AccountFor(t, h, d)
	s := d.Add(t, "bounds-removed", kit.NewSite(t, h, "bounds-removed"))
	before := pay.Settled(t)
	var kept []*os.File
	first := 0 // what one cgroup takes: of few control files less than the budget

	// Eight of them would be more than the budget.
	for range kit.Scaled(t, 50, 8) {
		makeMany(t, s, 1)
		f, err := os.OpenFile(s.At("c0", kit.Procs), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		kept = append(kept, f)
		stored := fillAttrs(t, s, 1, 4000)
		if first == 0 {
			first = stored
		}
		if stored < first || first < 200_000 {
			t.Fatalf("only %d bytes were stored, %d at first: what was removed is not given back", stored, first)
		}
		if err := os.Remove(s.At("c0")); err != nil {
			t.Fatal(err)
		}
	}
	pay.WantWithin(t, before, kit.MaxKernelMemory)
	t.Logf("%d files are kept open", len(kept))
}

// TestTimesAndOwnersBudget: times, owners and modes are kept in attributes, too, and are counted.
func TestTimesAndOwnersBudget(t *testing.T) {
	h := kit.OpenHost(t)
	d := kit.StartDaemon(t)
	pay := kit.AccountFor(t, h, d)
	s := d.Add(t, "bounds-times", kit.NewSite(t, h, "bounds-times"))
	cgroups := kit.Scaled(t, 100, 80)
	makeMany(t, s, cgroups)
	before := pay.Settled(t)
	fillAttrs(t, s, cgroups, 4000) // so that little is left
	got := map[string]int{}
	for c := range cgroups {
		entries, err := os.ReadDir(s.At("c" + strconv.Itoa(c)))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := s.At("c"+strconv.Itoa(c), e.Name())
			got["utimes "+kit.Word(unix.Utimes(path, []unix.Timeval{{Sec: 1}, {Sec: 2}}))]++
			got["chown "+kit.Word(unix.Chown(path, 1000, 1000))]++
		}
	}
	t.Logf("%v", got)
	if got["utimes ENOSPC"] == 0 || got["chown ENOSPC"] == 0 {
		t.Errorf("%v: neither is bounded", got)
	}
	pay.WantWithin(t, before, kit.MaxKernelMemory)
}
