package fs

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestTypes: each hierarchy has its own type at its number, and the top of a view with several is a tmpfs; a number of no hierarchy has none.
func TestTypes(t *testing.T) {
	v1, v2 := &viewHierarchy{version: hierarchy.V1}, &viewHierarchy{version: hierarchy.V2}
	const one, two, top = unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.TMPFS_MAGIC
	for _, c := range []struct {
		layout      hierarchy.Layout
		hierarchies []*viewHierarchy
		want        []uint32
	}{
		{hierarchy.LayoutV2, []*viewHierarchy{v2}, []uint32{two, two}},
		{hierarchy.LayoutV1, []*viewHierarchy{v1, v1}, []uint32{top, one, one}},
		{hierarchy.LayoutHybrid, []*viewHierarchy{v1, v2, v1}, []uint32{top, one, two, one}},
	} {
		got := (&View{layout: c.layout, hierarchies: c.hierarchies}).Types()
		for i, g := range got {
			want := uint32(0)
			if i < len(c.want) {
				want = c.want[i]
			}
			if g != want {
				t.Errorf("layout %v: hierarchy %d has %#x, want %#x", c.layout, i, g, want)
			}
		}
	}
}
