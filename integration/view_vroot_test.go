package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// domainController is one that an ordinary cgroup with processes cannot enable.
func domainController(t *testing.T, hier *host.Hierarchy) string {
	t.Helper()
	for _, c := range []string{"memory", "hugetlb", "io"} {
		if hier.Holds(c) {
			return c
		}
	}
	t.Skip("machine: the v2 tree has no domain controller")
	return ""
}

// TestVirtualRoot: the guest's root holds processes and enabled controllers at once, as a real root does.
func TestVirtualRoot(t *testing.T) {
	hier, path, top := kit.MountUnified(t, "vroot")
	c := domainController(t, hier)
	var pids []string
	for range 5 {
		pid := kit.StartSleeper(t)
		if err := hier.Attach(path, pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, strconv.Itoa(pid))
	}
	at := func(file string) string { return filepath.Join(top, file) }
	if got := kit.WriteFile(at("cgroup.subtree_control"), "+"+c); got != "ok" {
		t.Fatalf("enabling %s at a root with processes: %s", c, got)
	}
	members := func() []string {
		all := strings.Fields(kit.ReadFile(at(kit.Procs)))
		slices.Sort(all)
		return all
	}
	slices.Sort(pids)
	if got := members(); !slices.Equal(got, pids) {
		t.Errorf("the root shows %v, not %v", got, pids)
	}
	if got := strings.TrimSpace(kit.ReadFile(at("cgroup.subtree_control"))); !slices.Contains(strings.Fields(got), c) {
		t.Errorf("cgroup.subtree_control reads %q", got)
	}
	if got := kit.ReadFile(at("a/cgroup.controllers")); !strings.Contains(got, c) {
		t.Errorf("the child has %q", got)
	}
	if got := kit.WriteFile(at("a/"+kit.Procs), pids[0]); got != "ok" {
		t.Errorf("moving down: %s", got)
	}
	if got := members(); slices.Contains(got, pids[0]) || len(got) != 4 {
		t.Errorf("after moving one down the root shows %v", got)
	}
	if got := kit.WriteFile(at(kit.Procs), pids[0]); got != "ok" || len(members()) != 5 {
		t.Errorf("moving back to the root: %s, %v", got, members())
	}
	testLeafIsHidden(t, hier, path, top)
	if got := kit.WriteFile(at("cgroup.subtree_control"), "-"+c); got != "ok" || len(members()) != 5 {
		t.Errorf("disabling: %s, %v", got, members())
	}
	if got := kit.WriteFile(at(kit.Procs), pids[1]); got != "ok" {
		t.Errorf("moving within the root: %s", got)
	}
}

// testLeafIsHidden: the leaf is listed nowhere, counted nowhere, cannot be made, removed or renamed, and its path, which
// /proc/self/cgroup names, shows the root.
func testLeafIsHidden(t *testing.T, hier *host.Hierarchy, path, top string) {
	entries, err := os.ReadDir(top)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == hierarchy.LeafName }) {
		t.Errorf("the leaf is listed: %v", err)
	}
	if !strings.HasPrefix(kit.ReadFile(filepath.Join(top, "cgroup.stat")), "nr_descendants 1\n") {
		t.Errorf("cgroup.stat: %q", kit.ReadFile(filepath.Join(top, "cgroup.stat")))
	}
	if got := kit.StatText(top); !strings.Contains(got, "nlink 3 ") {
		t.Errorf("the root's link count: %s", got)
	}
	leaf := filepath.Join(top, hierarchy.LeafName)
	if got, want := kit.ReadFile(filepath.Join(leaf, kit.Procs)), kit.ReadFile(filepath.Join(top, kit.Procs)); got != want {
		t.Errorf("through the leaf %q, through the root %q", got, want)
	}
	if got := kit.WriteFile(filepath.Join(leaf, "cgroup.freeze"), "1"); got != "EPERM" {
		t.Errorf("a boundary's file through the leaf: %s", got)
	}
	if got := kit.Rmdir(leaf); got != "EBUSY" {
		t.Errorf("rmdir of the leaf: %s", got)
	}
	if got := kit.Mkdir(leaf, 0o755); got != "EEXIST" {
		t.Errorf("mkdir of the leaf: %s", got)
	}
	if got := kit.Mkdir(filepath.Join(top, "a", hierarchy.LeafName), 0o755); !strings.HasPrefix(got, "mode ") { // a nested guest's leaf
		t.Errorf("mkdir of the leaf's name below: %s", got)
	}
	if !hier.Exists(path + "/" + hierarchy.LeafName) {
		t.Error("there is no leaf on the host")
	}
}

