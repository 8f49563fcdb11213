package translate

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// tree is a cgroup with the files that a test gives it. The kernel's part is in package integration.
type tree struct {
	files, kept map[string]string
	above       *tree
	below       []Cgroup
	writes      []string
	dies        int // the write that fails, from 1; 0: none
	refuses     func(c *tree, file, value string) error
	full        bool // nothing can be kept
}

func (c *tree) Read(file string) (string, error) {
	s, ok := c.files[file]
	if !ok {
		return "", unix.ENOENT
	}
	return s, nil
}

var errDied = errors.New("died")

func (c *tree) Write(file, value string) error {
	if c.refuses != nil {
		if err := c.refuses(c, file, value); err != nil {
			return err
		}
	}
	c.writes = append(c.writes, file+" "+value)
	if c.dies == len(c.writes) {
		return errDied
	}
	if value == "-1" && strings.HasSuffix(file, "_in_bytes") {
		value = "9223372036854771712"
	}
	c.files[file] = value + "\n"
	return nil
}

func (c *tree) Kept(name string) (string, error) { return c.kept[name], nil }

func (c *tree) Keep(name, value string) error {
	if c.full {
		return unix.ENOSPC
	}
	if c.kept == nil {
		c.kept = map[string]string{}
	}
	c.kept[name] = value
	return nil
}

func (c *tree) Above() (Cgroup, bool) { return c.above, c.above != nil }

func (c *tree) Below() ([]Cgroup, error) { return c.below, nil }

func under(above *tree, files map[string]string) *tree {
	c := &tree{files: files, above: above}
	if above != nil {
		above.below = append(above.below, c)
	}
	return c
}

func read(t *testing.T, c Cgroup, name string) string {
	t.Helper()
	return readOf(t, hierarchy.V1, c, name)
}

func readOf(t *testing.T, shown hierarchy.Version, c Cgroup, name string) string {
	t.Helper()
	r, ok := Lookup(shown, name)
	if !ok {
		t.Fatalf("%s has no row", name)
	}
	b, err := r.Read(c, name)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(string(b), "\n")
}

func write(t *testing.T, c Cgroup, name, value string) error {
	t.Helper()
	return writeOf(t, hierarchy.V1, c, name, value)
}

func writeOf(t *testing.T, shown hierarchy.Version, c Cgroup, name, value string) error {
	t.Helper()
	r, ok := Lookup(shown, name)
	if !ok {
		t.Fatalf("%s has no row", name)
	}
	return r.Write(c, name, []byte(value+"\n"))
}

// TestComplete: each control file that a guest may see has one row, and each row stands for files that are known.
func TestComplete(t *testing.T) {
	structure := []string{"tasks", "notify_on_release", "cgroup.sane_behavior", "release_agent", "cgroup.type", "cgroup.procs", "cgroup.threads",
		"cgroup.controllers", "cgroup.subtree_control", "cgroup.events", "cgroup.max.descendants", "cgroup.max.depth", "cgroup.stat", "cgroup.kill"}
	translated := []string{"", "cpu", "cpuacct", "cpuset", "memory", "freezer", "blkio", "io", "pids", "hugetlb"}
	star := map[bool]string{false: "2MB", true: "memory"}
	other := map[hierarchy.Version]hierarchy.Version{hierarchy.V1: hierarchy.V2, hierarchy.V2: hierarchy.V1}
	for _, f := range hierarchy.Table() {
		if f.RootOnly() || slices.Contains(structure, f.Name) || !slices.Contains(translated, f.Controller) {
			continue
		}
		if n := len(slices.DeleteFunc(slices.Clone(Rows()), func(r Row) bool { return r.Version != f.Version || r.Name != f.Name })); n != 1 {
			t.Errorf("v%d: %s has %d rows", f.Version, f.Name, n)
		}
	}
	for _, r := range Rows() {
		known, ok := hierarchy.Lookup(r.Version, strings.Replace(r.Name, "*", star[r.Name[0] == '*'], 1))
		if !ok {
			t.Errorf("%s is no control file", r.Name)
		}
		if r.Absent != "" {
			if r.Says+r.Lost+r.Host != "" || r.read != nil || r.write != nil {
				t.Errorf("%s is absent and not", r.Name)
			}
			continue
		}
		if r.Says == "" {
			t.Errorf("%s says no formula", r.Name)
		}
		if host := r.HostFile(strings.Replace(r.Name, "*", star[r.Name[0] == '*'], 1)); host != "" {
			if f, ok := hierarchy.Lookup(other[r.Version], host); !ok || f.RootOnly() {
				t.Errorf("%s stands for %q, which is no control file of a guest", r.Name, host)
			}
		}
		if writable := known.Mode&0o222 != 0; writable != (r.write != nil) {
			t.Errorf("%s has mode %o, and its row can be written: %v", r.Name, known.Mode, r.write != nil)
		}
		if readable := known.Mode&0o444 != 0 && r.Name != "memory.pressure_level"; readable != (r.read != nil) {
			t.Errorf("%s has mode %o, and its row can be read: %v", r.Name, known.Mode, r.read != nil)
		}
	}
}

