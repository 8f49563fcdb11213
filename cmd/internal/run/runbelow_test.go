package run

import (
	"slices"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// TestKernelMounts: what is mounted below the view of "run".
func TestKernelMounts(t *testing.T) {
	tree := func(version hierarchy.Version, dir, name string, view bool, controllers ...string) *host.Hierarchy {
		return &host.Hierarchy{Hierarchy: hierarchy.Hierarchy{Version: version, Dir: dir, Name: name, View: view, Controllers: controllers}}
	}
	v2 := tree(hierarchy.V2, "unified", "", false, "memory", "pids")
	cpu := tree(hierarchy.V1, "cpu,cpuacct", "", false, "cpu", "cpuacct")
	named := tree(hierarchy.V1, "systemd", "systemd", false)
	for _, c := range []struct {
		shown  []*host.Hierarchy
		layout hierarchy.Layout
		want   []kernelMount
	}{
		{[]*host.Hierarchy{v2}, hierarchy.LayoutV2, []kernelMount{{"", "cgroup2", ""}}},
		{[]*host.Hierarchy{cpu, named, v2}, hierarchy.LayoutHybrid, []kernelMount{
			{"cpu,cpuacct", "cgroup", "cpu,cpuacct"}, {"systemd", "cgroup", "none,name=systemd"}, {"unified", "cgroup2", ""}}},
		{[]*host.Hierarchy{tree(hierarchy.V2, "unified", "", true)}, hierarchy.LayoutV2, nil},
	} {
		if got := kernelMounts(c.shown, c.layout); !slices.Equal(got, c.want) {
			t.Errorf("%v: %+v, want %+v", c.layout, got, c.want)
		}
	}
}
