package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// useHierarchy says whether a v1 memory limit holds for the cgroups below.
const useHierarchy = "memory.use_hierarchy"

// takesMemory makes a cgroup in the memory hierarchy at $1, goes there and takes twice the limit of 64 MiB.
const takesMemory = `cd "$1"; mkdir a; echo 0 >a/cgroup.procs; cat a/memory.use_hierarchy; exec dd if=/dev/zero of=/dev/null bs=134217728 count=1`

// flatBoundary makes a boundary whose limit of 64 MiB does not hold for the cgroups below it.
func flatBoundary(t *testing.T, h *host.Host) (hier *host.Hierarchy, path string) {
	t.Helper()
	hier = kit.NeedHierarchy(t, h, "memory")
	root := strings.TrimSpace(kit.ReadFile(filepath.Join(hier.Mountpoint, useHierarchy)))
	if root != "0" {
		t.Skipf("machine: %s of the host's memory hierarchy is %s; it can be 0 on v1 before Linux 5.11", useHierarchy, root)
	}
	path = kit.NewBoundary(t, t.Name(), hier) // with 1, as run makes its own
	if err := hier.WriteFile(path, useHierarchy, "0"); err != nil {
		t.Fatal(err)
	}
	if err := hier.WriteFile(path, "memory.limit_in_bytes", "64M"); err != nil {
		t.Fatal(err)
	}
	return hier, path
}

// TestMemoryNests: where a boundary's memory limit would not hold for what the guest makes below it, there is no view. The
// boundary that run makes is none of these.
func TestMemoryNests(t *testing.T) {
	h := kit.OpenHost(t)
	hier, path := flatBoundary(t, h)
	in := func() (string, error) {
		cmd := exec.Command("sh", "-c", "echo 0 >"+kit.HostDir(hier, path)+"/cgroup.procs; "+takesMemory, "sh", kit.HostDir(hier, path))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if said, err := in(); err != nil || !strings.HasPrefix(said, "0\n") {
		t.Fatalf("natively, beyond a limit that does not nest: %v: %s", err, said)
	}
	if err := hier.RemoveAll(path + "/a"); err != nil {
		t.Fatal(err)
	}
	file := kit.HostDir(hier, path) + "/" + useHierarchy
	for _, layout := range []string{"v1", "v2"} {
		controllers := "memory"
		if layout == "v2" {
			controllers = "memory,unified"
			unified := kit.NeedHierarchy(t, h, "unified")
			if err := unified.Create(path, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unified.RemoveAll(path) })
		}
		got := kit.RunCommand(t, "mount", "--boundary", path, "--controllers", controllers, "--layout", layout, kit.PublicDir(t))
		if got.Status != 4 || !strings.Contains(got.Stderr, "echo 1 > "+file) {
			t.Errorf("layout %s: %d, %q; want 4 and the remedy", layout, got.Status, got.Stderr)
		}
	}
	if got := kit.RunCommand(t, "doctor"); !strings.Contains(got.Stdout, useHierarchy) {
		t.Errorf("doctor says nothing of it: %s", got.Stdout)
	}
	if err := hier.WriteFile(path, useHierarchy, "1"); err != nil {
		t.Fatal(err)
	}
	kit.MountView(t, "--boundary", path, "--controllers", "memory", "--layout", "v1")
	if said, err := in(); err == nil || err.Error() != "signal: killed" || said != "1\n" {
		t.Errorf("beyond a limit that nests: %v: %q", err, said)
	}
	for layout, dir := range map[string]string{"v1": "memory", "v2": "."} {
		name := "nests-" + layout + "-" + strconv.Itoa(os.Getpid())
		script := strings.Replace(takesMemory, "cat a/memory.use_hierarchy;", "", 1)
		got := kit.RunCommand(t, "run", "--name", name, "--controllers", "memory", "--layout", layout, "--limit", "memory.limit_in_bytes=64M",
			"--", "sh", "-c", script, "sh", filepath.Join(kit.GuestView, dir))
		if got.Status != 137 {
			t.Errorf("run with layout %s: %d, %q; want 137", layout, got.Status, got.Stderr)
		}
		kit.WantGone(t, h, name)
	}
}
