package hierarchy_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestGrammars: what the kernel takes is taken and written canonically; what it takes and nobody means is refused.
func TestGrammars(t *testing.T) {
	for _, c := range []struct {
		v        hierarchy.Version
		file, in string
		want     string
		err      error
	}{
		{2, "pids.max", " 0x20\n", "32", nil}, {2, "pids.max", "010", "8", nil}, {2, "pids.max", "max", "max", nil},
		{2, "pids.max", "+5", "5", nil}, {2, "pids.max", "08", "", unix.EINVAL}, {2, "pids.max", "", "", unix.EINVAL},
		{2, "pids.max", "18446744073709551616", "", unix.ERANGE}, {2, "pids.max", "1\x00junk", "1", nil},
		{2, "pids.max", "++1", "", unix.EINVAL}, {2, "pids.max", "0x", "", unix.EINVAL}, {2, "pids.max", "1_0", "", unix.EINVAL},
		{2, "memory.max", "64M\n", "67108864", nil}, {2, "memory.max", "0x10k", "16384", nil}, {2, "memory.max", "010", "8", nil},
		{2, "memory.max", "16E", "", unix.EINVAL}, {2, "memory.max", "18446744073709551616", "", unix.EINVAL},
		{2, "memory.max", "\n", "", unix.EINVAL}, {2, "memory.max", "k", "", unix.EINVAL}, {2, "memory.max", "+5M", "", unix.EINVAL},
		{2, "memory.max", "1.5G", "", unix.EINVAL}, {2, "memory.max", "100MB", "", unix.EINVAL}, {2, "memory.max", "-1", "", unix.EINVAL},
		{2, "memory.max", "0xE", "14", nil}, {2, "memory.max", "0", "0", nil}, {2, "memory.max", "max", "max", nil},
		{1, "memory.limit_in_bytes", "-1", "-1", nil}, {1, "memory.limit_in_bytes", "max", "", unix.EINVAL},
		{2, "cpu.max", "max", "max", nil}, {2, "cpu.max", "max 100000", "max 100000", nil}, {2, "cpu.max", "050000  100000", "50000 100000", nil},
		{2, "cpu.max", "50000abc 100000", "", unix.EINVAL}, {2, "cpu.max", "1 2 3", "", unix.EINVAL}, {2, "cpu.max", "", "", unix.EINVAL},
		{1, "cpu.cfs_quota_us", "-1", "-1", nil}, {1, "cpu.cfs_quota_us", "5 ", "", unix.EINVAL}, {1, "cpu.cfs_quota_us", "0x10", "16", nil},
		{1, "cpu.cfs_quota_us", "9223372036854775808", "", unix.ERANGE}, {1, "cpu.cfs_quota_us", "--1", "", unix.EINVAL},
		{1, "cpuset.cpus", "0-3,5", "0-3,5", nil}, {1, "cpuset.cpus", "\n", "\n", nil}, {1, "cpuset.cpus", "0-31:2/4", "0-31:2/4", nil},
		{1, "cpuset.cpus", "0 1", "0,1", nil}, {1, "cpuset.cpus", "0\n1", "0", nil}, {1, "cpuset.cpus", "0,\n1", "0,1", nil},
		{1, "cpuset.cpus", "ALL", "all", nil}, {1, "cpuset.cpus", "All:1/2\n3", "all:1/2,3", nil}, {1, "cpuset.cpus", ",0,,1,", "0,1", nil},
		{1, "cpuset.cpus", "0\n1-", "0", nil}, {1, "cpuset.cpus", "0x", "", unix.EINVAL}, {1, "cpuset.cpus", "n", "", unix.EINVAL}, {1, "cpuset.cpus", "a", "", unix.EINVAL}, {1, "cpuset.cpus", "1-", "", unix.EINVAL},
		{2, "memory.reclaim", "1M swappiness=60", "1048576 swappiness=60", nil}, {2, "memory.reclaim", "1M", "1048576", nil},
		{2, "memory.reclaim", "1M x=1", "", unix.EINVAL}, {2, "memory.reclaim", "1M swappiness=201", "", unix.EINVAL},
		{1, "memory.force_empty", "x", "0", nil}, {1, "freezer.state", "frozen", "", unix.EINVAL}, {1, "freezer.state", "FROZEN\n", "FROZEN", nil},
		{1, "blkio.throttle.read_bps_device", "8:0 1048576", "8:0 1048576", nil}, {1, "blkio.throttle.read_bps_device", "8:0 1M", "", unix.EINVAL},
		{2, "cpu.uclamp.min", "12.34", "12.34", nil}, {2, "cpu.uclamp.min", "1e9", "", unix.EINVAL},
	} {
		f, ok := hierarchy.Lookup(c.v, c.file)
		if !ok {
			t.Fatalf("no file %s", c.file)
		}
		got, err := f.Grammar.Parse([]byte(c.in))
		if !errors.Is(err, c.err) || err == nil && string(got.Canonical()) != c.want {
			t.Errorf("%s: Parse(%q) = %q, %v; want %q, %v", c.file, c.in, got.Canonical(), err, c.want, c.err)
		}
	}
}

// FuzzValues: a value that is taken is taken again in its canonical form, and then does not change; it is never longer than
// what the kernel takes for a short text, and has no NUL.
func FuzzValues(f *testing.F) {
	for _, s := range []string{"", "\n", "max", "-1", "16E", "0x7fffffffffffffff", "0-3:1/2,all", "50000 100000", "8:0 5", "FROZEN", "1M swappiness=3"} {
		f.Add([]byte(s))
	}
	table := hierarchy.Table()
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, row := range table {
			v, err := row.Grammar.Parse(raw)
			if err != nil {
				var errno unix.Errno
				if !errors.As(err, &errno) {
					t.Fatalf("%s: error %v is no errno", row.Name, err)
				}
				continue
			}
			c := v.Canonical()
			again, err := row.Grammar.Parse(c)
			if err != nil || !bytes.Equal(bytes.TrimSuffix(again.Canonical(), []byte("\n")), bytes.TrimSuffix(c, []byte("\n"))) && row.Grammar.String() != "" && !strings.Contains(string(c), "\n") {
				t.Fatalf("%s: %q becomes %q becomes %q, %v", row.Name, raw, c, again.Canonical(), err)
			}
			if bytes.IndexByte(c, 0) >= 0 {
				t.Fatalf("%s: a NUL in %q", row.Name, c)
			}
		}
	})
}
