package fstype

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loaded loads the programs, or skips the test with the reason why this machine refuses them.
func loaded(t *testing.T) *Programs {
	t.Helper()
	p, err := Load()
	var refused *Refused
	if errors.As(err, &refused) {
		t.Skipf("machine: %s", refused.Reason)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func residentKiB() string {
	raw, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// TestLoad: the programs are accepted by the kernel, and say what that costs.
func TestLoad(t *testing.T) {
	before, began := residentKiB(), time.Now()
	p := loaded(t)
	t.Logf("%d programs after %v; resident %s before, %s after", len(p.links), time.Since(began), before, residentKiB())
	for _, l := range p.links {
		if _, err := l.Info(); err != nil {
			t.Error(err)
		}
	}
	dir, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	if err := p.Show(dir, View{Types: [64]uint32{1: unix.CGROUP2_SUPER_MAGIC}, Cgroup: 1 << 40}); err != nil {
		t.Error(err)
	}
	kept := map[string]int{}
	for name, fd := range p.Kept() {
		if kept[name], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Take(kept)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	key, _ := deviceOf(dir)
	var got struct {
		Types  [64]uint32
		Cgroup uint64
	}
	var device uint32
	err1, err2 := again.views.Lookup(key, &got), again.guests.Lookup(uint64(1<<40), &device)
	if err1 != nil || err2 != nil || got.Types[1] != unix.CGROUP2_SUPER_MAGIC || got.Cgroup != 1<<40 || device != key {
		t.Errorf("%+v, %d, %v, %v", got, device, err1, err2)
	}
}
