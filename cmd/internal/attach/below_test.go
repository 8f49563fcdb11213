package attach

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

// TestCgroupsUnder: the kernel's cgroups on a mount, in whatever order the table has them, and none that are elsewhere.
func TestCgroupsUnder(t *testing.T) {
	const table = "10 1 0:1 / / rw - ext4 /dev/vda rw\n" +
		"33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" + // before what it is on
		"31 20 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n" +
		"20 10 0:20 / /sys ro - sysfs sysfs ro\n" +
		"32 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
		"34 33 0:31 / /sys/fs/cgroup/memory/x rw - cgroup2 cgroup2 rw\n" +
		"35 31 0:32 / /sys/fs/cgroup/view rw - fuse.cgroup vcgroupfs rw\n" +
		"40 10 0:29 / /elsewhere rw - cgroup cgroup rw,pids\n"
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(table), nil)
	if err != nil {
		t.Fatal(err)
	}
	for top, want := range map[int][]int{31: {33, 32, 34}, 33: {33, 34}, 20: {33, 32, 34}, 35: nil, 40: {40}} {
		i := slices.IndexFunc(mounts, func(m *mountinfo.Info) bool { return m.ID == top })
		var got []int
		for _, m := range cgroupsUnder(mounts, mounts[i]) {
			got = append(got, m.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("on %d: %v, want %v", top, got, want)
		}
	}
}