// TestStar: a family's row finds the host's file of the same part.
func TestStar(t *testing.T) {
	c := under(nil, map[string]string{"hugetlb.2MB.max": "max\n", "hugetlb.1GB.rsvd.max": "1073741824\n", "hugetlb.1GB.max": "max\n", "hugetlb.64KB.max": "max\n"})
	for name, want := range map[string]string{
		"hugetlb.2MB.limit_in_bytes": "9223372036852678656", "hugetlb.1GB.rsvd.limit_in_bytes": "1073741824",
		"hugetlb.1GB.limit_in_bytes": "9223372035781033984", "hugetlb.64KB.limit_in_bytes": "9223372036854710272",
	} {
		if got := read(t, c, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if err := write(t, c, "hugetlb.2MB.limit_in_bytes", "4M"); err != nil || c.files["hugetlb.2MB.max"] != "4194304\n" {
		t.Errorf("%v, %q", err, c.files["hugetlb.2MB.max"])
	}
}

// TestWeights: every weight comes back through shares, and shares never become more weight than greater ones.
func TestWeights(t *testing.T) {
	for w := uint64(minWeight); w <= maxWeight; w++ {
		if got := WeightOf(SharesOf(w)); got != w {
			t.Fatalf("weight %d is %d shares, which are weight %d", w, SharesOf(w), got)
		}
		if got := IOWeightOf(BlkioWeightOf(w)); got < w || got > w+maxWeight/(maxIOWeight-minIOWeight) {
			t.Fatalf("io.weight %d is %d of blkio, which is io.weight %d", w, BlkioWeightOf(w), got)
		}
	}
	for s := uint64(minShares); s < maxShares; s++ {
		if WeightOf(s) > WeightOf(s+1) {
			t.Fatalf("%d shares weigh more than %d", s, s+1)
		}
	}
	for b := uint64(minIOWeight); b <= maxIOWeight; b++ {
		if got := BlkioWeightOf(IOWeightOf(b)); got != b {
			t.Fatalf("blkio.weight %d is %d for io, which is %d", b, IOWeightOf(b), got)
		}
	}
	for shares, weight := range map[uint64]uint64{2: 1, 51: 11, 256: 35, 512: 59, 1024: 100, 2048: 174, 102400: 4429, 262144: 10000} {
		if got := WeightOf(shares); got != weight {
			t.Errorf("%d shares are %d, want %d", shares, got, weight)
		}
	}
}

// TestKept: what was written is read again, as long as the host has what it led to.
func TestKept(t *testing.T) {
	c := under(nil, map[string]string{"cpu.weight": "100\n", "io.weight": "default 100\n"})
	for _, s := range []string{"512", "521", "3", "262144"} {
		if err := write(t, c, "cpu.shares", s); err != nil {
			t.Fatal(err)
		}
		if got := read(t, c, "cpu.shares"); got != s {
			t.Errorf("%s shares are read as %s", s, got)
		}
	}
	c.files["cpu.weight"] = "50\n"
	if got := read(t, c, "cpu.shares"); WeightOf(SharesOf(50)) != 50 || got != decimal(SharesOf(50)) {
		t.Errorf("the host's weight 50 is read as %s", got)
	}
}

// TestMemsw: v1's limits of memory and of memory with swap are v2's of memory and of swap. A write that stopped anywhere
// and is done again ends as one that was done once.
func TestMemsw(t *testing.T) {
	made := func() *tree {
		return under(nil, map[string]string{"memory.max": "max\n", "memory.swap.max": "max\n", "memory.current": "0\n", "memory.swap.current": "0\n"})
	}
	c := made()
	for _, step := range []struct {
		file, value string
		err         error
		max, swap   string
	}{
		{"memory.limit_in_bytes", "64M", nil, "67108864", "max"},
		{"memory.memsw.limit_in_bytes", "96M", nil, "67108864", "33554432"},
		{"memory.memsw.limit_in_bytes", "32M", unix.EINVAL, "67108864", "33554432"},
		{"memory.limit_in_bytes", "100M", unix.EINVAL, "67108864", "33554432"},
		{"memory.limit_in_bytes", "32M", nil, "33554432", "67108864"},
		{"memory.limit_in_bytes", "-1", unix.EINVAL, "33554432", "67108864"},
		{"memory.limit_in_bytes", "96M", nil, "100663296", "0"},
		{"memory.memsw.limit_in_bytes", "-1", nil, "100663296", "max"},
		{"memory.limit_in_bytes", "-1", nil, "max", "max"},
	} {
		before := maps.Clone(c.files)
		if err := write(t, c, step.file, step.value); !errors.Is(err, step.err) {
			t.Fatalf("%s %s: %v, want %v", step.file, step.value, err, step.err)
		}
		if c.files["memory.max"] != step.max+"\n" || c.files["memory.swap.max"] != step.swap+"\n" {
			t.Fatalf("%s %s: %q %q", step.file, step.value, c.files["memory.max"], c.files["memory.swap.max"])
		}
		for dies := 1; step.err == nil; dies++ {
			again := made()
			again.files, again.dies = maps.Clone(before), dies
			if write(t, again, step.file, step.value) == nil {
				break
			}
			again.dies = 0
			if err := write(t, again, step.file, step.value); err != nil || !maps.Equal(again.files, c.files) {
				t.Errorf("%s %s, which stopped at write %d and was done again: %v, %v", step.file, step.value, dies, err, again.files)
			}
		}
	}
	if got := read(t, c, "memory.memsw.limit_in_bytes"); got != "9223372036854771712" {
		t.Errorf("no limit is read as %s", got)
	}
}

// TestRefusedInTheMiddle: where the host refuses the second of two files, the first is as before, and nothing is kept that the
// next write would begin from.
func TestRefusedInTheMiddle(t *testing.T) {
	for shown, files := range map[hierarchy.Version]map[string]string{
		hierarchy.V1: {"memory.max": "67108864\n", "memory.swap.max": "33554432\n", "memory.current": "0\n"},
		hierarchy.V2: {"memory.limit_in_bytes": "67108864\n", "memory.memsw.limit_in_bytes": "100663296\n"},
	} {
		name := map[hierarchy.Version]string{hierarchy.V1: "memory.limit_in_bytes", hierarchy.V2: "memory.max"}[shown]
		for _, value := range []string{"32M", "80M"} {
			c := under(nil, maps.Clone(files))
			c.refuses = func(c *tree, _, _ string) error {
				if len(c.writes) == 1 && c.dies == 0 {
					c.dies = -1 // once
					return unix.EBUSY
				}
				return nil
			}
			if err := writeOf(t, shown, c, name, value); !errors.Is(err, unix.EBUSY) || !maps.Equal(c.files, files) || c.kept[name+moving] != "" {
				t.Errorf("%s %s: %v, %v, %v", name, value, err, c.files, c.kept)
			}
		}
	}
}

// TestBelowUsage: a limit below the usage reclaims first, and is EBUSY where that is not enough.
func TestBelowUsage(t *testing.T) {
	c := under(nil, map[string]string{"memory.max": "max\n", "memory.swap.max": "max\n", "memory.current": "8388608\n",
		"memory.stat": "active_file 6291456\n"})
	if err := write(t, c, "memory.limit_in_bytes", "4M"); err != unix.EBUSY {
		t.Error(err)
	}
	c.files["memory.stat"] = "kernel 8388608\n"
	if err := write(t, c, "memory.limit_in_bytes", "4M"); err != unix.EBUSY || len(c.writes) != 1 {
		t.Errorf("of which nothing can be reclaimed: %v, %q", err, c.writes)
	}
	if c.files["memory.max"] != "max\n" || c.files["memory.reclaim"] != "4194304\n" {
		t.Errorf("%v", c.files)
	}
}

// TestStrictQuota: a share above the parent's, or below a child's, is EINVAL.
func TestStrictQuota(t *testing.T) {
	top := under(nil, map[string]string{"cpu.max": "50000 100000\n"})
	c := under(top, map[string]string{"cpu.max": "max 100000\n"})
	under(c, map[string]string{"cpu.max": "max 100000\n"})
	leaf := under(c.below[0].(*tree), map[string]string{"cpu.max": "20000 100000\n"})
	for _, step := range []struct {
		file, value string
		err         error
		want        string
	}{
		{"cpu.cfs_quota_us", "50001", unix.EINVAL, "max 100000\n"},
		{"cpu.cfs_quota_us", "19999", unix.EINVAL, "max 100000\n"},
		{"cpu.cfs_quota_us", "50000", nil, "50000 100000\n"},
		{"cpu.cfs_period_us", "99999", unix.EINVAL, "50000 100000\n"},
		{"cpu.cfs_period_us", "999", unix.EINVAL, "50000 100000\n"},
		{"cpu.cfs_period_us", "200000", nil, "50000 200000\n"},
		{"cpu.cfs_quota_us", "-1", nil, "max 200000\n"},
	} {
		if err := write(t, c, step.file, step.value); err != step.err {
			t.Errorf("%s %s: %v, want %v", step.file, step.value, err, step.err)
		}
		if c.files["cpu.max"] != step.want {
			t.Errorf("%s %s: %q", step.file, step.value, c.files["cpu.max"])
		}
	}
	if err := write(t, leaf, "cpu.cfs_quota_us", "60000"); err != unix.EINVAL {
		t.Errorf("above the boundary's: %v", err)
	}
}

// TestOwn: what v1 shows of a cgroup alone is what v2 shows less that of the cgroups below; limits are the least above.
func TestOwn(t *testing.T) {
	files := func(anon, limit string) map[string]string {
		return map[string]string{
			"memory.stat": "anon " + anon + "\nfile 4096\n", "memory.max": limit + "\n", "memory.swap.max": "0\n",
			"memory.swap.current": "0\n", "memory.numa_stat": "inactive_anon N0=" + anon + " N1=0\n",
		}
	}
	top := under(nil, files("40960", "1048576"))
	c := under(top, files("12288", "2097152"))
	under(c, files("8192", "max"))
	stat := read(t, c, "memory.stat")
	for _, want := range []string{"rss 4096\n", "total_rss 12288\n", "cache 0\n", "total_cache 4096\n",
		"hierarchical_memory_limit 1048576\n", "hierarchical_memsw_limit 1048576\n"} {
		if !strings.Contains("\n"+stat+"\n", "\n"+want) {
			t.Errorf("memory.stat has no %q:\n%s", want, stat)
		}
	}
	numa := read(t, c, "memory.numa_stat")
	if !strings.HasPrefix(numa, "total=1 N0=1 N1=0\n") || !strings.Contains(numa, "\nhierarchical_anon=3 N0=3 N1=0\n") {
		t.Errorf("memory.numa_stat:\n%s", numa)
	}
}

// TestSets: a set is within the parent's and around the children's.
func TestSets(t *testing.T) {
	top := under(nil, map[string]string{"cpuset.cpus": "\n", "cpuset.cpus.effective": "0-3\n"})
	c := under(top, map[string]string{"cpuset.cpus": "0-2\n", "cpuset.cpus.effective": "0-2\n"})
	child := under(c, map[string]string{"cpuset.cpus": "\n", "cpuset.cpus.effective": "0-2\n"})
	if got := read(t, child, "cpuset.cpus"); got != "0-2" {
		t.Errorf("without a set of its own: %q", got)
	}
	for _, step := range []struct {
		c     *tree
		value string
		err   error
	}{
		{child, "3", unix.EACCES}, {child, "2", nil}, {c, "0-1", unix.EBUSY}, {c, "2-3", nil}, {c, "0-1,2", nil},
	} {
		if err := write(t, step.c, "cpuset.cpus", step.value); err != step.err {
			t.Errorf("%s: %v, want %v", step.value, err, step.err)
		}
	}
}

// TestDevices: limits and statistics by device.
func TestDevices(t *testing.T) {
	files := func(read, discard string) map[string]string {
		return map[string]string{
			"io.max":  "8:0 rbps=1048576 wbps=max riops=max wiops=10\n",
			"io.stat": "8:0 rbytes=" + read + " wbytes=200 rios=3 wios=4 dbytes=" + discard + " dios=0\n",
		}
	}
	c := under(nil, files("1000", "7"))
	under(c, files("400", "0"))
	for name, want := range map[string]string{
		"blkio.throttle.read_bps_device":            "8:0 1048576",
		"blkio.throttle.write_bps_device":           "",
		"blkio.throttle.io_service_bytes":           "8:0 Read 600\n8:0 Write 0\n8:0 Sync 600\n8:0 Async 0\n8:0 Discard 7\n8:0 Total 607\nTotal 607",
		"blkio.throttle.io_service_bytes_recursive": "8:0 Read 1000\n8:0 Write 200\n8:0 Sync 1200\n8:0 Async 0\n8:0 Discard 7\n8:0 Total 1207\nTotal 1207",
	} {
		if got := read(t, c, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if err := write(t, c, "blkio.throttle.read_bps_device", "8:0 0"); err != nil || c.files["io.max"] != "8:0 rbps=max\n" {
		t.Errorf("no limit: %v, %q", err, c.files["io.max"])
	}
}

// TestReset: counters start again where the guest sets them back.
func TestReset(t *testing.T) {
	c := under(nil, map[string]string{
		"memory.events": "low 0\nmax 5\noom_kill 1\n", "memory.peak": "9000\n", "memory.current": "400\n",
		"cpu.stat": "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\n",
	})
	for _, f := range []string{"memory.failcnt", "memory.max_usage_in_bytes", "cpuacct.usage"} {
		if err := write(t, c, f, "0"); err != nil {
			t.Fatal(err)
		}
	}
	want := func(name, is string) {
		t.Helper()
		if got := read(t, c, name); got != is {
			t.Errorf("%s: %q, want %q", name, got, is)
		}
	}
	want("memory.failcnt", "0")
	want("memory.max_usage_in_bytes", "400")
	want("cpuacct.usage", "0")
	want("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1")
	c.files["memory.events"], c.files["memory.peak"], c.files["memory.current"] = "max 7\n", "9500\n", "500\n"
	c.files["cpu.stat"] = "usage_usec 3100\nuser_usec 2060\nsystem_usec 1040\n"
	want("memory.failcnt", "2")
	want("memory.max_usage_in_bytes", "9500")
	want("cpuacct.usage", "100000")
	want("cpuacct.usage_user", "60000")
}

// TestKeepsBoth: what a guest wrote and what it means for the host are kept together: where one is refused the other is as before.
func TestKeepsBoth(t *testing.T) {
	for _, f := range []struct{ name, host, before, value, means string }{
		{"cpu.shares", "cpu.weight", "512", "2048", "159"}, {"blkio.weight", "io.weight", "500", "1000", "10000"},
	} {
		c := under(nil, map[string]string{f.host: "default 100\n"})
		if err := write(t, c, f.name, f.before); err != nil {
			t.Fatal(err)
		}
		old, shown := c.files[f.host], c.kept[f.name]
		c.refuses = func(*tree, string, string) error { return unix.EBUSY }
		if err := write(t, c, f.name, f.value); !errors.Is(err, unix.EBUSY) || c.kept[f.name] != shown {
			t.Errorf("%s, refused by the host: %v, kept %q, before %q", f.name, err, c.kept[f.name], shown)
		}
		c.refuses, c.full = nil, true
		if err := write(t, c, f.name, f.value); !errors.Is(err, unix.ENOSPC) || c.files[f.host] != old {
			t.Errorf("%s, not kept: %v, %s is %q, before %q", f.name, err, f.host, c.files[f.host], old)
		}
		c.full = false
		if err := write(t, c, f.name, f.value); err != nil || c.kept[f.name] != f.value {
			t.Errorf("%s: %v, kept %q", f.name, err, c.kept[f.name])
		}
	}
}
