package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestSightIn(t *testing.T) {
	const ( // on what each is mounted says its second number
		v2      = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
		tmpfs   = "30 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
		v1      = "31 30 0:28 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids\n"
		view2   = "40 25 0:50 / /sys/fs/cgroup rw - fuse.cgroup2 vcgroupfs rw\n"
		view1   = "41 25 0:51 / /sys/fs/cgroup rw - fuse.cgroup vcgroupfs rw\n"
		overV2  = "40 30 0:50 / /sys/fs/cgroup rw - fuse.cgroup2 vcgroupfs rw\n"
		overV1  = "9 30 0:51 / /sys/fs/cgroup rw - fuse.cgroup vcgroupfs rw\n" // made before what it covers
		tmpfs2  = "50 30 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
		part    = "42 30 0:51 /pids /sys/fs/cgroup/pids rw - fuse.cgroup vcgroupfs rw\n"
		part2   = "42 50 0:51 /pids /sys/fs/cgroup/pids rw - fuse.cgroup vcgroupfs rw\n"
		hostsV1 = "31 30 0:28 /../.. /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
		hostsV2 = "30 25 0:26 /../.. /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
		over40  = "60 40 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
	)
	for in, want := range map[string]Sight{
		"": None, "1 2 0:1 / / rw - ext4 /dev/vda rw\n": None, v2: V2, tmpfs + v1: V1, view2: View, v2 + overV2: Stacked, view1: Dirs, hostsV2 + overV2: View,
		tmpfs + part: Tmpfs, tmpfs + v1 + overV1: StackedDirs, overV1 + tmpfs + v1: StackedDirs, tmpfs + hostsV1 + overV1: Dirs,
		tmpfs + v1 + tmpfs2 + part2: StackedTmpfs, tmpfs + hostsV1 + tmpfs2 + part2: Tmpfs, tmpfs: None, view2 + over40: None,
	} {
		mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(in), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := sightIn(mounts); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// TestClients: every client has a verdict for every sight, and says what to do where it has no good one.
func TestClients(t *testing.T) {
	for _, c := range Clients {
		fine := true
		for _, s := range Sights {
			v := c.Verdicts[s.Sight]
			if v == "" {
				t.Errorf("%s has no verdict on %s", c.Name, s.Sight)
			}
			fine = fine && v == Yes
		}
		if fine == (c.Instead != "") {
			t.Errorf("%s: what to do instead is %q", c.Name, c.Instead)
		}
	}
}

func TestHost(t *testing.T) {
	checks := Host(context.Background(), filepath.Join(t.TempDir(), "none"))
	for _, c := range checks {
		if c.Name == "" || c.Found == "" || c.State != OK && c.Do == "" || c.State == OK && c.Do != "" {
			t.Errorf("%+v", c)
		}
	}
	if len(checks) < 8 {
		t.Errorf("only %d checks", len(checks))
	}
	if sight, err := SightOf(os.Getpid()); err != nil || sight == "" {
		t.Errorf("%q, %v", sight, err)
	}
	if _, err := SightOf(1 << 22); err == nil {
		t.Error("of a process that is not there")
	}
}
