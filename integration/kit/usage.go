package kit

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Usage is what processes use together.
type Usage struct{ RSSKiB, PSSKiB, Threads, FDs int }

// UsageOf adds up what processes use. One that has ended adds nothing.
func UsageOf(pids ...int) (u Usage) {
	for _, pid := range pids {
		for line := range strings.Lines(ReadFile(fmt.Sprintf("/proc/%d/status", pid))) {
			var n int
			if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &n); err == nil {
				u.RSSKiB += n
			} else if _, err := fmt.Sscanf(line, "Threads: %d", &n); err == nil {
				u.Threads += n
			}
		}
		for line := range strings.Lines(ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))) {
			var n int
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &n); err == nil {
				u.PSSKiB += n
			}
		}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		u.FDs += len(fds)
	}
	return u
}

// Usage is what the daemon uses now.
func (d *Daemon) Usage() Usage {
	return UsageOf(d.Pids()...)
}

// String says all figures.
func (u Usage) String() string {
	return fmt.Sprintf("%d KiB resident, %d KiB proportional, %d threads, %d descriptors", u.RSSKiB, u.PSSKiB, u.Threads,
		u.FDs)
}

// SettledUsage is what the daemon uses when it does not use less any more, within seconds. What many guests needed for
// a moment it gives back after two.
func (d *Daemon) SettledUsage() Usage {
	time.Sleep(3500 * time.Millisecond)
	last := d.Usage()
	for range 20 {
		time.Sleep(250 * time.Millisecond)
		now := d.Usage()
		if now.RSSKiB >= last.RSSKiB && now.Threads >= last.Threads && now.FDs >= last.FDs {
			return now
		}
		last = now
	}
	return last
}

// ResidentMemory is VmRSS of a process.
func ResidentMemory(b *testing.B, pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}
