package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// lentView mounts a view of layout v2 on the controllers of v1 hierarchies.
func lentView(t *testing.T) *lentGuest {
	t.Helper()
	g := newLentBoundary(t)
	g.view = kit.MountView(t, "--boundary", g.path, "--controllers", lentControllers, "--layout", "v2").Dir
	return g
}

// TestLentWriters: of two values that are written to one file at once, the file has one in the end, and no mixture.
func TestLentWriters(t *testing.T) {
	g := lentView(t)
	g.must(kit.WriteFile(g.at(subtreeControl), "+cpu +memory"))
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	write := func(values map[string]string) {
		var wait sync.WaitGroup
		for value, file := range values {
			wait.Go(func() {
				if got := kit.WriteFile(g.at("a/"+file), value); got != "ok" {
					t.Errorf("%s to %s: %s", value, file, got)
				}
			})
		}
		wait.Wait()
	}
	for i := range kit.Scaled(t, 200, 40) {
		write(map[string]string{"10000 20000": "cpu.max", "50000 100000": "cpu.max", "max 70000": "cpu.max"})
		got := strings.TrimSpace(kit.ReadFile(g.at("a/cpu.max")))
		if !slices.Contains([]string{"10000 20000", "50000 100000", "max 70000"}, got) {
			t.Fatalf("cpu.max is %q", got)
		}
		if g.hiers["memory"] == g.hiers[hierarchy.Unified] || !kit.Exists(g.at("a/memory.swap.max")) {
			continue
		}
		memory, swap := fmt.Sprint((32+i)<<20), fmt.Sprint((16+i)<<20)
		write(map[string]string{memory: "memory.max", swap: "memory.swap.max"})
		got = strings.Join(strings.Fields(kit.ReadFile(g.at("a/memory.max"))+kit.ReadFile(g.at("a/memory.swap.max"))), " ")
		if got != memory+" "+swap {
			t.Fatalf("memory.max and memory.swap.max are %s, want %s %s", got, memory, swap)
		}
	}
}

// TestLentFull: a guest whose attributes are all used up can disable controllers, and what it cannot keep changes nothing.
func TestLentFull(t *testing.T) {
	g := lentView(t)
	g.must(kit.WriteFile(g.at(subtreeControl), "+cpu +cpuset +memory"))
	g.must(kit.Word(unix.Mkdir(g.at("a"), 0o755)))
	g.must(kit.WriteFile(g.at("a/cpu.max"), "50000 100000"))
	g.must(kit.WriteFile(g.at("a/memory.max"), "64M"))
	if kit.Exists(g.at("a/memory.swap.max")) {
		g.must(kit.WriteFile(g.at("a/memory.swap.max"), "32M"))
	}
	// The reserve is left to owners.
	for i := range 2000 {
		dir := fmt.Sprint("f", i/64)
		_ = unix.Mkdir(g.at(dir), 0o755)
		if unix.Setxattr(g.at(dir), fmt.Sprint("user.", i%64), make([]byte, 500), 0) != nil {
			break
		}
	}
	last := 0
	for i := range 4000 {
		dir := fmt.Sprint("o", i/8)
		_ = unix.Mkdir(g.at(dir), 0o755)
		file := []string{"memory.max", "memory.current", "cpu.max", "cpu.weight", "cpuset.cpus", "cpuset.mems", "memory.stat", "memory.events"}[i%8]
		if err := os.Chown(g.at(dir+"/"+file), 1000, 1000); err != nil {
			last = i
			break
		}
	}
	if last == 0 {
		t.Fatal("the attributes are not used up")
	}
	before := kit.ReadFile(g.real("cpuset", "a/cpuset.cpus"))
	if got := kit.WriteFile(g.at("a/cpuset.cpus"), "0"); got != "ENOSPC" {
		t.Errorf("cpuset.cpus: %s, want ENOSPC", got)
	}
	if got := kit.ReadFile(g.real("cpuset", "a/cpuset.cpus")); got != before {
		t.Errorf("the host's cpuset.cpus is %q, want %q", got, before)
	}
	for _, c := range []string{"-cpu", "-memory", "-cpuset"} {
		if got := kit.WriteFile(g.at(subtreeControl), c); got != "ok" {
			t.Errorf("%s: %s", c, got)
		}
	}
	limits := kit.ReadFile(g.real("cpu", "a/cpu.cfs_quota_us")) + kit.ReadFile(g.real("memory", "a/memory.limit_in_bytes"))
	if !strings.HasPrefix(limits, "-1\n9223") {
		t.Errorf("limits of disabled controllers are %q", limits)
	}
}
