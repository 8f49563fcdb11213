package integration

import (
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// needV1 finds a v1 hierarchy; on a host that has none it mounts one that is named, which needs no controller.
func needV1(t *testing.T) *host.Hierarchy {
	t.Helper()
	v1 := func(h *host.Host) *host.Hierarchy {
		for _, hier := range h.Hierarchies() {
			if hier.Version == hierarchy.V1 && len(kit.ShownControllers(hier)) > 0 {
				return hier
			}
		}
		return nil
	}
	if hier := v1(kit.OpenHost(t)); hier != nil {
		return hier
	}
	dir := kit.PublicDir(t)
	name := strings.NewReplacer("-", "").Replace(kit.Prefix)
	if err := unix.Mount("none", dir, "cgroup", 0, "none,name="+name); err != nil {
		t.Skipf("machine: the kernel has no cgroup v1: %v", err)
	}
	t.Cleanup(func() {
		// A view that has ended lets go of the host's files that it passed through a grace period later (fuse_conn_put).
		kit.Eventually(t, "the hierarchy to be left", func() bool { return unix.Unmount(dir, 0) == nil })
	})
	hier := v1(kit.OpenHost(t))
	if hier == nil {
		t.Fatal("the hierarchy that was mounted is not found")
	}
	return hier
}

// wantNode wants a node's type: by the extended attribute that host programs read, and by statfs where BPF answers.
func wantNode(t *testing.T, path string, want int64) {
	t.Helper()
	raw := make([]byte, 4)
	if _, err := unix.Getxattr(path, "trusted.vcgroupfs.type", raw); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	if got := int64(binary.LittleEndian.Uint32(raw)); got != want {
		t.Errorf("%s: the attribute says %#x, want %#x", path, got, want)
	}
	if kit.TypeRefusal() == "" {
		kit.WantType(t, path, want)
	}
}

// TestTypeHybrid: in a view with several hierarchies each has its own type, and what is above them is a tmpfs's.
func TestTypeHybrid(t *testing.T) {
	kit.Program(t)
	v1 := needV1(t)
	v2 := kit.NeedHierarchy(t, kit.OpenHost(t), hierarchy.Unified)
	name := kit.ShownControllers(v1)[0]
	path := kit.NewBoundary(t, "hybrid", v1, v2)
	for layout, both := range map[string]bool{"v1": false, "hybrid": true} {
		controllers := name
		if both {
			controllers += "," + hierarchy.Unified
		}
		v := kit.MountView(t, "--boundary", path, "--controllers", controllers, "--layout", layout)
		wantNode(t, v.Dir, unix.TMPFS_MAGIC)
		top := filepath.Join(v.Dir, v1.Dir)
		if err := unix.Mkdir(filepath.Join(top, layout), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, node := range []string{".", "tasks", layout, layout + "/cgroup.procs"} {
			wantNode(t, filepath.Join(top, node), unix.CGROUP_SUPER_MAGIC)
		}
		if !both {
			continue
		}
		for _, node := range []string{".", "cgroup.procs"} {
			wantNode(t, filepath.Join(v.Dir, "unified", node), unix.CGROUP2_SUPER_MAGIC)
		}
	}
}
