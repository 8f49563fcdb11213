package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// MaxKernelMemory is what a guest may have the kernel charge to the daemon by attributes, times and owners: the budget
// of 1 MiB, and as much again for what the kernel's caches hold meanwhile.
const MaxKernelMemory = 2 << 20

// Account is a memory cgroup of the daemon's own.
type Account struct {
	hier *host.Hierarchy
	path string
}

// AccountFor moves a daemon into a memory cgroup of its own.
func AccountFor(t testing.TB, h *host.Host, d *Daemon) Account {
	t.Helper()
	a := Account{hier: NeedHierarchy(t, h, "memory")}
	a.path = NewBoundary(t, t.Name()+"-daemon", a.hier)
	t.Cleanup(func() { d.Stop(t) })
	worker, fd := d.Worker(t)
	unix.Close(fd)
	for _, pid := range []int{d.Cmd.Process.Pid, worker} {
		if err := a.hier.Attach(a.path, pid); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// kernel is the kernel memory that is charged there and cannot be reclaimed.
func (a Account) kernel(t testing.TB) (bytes int64) {
	t.Helper()
	if a.hier.Version == hierarchy.V1 {
		fmt.Sscan(ReadFile(filepath.Join(HostDir(a.hier, a.path), "memory.kmem.usage_in_bytes")), &bytes)
		return bytes
	}
	var reclaimable int64
	for line := range strings.Lines(ReadFile(filepath.Join(HostDir(a.hier, a.path), "memory.stat"))) {
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

// Settled drops what the kernel's caches hold, and says what is charged then.
func (a Account) Settled(t testing.TB) int64 {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	return a.kernel(t)
}

// WantWithin fails the test where the daemon pays for more than it did before and allowed.
func (a Account) WantWithin(t testing.TB, before, allowed int64) {
	t.Helper()
	more := a.Least(t, before)
	t.Logf("kernel memory charged to the daemon: %d KiB more", more>>10)
	if more > allowed {
		t.Errorf("the daemon pays for %d bytes more of the kernel's memory, at most %d are allowed", more, allowed)
	}
}

// Least is how much more the daemon pays for than before, once the kernel has freed what nobody uses (after a grace
// period).
func (a Account) Least(t testing.TB, before int64) (more int64) {
	t.Helper()
	for deadline := time.Now().Add(EventPatience); ; time.Sleep(100 * time.Millisecond) {
		if more = a.Settled(t) - before; more <= MaxKernelMemory || time.Now().After(deadline) {
			return more
		}
	}
}
