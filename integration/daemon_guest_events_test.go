package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// bounded is a guest with limits on tasks and memory, and with a freezer.
type bounded struct {
	d           *kit.Daemon
	path        string
	hierarchies []*host.Hierarchy
	freezer     *host.Hierarchy
}

func newBounded(t *testing.T, name string) *bounded {
	t.Helper()
	h := kit.OpenHost(t)
	b := &bounded{d: kit.StartDaemon(t), freezer: h.Hierarchy("freezer")}
	controllers := "pids,memory"
	if b.freezer == nil {
		b.freezer = kit.NeedHierarchy(t, h, hierarchy.Unified)
	} else {
		controllers += ",freezer"
	}
	memory := "memory.max=16M"
	if kit.OnV1(h, "memory") {
		memory = "memory.limit_in_bytes=16M"
	}
	for _, hier := range []*host.Hierarchy{kit.NeedHierarchy(t, h, "pids"), kit.NeedHierarchy(t, h, "memory"), b.freezer} {
		seen := false
		for _, other := range b.hierarchies {
			seen = seen || other == hier
		}
		if !seen {
			b.hierarchies = append(b.hierarchies, hier)
		}
	}
	b.path = kit.NewBoundary(t, name, b.hierarchies...)
	b.d.WantTry(t, 0, "added", "guest", "add", "b", "--boundary", b.path, "--controllers", controllers, "--limit", "pids.max=4", "--limit", memory)
	return b
}

// start starts a shell in the guest's cgroups, which goes on when its input says so.
func (b *bounded) start(t *testing.T, script string) *kit.Helper {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read -r _; "+script)
	x := kit.StartProcess(t, cmd)
	for _, hier := range b.hierarchies {
		if err := hier.Attach(b.path, x.PID()); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// TestGuestEvents: a limit that is reached and a process that is killed for want of memory are told of.
func TestGuestEvents(t *testing.T) {
	b := newBounded(t, "events")
	events := b.d.FollowEvents(t)
	told := func(kind, reason string) func() bool {
		return func() bool {
			for line := range strings.Lines(events()) {
				if strings.Contains(line, `"kind":"`+kind+`"`) && strings.Contains(line, reason) {
					return true
				}
			}
			return false
		}
	}
	forks := b.start(t, "for i in 1 2 3 4 5 6; do sleep 60 & done; wait")
	forks.In.Write([]byte("\n"))
	kit.Eventually(t, "the limit on tasks to be told of", told("limit", "pids.max"))
	for _, hier := range b.hierarchies {
		if err := hier.Kill(b.path); err != nil {
			t.Error(err)
		}
	}
	eats := b.start(t, "exec dd if=/dev/zero of=/dev/null bs=64M count=1")
	eats.In.Write([]byte("\n"))
	kit.Eventually(t, "the kill to be told of", told("oom-kill", ""))
	b.d.Stop(t)
}

// TestGuestFreeze: the guest's processes stop and go on, and the host sees it.
func TestGuestFreeze(t *testing.T) {
	b := newBounded(t, "freeze")
	x := b.start(t, "exec sleep 3600")
	state := func() string {
		if b.freezer.Version == hierarchy.V1 {
			return strings.TrimSpace(kit.ReadFile(filepath.Join(kit.HostDir(b.freezer, b.path), "freezer.state")))
		}
		return map[string]string{"0": "THAWED", "1": "FROZEN"}[strings.TrimSpace(kit.ReadFile(filepath.Join(kit.HostDir(b.freezer, b.path), "cgroup.freeze")))]
	}
	b.d.WantTry(t, 0, "", "guest", "freeze", "b")
	if got := state(); got != "FROZEN" {
		t.Errorf("after freeze: %s", got)
	}
	b.d.WantTry(t, 0, `"frozen": true`, "guest", "top", "--json", "--count", "1")
	b.d.Signal(t, unix.SIGKILL, 0) // and the next worker can thaw it
	b.d.Ready(t)
	b.d.WantTry(t, 0, "", "guest", "thaw", "b")
	if got := state(); got != "THAWED" {
		t.Errorf("after thaw: %s", got)
	}
	x.In.Close()
	b.d.Stop(t)
}
