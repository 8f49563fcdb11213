package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// maxKernelMemory is what a guest may have the kernel charge to the daemon by attributes, times and owners: the budget of
// 1 MiB, and as much again for what the kernel's caches hold meanwhile.
const maxKernelMemory = 2 << 20

// account is a memory cgroup of the daemon's own.
type account struct {
	tree *host.Hierarchy
	path string
}

// accountFor moves a daemon into a memory cgroup of its own.
func accountFor(t testing.TB, h *host.Host, d *daemon) account {
	t.Helper()
	a := account{tree: need(t, h, "memory")}
	a.path = boundary(t, t.Name()+"-daemon", a.tree)
	t.Cleanup(func() { d.stop(t) })
	worker, fd := d.worker(t)
	unix.Close(fd)
	for _, pid := range []int{d.cmd.Process.Pid, worker} {
		if err := a.tree.Attach(a.path, pid); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// kernel is the kernel memory that is charged there and cannot be reclaimed.
func (a account) kernel(t testing.TB) (bytes int64) {
	t.Helper()
	if a.tree.Version == hierarchy.V1 {
		fmt.Sscan(readFile(filepath.Join(hostDir(a.tree, a.path), "memory.kmem.usage_in_bytes")), &bytes)
		return bytes
	}
	var reclaimable int64
	for line := range strings.Lines(readFile(filepath.Join(hostDir(a.tree, a.path), "memory.stat"))) {
		if _, err := fmt.Sscanf(line, "slab_reclaimable %d", &reclaimable); err == nil {
			bytes -= reclaimable
		}
		var n int64
		if _, err := fmt.Sscanf(line, "kernel %d", &n); err == nil {
			bytes += n
		}
	}
	return bytes
}

// settled drops what the kernel's caches hold, and says what is charged then.
func (a account) settled(t testing.TB) int64 {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	return a.kernel(t)
}

// wantWithin fails the test where the daemon pays for more than it did before and allowed.
func (a account) wantWithin(t testing.TB, before, allowed int64) {
	t.Helper()
	more := a.least(t, before)
	t.Logf("kernel memory charged to the daemon: %d KiB more", more>>10)
	if more > allowed {
		t.Errorf("the daemon pays for %d bytes more of the kernel's memory, at most %d are allowed", more, allowed)
	}
}

// least is how much more the daemon pays for than before, once the kernel has freed what nobody uses (after a grace period).
func (a account) least(t testing.TB, before int64) (more int64) {
	t.Helper()
	for deadline := time.Now().Add(eventPatience); ; time.Sleep(100 * time.Millisecond) {
		if more = a.settled(t) - before; more <= maxKernelMemory || time.Now().After(deadline) {
			return more
		}
	}
}

// fillAttrs sets attributes of a size in the cgroups c0, c1… of a site until there is no room in any of them, and says how many
// bytes of values were stored.
func fillAttrs(t testing.TB, s site, cgroups, size int) (stored int) {
	t.Helper()
	for c := range cgroups {
		for _, file := range []string{"", procs, "cgroup.clone_children", "cgroup.stat", "pids.max", "pids.current"} {
			path := s.at("c"+strconv.Itoa(c), file)
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

func makeMany(t testing.TB, s site, n int) {
	t.Helper()
	for i := range n {
		if err := os.Mkdir(s.at("c"+strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAttributeBudget: what a guest stores in attributes is bounded for the guest as a whole, before and after a worker's
// death, and what it removes it can store again. The guest's root can chown whatever else is used up.
func TestAttributeBudget(t *testing.T) {
	h := openHost(t)
	d := startDaemon(t)
	pay := accountFor(t, h, d)
	s := d.add(t, "bounds-attributes", newSite(t, h, "bounds-attributes"))
	const cgroups = 12
	makeMany(t, s, cgroups+2) // two have none of what fills the others
	before := pay.settled(t)
	small := 1000 / scaled(t, 10, 1) // 2,200 values of 100 bytes take a minute where processors are emulated
	for _, size := range []int{4000, small, 0} {
		stored := fillAttrs(t, s, cgroups, size)
		t.Logf("values of %d bytes: %d stored", size, stored)
	}
	pay.wantWithin(t, before, maxKernelMemory)

	full := func(when string) {
		t.Helper()
		if err := unix.Setxattr(s.at("c12"), "user.over", make([]byte, 4000), 0); err != unix.ENOSPC {
			t.Errorf("%s: one more attribute: %v, want ENOSPC", when, err)
		}
	}
	full("at the bound")
	d.signal(t, unix.SIGKILL, 0)
	full("after the worker's death")
	if err := os.Chown(s.at("c13"), 1234, 1234); err != nil {
		t.Errorf("chown beside a used-up budget: %v", err)
	}

	names := make([]byte, 64<<10)
	n, err := unix.Listxattr(s.at("c0"), names)
	if err != nil || n == 0 {
		t.Fatalf("listxattr: %d, %v", n, err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if err := unix.Removexattr(s.at("c0"), name); err != nil {
			t.Fatalf("removexattr %s: %v", name, err)
		}
	}
	fits := func(after string, path string) {
		t.Helper()
		eventually(t, "room after "+after, func() bool {
			return unix.Setxattr(path, "user.more", make([]byte, 4000), 0) == nil
		})
	}
	fits("removexattr", s.at("c12"))
	fillAttrs(t, s, cgroups, 4000)
	full("filled again")
	if err := os.Remove(s.at("c1")); err != nil {
		t.Fatal(err)
	}
	fits("rmdir", s.at("c12"))
	unix.Removexattr(s.at("c12"), "user.more")
	fillAttrs(t, s, cgroups, 4000)
	if err := os.Remove(s.native("c2")); err != nil {
		t.Fatal(err)
	}
	fits("the host's rmdir", s.at("c12"))
}

// TestRemovedAttributes: a guest that keeps files of removed cgroups open keeps no attributes so.
func TestRemovedAttributes(t *testing.T) {
	h := openHost(t)
	d := startDaemon(t)
	pay := accountFor(t, h, d)
	s := d.add(t, "bounds-removed", newSite(t, h, "bounds-removed"))
	before := pay.settled(t)
	var kept []*os.File
	first := 0 // what one cgroup takes: of few control files less than the budget

	// Eight of them would be more than the budget.
	for range scaled(t, 50, 8) {
		makeMany(t, s, 1)
		f, err := os.OpenFile(s.at("c0", procs), os.O_RDWR, 0)
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
		if err := os.Remove(s.at("c0")); err != nil {
			t.Fatal(err)
		}
	}
	pay.wantWithin(t, before, maxKernelMemory)
	t.Logf("%d files are kept open", len(kept))
}

// TestTimesAndOwnersBudget: times, owners and modes are kept in attributes, too, and are counted.
func TestTimesAndOwnersBudget(t *testing.T) {
	h := openHost(t)
	d := startDaemon(t)
	pay := accountFor(t, h, d)
	s := d.add(t, "bounds-times", newSite(t, h, "bounds-times"))
	cgroups := scaled(t, 100, 80)
	makeMany(t, s, cgroups)
	before := pay.settled(t)
	fillAttrs(t, s, cgroups, 4000) // so that little is left
	got := map[string]int{}
	for c := range cgroups {
		entries, err := os.ReadDir(s.at("c" + strconv.Itoa(c)))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := s.at("c"+strconv.Itoa(c), e.Name())
			got["utimes "+word(unix.Utimes(path, []unix.Timeval{{Sec: 1}, {Sec: 2}}))]++
			got["chown "+word(unix.Chown(path, 1000, 1000))]++
		}
	}
	t.Logf("%v", got)
	if got["utimes ENOSPC"] == 0 || got["chown ENOSPC"] == 0 {
		t.Errorf("%v: neither is bounded", got)
	}
	pay.wantWithin(t, before, maxKernelMemory)
}
