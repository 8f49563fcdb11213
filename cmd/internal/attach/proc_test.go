package attach

import (
	"slices"
	"strings"
	"testing"
)

func TestFilterCgroups(t *testing.T) {
	const head = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
	permits := func(names ...string) func(string) bool {
		return func(c string) bool { return slices.Contains(names, c) }
	}
	for _, c := range []struct {
		kernel, v2 string
		permits    func(string) bool
		want       string
	}{
		{"cpuset\t3\t1\t1\nmemory\t4\t240\t1\npids\t8\t77\t1\n", "", permits("memory", "pids"), "memory\t4\t1\t1\npids\t8\t1\t1\n"},
		{"cpuset\t3\t1\t1\n", "hugetlb", permits(), ""},
		{"memory\t0\t5\t1\nblkio\t0\t5\t0\n", "memory io", permits("io"), "blkio\t0\t1\t0\n"}, // v2's io is blkio there
		{"cpu\t0\t5\t1\ncpuacct\t0\t5\t1\n", "cpu", permits("cpu"), "cpu\t0\t1\t1\ncpuacct\t0\t1\t1\n"},
		{"cpu\t0\t5\t1\npids\t0\t9\t1\n", "cpu memory pids", permits("cpu", "memory"), "cpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\n"}, // built without v1
	} {
		if got := filterCgroups(head+c.kernel, c.permits, strings.Fields(c.v2)); got != head+c.want {
			t.Errorf("%q, want %q", got, head+c.want)
		}
	}
}
