package integration

import (
	"fmt"
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
