package attach

import (
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
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

// TestLentCgroups: of a v2 tree that has v1's controllers the file says what it says on a host with v2 alone.
func TestLentCgroups(t *testing.T) {
	const head = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
	var all []hierarchy.Hierarchy
	for i, name := range []string{"cpu", "cpuacct", "cpuset", "memory", "blkio", "freezer"} {
		all = append(all, hierarchy.Hierarchy{Version: hierarchy.V1, ID: i + 1, Controllers: []string{name}})
	}
	all = append(all, hierarchy.Hierarchy{Version: hierarchy.V2, Controllers: []string{"hugetlb"}})
	text := head + "cpuset\t3\t7\t1\ncpu\t1\t7\t1\ncpuacct\t2\t7\t1\nmemory\t4\t7\t1\nblkio\t5\t7\t1\nfreezer\t6\t7\t1\nhugetlb\t0\t7\t1\n"
	for _, c := range []struct{ permits, want string }{
		{"cpu memory", "cpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\n"},
		{"cpu cpuacct cpuset memory blkio freezer hugetlb", "cpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\nfreezer\t0\t1\t1\nhugetlb\t0\t1\t1\n"},
	} {
		permits := func(name string) bool { return slices.Contains(strings.Fields(c.permits), name) }
		if got := lentCgroups(text, permits, all, []string{"hugetlb"}); got != head+c.want {
			t.Errorf("%s: %q, want %q", c.permits, got, head+c.want)
		}
	}
}
