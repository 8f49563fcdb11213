package fs

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestTypes: each tree has its own type at its number, and the top of a view with several is a tmpfs; what is no tree has none.
func TestTypes(t *testing.T) {
	v1, v2 := &tree{version: hierarchy.V1}, &tree{version: hierarchy.V2}
	const one, two, top = unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.TMPFS_MAGIC
	for _, c := range []struct {
		layout hierarchy.Layout
		trees  []*tree
		want   []uint32
	}{
		{hierarchy.LayoutV2, []*tree{v2}, []uint32{two, two}},
		{hierarchy.LayoutV1, []*tree{v1, v1}, []uint32{top, one, one}},
		{hierarchy.LayoutHybrid, []*tree{v1, v2, v1}, []uint32{top, one, two, one}},
	} {
		got := (&View{layout: c.layout, trees: c.trees}).Types()
		for i, g := range got {
			want := uint32(0)
			if i < len(c.want) {
				want = c.want[i]
			}
			if g != want {
				t.Errorf("layout %v: tree %d has %#x, want %#x", c.layout, i, g, want)
			}
		}
	}
}