// TestControllersAppear: files that cgroup.subtree_control makes come and go in the guest's sight, whoever writes it.
func TestControllersAppear(t *testing.T) {
	hier, path, top := kit.MountUnified(t, "appear")
	c := domainController(t, hier)
	entries, err := os.ReadDir(kit.HostDir(hier, path))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e os.DirEntry) bool {
		return strings.HasPrefix(e.Name(), c+".") && hierarchy.ControllerOf(e.Name()) == c
	})
	if i < 0 {
		t.Fatalf("the boundary has no file of %s", c)
	}
	file := filepath.Join(top, "a", entries[i].Name())
	for range 3 {
		if kit.Exists(file) {
			t.Fatal("there before it is enabled")
		}
		if got := kit.WriteFile(filepath.Join(top, "cgroup.subtree_control"), "+"+c); got != "ok" || !kit.Exists(file) {
			t.Fatalf("enabled by the guest (%s) and not there", got)
		}
		if got := kit.WriteFile(filepath.Join(top, "cgroup.subtree_control"), "-"+c); got != "ok" || kit.Exists(file) {
			t.Fatalf("disabled by the guest (%s) and still there", got)
		}
		if err := hier.WriteFile(path, "cgroup.subtree_control", "+"+c); err != nil {
			t.Fatal(err)
		}
		kit.Eventually(t, "what the host enabled", func() bool { return kit.Exists(file) })
		if err := hier.WriteFile(path, "cgroup.subtree_control", "-"+c); err != nil {
			t.Fatal(err)
		}
		kit.Eventually(t, "what the host disabled", func() bool { return !kit.Exists(file) })
	}
}

// TestHiddenController: one that policy does not show does not exist for the guest.
func TestHiddenController(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, hierarchy.Unified)
	c := domainController(t, hier)
	path := kit.NewBoundary(t, "hidden", hier)
	v := kit.MountView(t, "--boundary", path, "--controllers", hierarchy.Unified, "--layout", "v2")
	at := func(file string) string { return filepath.Join(v.Dir, file) }
	if got := kit.ReadFile(at("cgroup.controllers")); got != "" {
		t.Errorf("cgroup.controllers: %q", got)
	}
	if got := kit.WriteFile(at("cgroup.subtree_control"), "+"+c); got != "ENOENT" {
		t.Errorf("enabling a hidden controller: %s", got)
	}
	if err := hier.WriteFile(path, "cgroup.subtree_control", "+"+c); err != nil {
		t.Fatal(err)
	}
	defer hier.WriteFile(path, "cgroup.subtree_control", "-"+c)
	if got := kit.ReadFile(at("cgroup.subtree_control")); got != "" {
		t.Errorf("cgroup.subtree_control: %q", got)
	}
	if strings.Contains(kit.ReadFile(at("cgroup.stat")), "_"+c) {
		t.Error("cgroup.stat speaks of it")
	}
	found, _ := filepath.Glob(at(c + ".*"))
	found = slices.DeleteFunc(found, func(f string) bool { return hierarchy.ControllerOf(filepath.Base(f)) == "" })
	if len(found) > 0 {
		t.Errorf("its files are shown: %v", found)
	}
}
