package kit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Prefix begins the name of every cgroup that a test makes.
var Prefix = fmt.Sprintf("vcgroupfs-test-%d-", os.Getpid())

// OpenHost opens the host for as long as the test runs.
func OpenHost(t testing.TB) *host.Host {
	t.Helper()
	h, err := host.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// NeedHierarchy skips a test on a machine that has no such hierarchy.
func NeedHierarchy(t testing.TB, h *host.Host, name string) *host.Hierarchy {
	t.Helper()
	hier := h.Hierarchy(name)
	if hier == nil {
		t.Skipf("machine: no hierarchy has %s", name)
	}
	return hier
}

// OnV1 says whether a controller is on a v1 hierarchy of its own.
func OnV1(h *host.Host, controller string) bool {
	t := h.Hierarchy(controller)
	return t != nil && t.Version == hierarchy.V1
}

// NewBoundary makes a cgroup in hierarchies, for one test, and answers with its path from their roots.
func NewBoundary(t testing.TB, name string, hierarchies ...*host.Hierarchy) string {
	t.Helper()
	path := "/" + Prefix + strings.NewReplacer("/", "-", "=", "-", " ", "-").Replace(name)
	for _, hier := range hierarchies {
		t.Cleanup(func() {
			if err := hier.Kill(path); err != nil {
				t.Error(err)
			}
			if err := hier.RemoveAll(path); err != nil {
				t.Error(err)
			}
		})
		if err := hier.Create(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if hier.Version == hierarchy.V2 {
			if err := hier.Enable(path, hier.Controllers...); err != nil {
				t.Fatal(err)
			}
		}
	}
	return path
}

// HostDir is the real directory of a path in a hierarchy.
func HostDir(hier *host.Hierarchy, path string) string { return filepath.Join(hier.Mountpoint, path) }

// LayoutOf is the layout of a view that has a hierarchy as the host has it.
func LayoutOf(hier *host.Hierarchy) string {
	if hier.Version == hierarchy.V1 {
		return "v1"
	}
	return "v2"
}

// ShownControllers are the controllers of a hierarchy that a trace has shown. blkio's limits do not nest, so
// directories cannot be made there; net_prio and perf_event have nothing to compare.
func ShownControllers(hier *host.Hierarchy) []string {
	var names []string
	for _, c := range hier.Controllers {
		if c != "blkio" && c != "net_prio" && c != "perf_event" && c != "debug" {
			names = append(names, c)
		}
	}
	if hier.Version == hierarchy.V2 {
		names = append(names, hierarchy.Unified)
	}
	if hier.Name != "" {
		names = append(names, "name="+hier.Name)
	}
	return names
}

// InGuest says whether the tests run in a guest.
func InGuest(h *host.Host) bool {
	return slices.ContainsFunc(h.Hierarchies(), func(t *host.Hierarchy) bool { return t.View })
}

// CommandWithin starts a command in a cgroup.
func CommandWithin(cgroup string, hierarchies []*host.Hierarchy, command ...string) *exec.Cmd {
	script := "set -e; "
	for _, hier := range hierarchies {
		script += "echo $$ >'" + HostDir(hier, cgroup) + "/cgroup.procs'; "
	}
	return exec.Command("sh", append([]string{"-c", script + `exec "$@"`, "sh"}, command...)...)
}

// HierarchyOfLayout is a hierarchy that a view shows which mirrors the host, or one of v2 alone, and how a hook is told
// so.
func HierarchyOfLayout(t testing.TB, h *host.Host, layout string) (hier *host.Hierarchy, args []string) {
	t.Helper()
	if hier = NeedHierarchy(t, h, "pids"); layout == "v2" && hier.Version == hierarchy.V1 {
		return NeedHierarchy(t, h, hierarchy.Unified), []string{"--controllers", hierarchy.Unified}
	}
	return hier, nil
}

// AllControllers is every name that a policy can permit on this host.
func AllControllers(h *host.Host) string {
	var names []string
	for _, t := range h.Hierarchies() {
		names = append(names, t.Names()...)
	}
	return strings.Join(names, ",")
}

// RemoveEverywhere removes a cgroup from all hierarchies at the end, after what is cleaned up from here on: nspawn
// makes the one that it is in also for systemd.
func RemoveEverywhere(t *testing.T, h *host.Host, path string) {
	t.Cleanup(func() {
		for _, hier := range h.Hierarchies() {
			if err := hier.RemoveAll(path); err != nil {
				t.Error(err)
			}
		}
	})
}
