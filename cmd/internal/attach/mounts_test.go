package attach

import (
	"strings"
	"testing"
)

// TestAround: of a mount table are left a mount, its parent, and what is at its mount point and under it.
func TestAround(t *testing.T) {
	const table = "1 1 0:1 / / rw - ext4 a rw\n" +
		"20 1 0:2 / /sys rw - sysfs sysfs rw\n" +
		"21 20 0:3 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"22 21 0:4 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
		"23 20 0:5 / /sys/fs/cgroup2 rw - cgroup2 cgroup2 rw\n" +
		"2 1 0:6 / /run\\040x rw - tmpfs tmpfs rw\n" +
		"24 21 0:7 / /sys/fs/cgroup rw - fuse.cgroup vcgroupfs rw\n"
	for id, want := range map[int]string{
		21: "20 21 22 24", 24: "21 22 24", 22: "21 22", 23: "20 23", 2: "1 2", 1: "1 20 21 22 23 2 24", 3: "", 0: "",
	} {
		var got []string
		for line := range strings.Lines(string(around([]byte(table), id))) {
			got = append(got, strings.Fields(line)[0])
		}
		if have := strings.Join(got, " "); have != want {
			t.Errorf("%d: %q, want %q", id, have, want)
		}
	}
	if len(around([]byte("nonsense\n\n"), 1)) != 0 {
		t.Error("what is no mount table has lines")
	}
}
