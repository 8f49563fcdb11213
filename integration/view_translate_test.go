package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// translateStep is a write to a control file of a cgroup, or none, and what the file reads afterwards.
type translateStep struct{ in, file, write, errno, reads string }

// translateSteps are writes to control files of v1 in a cgroup ("a"), one below it ("a/b") and one beside that ("a/c"), and
// what each file reads afterwards. The kernel gives these answers where it has v1 (run here on 6.18), and the rows of
// package translate where it has v2.
var translateSteps = map[string][]translateStep{
	"cpu": {
		{"a", "cpu.shares", "", "", "1024"},
		{"a", "cpu.shares", "512", "", "512"},
		{"a", "cpu.shares", "0x200", "", "512"},
		{"a", "cpu.shares", "0", "", "2"},
		{"a", "cpu.shares", "1", "", "2"},
		{"a", "cpu.shares", "300000", "", "262144"},
		{"a", "cpu.shares", "-5", "EINVAL", "262144"},
		{"a", "cpu.shares", "1.5", "EINVAL", "262144"},
		{"a", "cpu.shares", "512 ", "EINVAL", "262144"},
		{"a", "cpu.shares", "521", "", "521"},
		{"a", "cpu.cfs_period_us", "", "", "100000"},
		{"a", "cpu.cfs_quota_us", "", "", "-1"},
		{"a", "cpu.cfs_quota_us", "0", "EINVAL", "-1"},
		{"a", "cpu.cfs_quota_us", "999", "EINVAL", "-1"},
		{"a", "cpu.cfs_quota_us", "abc", "EINVAL", "-1"},
		{"a", "cpu.cfs_quota_us", "18446744073709551615", "ERANGE", "-1"},
		{"a", "cpu.cfs_quota_us", "9223372036854775807", "EINVAL", "-1"},
		{"a", "cpu.cfs_quota_us", "1000", "", "1000"},
		{"a", "cpu.cfs_quota_us", "-2", "", "-1"},
		{"a", "cpu.cfs_quota_us", "50000", "", "50000"},
		{"a", "cpu.cfs_period_us", "0", "EINVAL", "100000"},
		{"a", "cpu.cfs_period_us", "999", "EINVAL", "100000"},
		{"a", "cpu.cfs_period_us", "1000001", "EINVAL", "100000"},
		{"a", "cpu.cfs_period_us", "-1", "EINVAL", "100000"},
		{"a", "cpu.cfs_period_us", "1000000", "", "1000000"},
		{"a", "cpu.cfs_period_us", "100000", "", "100000"},
		{"a/b", "cpu.cfs_quota_us", "50001", "EINVAL", "-1"},
		{"a/b", "cpu.cfs_quota_us", "50000", "", "50000"},
		{"a/b", "cpu.cfs_period_us", "99999", "EINVAL", "100000"},
		{"a/c", "cpu.cfs_quota_us", "20000", "", "20000"},
		{"a", "cpu.cfs_quota_us", "49999", "EINVAL", "50000"},
		{"a", "cpu.cfs_period_us", "100001", "EINVAL", "100000"},
		{"a", "cpu.cfs_quota_us", "60000", "", "60000"},
		{"a", "cpu.cfs_quota_us", "-1", "", "-1"},
		{"a", "cpu.cfs_quota_us", "50000", "", "50000"},
		{"a", "cpu.cfs_burst_us", "10", "", "10"},
		{"a", "cpu.cfs_burst_us", "60000", "EINVAL", "10"},
		{"a", "cpu.cfs_burst_us", "0", "", "0"},
		{"a", "cpu.idle", "2", "EINVAL", "0"},
		{"a", "cpu.idle", "1", "", "1"},
		{"a", "cpu.shares", "100", "EINVAL", "3"},
		{"a", "cpu.idle", "0", "", "0"},
		{"a", "cpu.shares", "", "", "1024"},
	},
	"cpuacct": {
		{"a", "cpuacct.usage", "0", "", "0"},
		{"a", "cpuacct.usage", "5", "EINVAL", "0"},
		{"a", "cpuacct.usage", "-1", "EINVAL", "0"},
		{"a", "cpuacct.usage_user", "", "", "0"},
		{"a", "cpuacct.usage_sys", "", "", "0"},
		{"a", "cpuacct.stat", "", "", "user 0\nsystem 0"},
	},
	"memory": {
		{"a", "memory.limit_in_bytes", "", "", "9223372036854771712"},
		{"a", "memory.limit_in_bytes", "64M", "", "67108864"},
		{"a", "memory.limit_in_bytes", "67108865", "", "67108864"},
		{"a", "memory.limit_in_bytes", "+5000", "EINVAL", "67108864"},
		{"a", "memory.limit_in_bytes", "abc", "EINVAL", "67108864"},
		{"a", "memory.limit_in_bytes", "-2", "EINVAL", "67108864"},
		{"a", "memory.limit_in_bytes", "max", "EINVAL", "67108864"},
		{"a", "memory.limit_in_bytes", "9223372036854775807", "", "9223372036854771712"},
		{"a", "memory.limit_in_bytes", "0x4000000", "", "67108864"},
		{"a", "memory.limit_in_bytes", " 64m ", "", "67108864"},
		{"a", "memory.memsw.limit_in_bytes", "", "", "9223372036854771712"},
		{"a", "memory.memsw.limit_in_bytes", "96M", "", "100663296"},
		{"a", "memory.memsw.limit_in_bytes", "32M", "EINVAL", "100663296"},
		{"a", "memory.memsw.limit_in_bytes", "64M", "", "67108864"},
		{"a", "memory.memsw.limit_in_bytes", "96M", "", "100663296"},
		{"a", "memory.limit_in_bytes", "100M", "EINVAL", "67108864"},
		{"a", "memory.limit_in_bytes", "-1", "EINVAL", "67108864"},
		{"a", "memory.limit_in_bytes", "96M", "", "100663296"},
		{"a", "memory.limit_in_bytes", "32M", "", "33554432"},
		{"a", "memory.memsw.limit_in_bytes", "", "", "100663296"},
		{"a/b", "memory.limit_in_bytes", "128M", "", "134217728"},
		{"a/b", "memory.limit_in_bytes", "16M", "", "16777216"},
		{"a", "memory.memsw.limit_in_bytes", "-1", "", "9223372036854771712"},
		{"a", "memory.limit_in_bytes", "-1", "", "9223372036854771712"},
		{"a/c", "memory.usage_in_bytes", "", "", "0"},
		{"a/c", "memory.memsw.usage_in_bytes", "", "", "0"},
		{"a/c", "memory.max_usage_in_bytes", "0", "", "0"},
		{"a/c", "memory.max_usage_in_bytes", "x", "", "0"},
		{"a", "memory.failcnt", "", "", "0"},
		{"a", "memory.failcnt", "x", "", "0"},
		{"a", "memory.memsw.failcnt", "0", "", "0"},
		{"a", "memory.soft_limit_in_bytes", "", "", "9223372036854771712"},
		{"a", "memory.soft_limit_in_bytes", "7M", "", "7340032"},
		{"a", "memory.soft_limit_in_bytes", "-2", "EINVAL", "7340032"},
		{"a", "memory.soft_limit_in_bytes", "-1", "", "9223372036854771712"},
		{"a", "memory.kmem.limit_in_bytes", "7M", "", "9223372036854771712"},
		{"a", "memory.kmem.limit_in_bytes", "max", "EINVAL", "9223372036854771712"},
		{"a/c", "memory.kmem.usage_in_bytes", "", "", "0"},
		{"a", "memory.kmem.failcnt", "", "", "0"},
		{"a", "memory.kmem.tcp.limit_in_bytes", "-1", "", "9223372036854771712"},
		{"a/c", "memory.kmem.tcp.usage_in_bytes", "", "", "0"},
		{"a", "memory.use_hierarchy", "1", "", "1"},
		{"a", "memory.use_hierarchy", "0", "EINVAL", "1"},
		{"a", "memory.use_hierarchy", "2", "EINVAL", "1"},
		{"a", "memory.use_hierarchy", "x", "EINVAL", "1"},
		{"a", "memory.move_charge_at_immigrate", "0", "", "0"},
		{"a", "memory.move_charge_at_immigrate", "1", "EINVAL", "0"},
		{"a", "memory.swappiness", "", "", "60"},
		{"a", "memory.swappiness", "0", "", "0"},
		{"a", "memory.swappiness", "200", "", "200"},
		{"a", "memory.swappiness", "201", "EINVAL", "200"},
		{"a", "memory.swappiness", "-1", "EINVAL", "200"},
		{"a", "memory.oom_control", "", "", "oom_kill_disable 0\nunder_oom 0\noom_kill 0"},
		{"a", "memory.oom_control", "0", "", "oom_kill_disable 0\nunder_oom 0\noom_kill 0"},
		{"a", "memory.oom_control", "2", "EINVAL", "oom_kill_disable 0\nunder_oom 0\noom_kill 0"},
		{"a", "memory.oom_control", "x", "EINVAL", "oom_kill_disable 0\nunder_oom 0\noom_kill 0"},
		{"a", "memory.force_empty", "0", "", "EINVAL"},
		{"a", "memory.force_empty", "x", "", "EINVAL"},
		{"a", "memory.pressure_level", "", "", "EINVAL"},
	},
	"cpuset": {
		{"a", "cpuset.cpus", "0-1", "", "0-1"},
		{"a", "cpuset.mems", "0", "", "0"},
		{"a", "cpuset.cpus", "x", "EINVAL", "0-1"},
		{"a/b", "cpuset.cpus", "0", "", "0"},
		{"a/b", "cpuset.mems", "0", "", "0"},
		{"a", "cpuset.cpus", "1", "EBUSY", "0-1"},
		{"a", "cpuset.cpus", "0", "", "0"},
		{"a/b", "cpuset.cpus", "1", "EACCES", "0"},
		{"a", "cpuset.effective_cpus", "", "", "0"},
		{"a", "cpuset.effective_mems", "", "", "0"},
		{"a", "cpuset.cpus", "0-99999", "ERANGE", "0"},
		{"a", "cpuset.cpu_exclusive", "0", "", "0"},
		{"a", "cpuset.mem_exclusive", "0", "", "0"},
		{"a", "cpuset.mem_hardwall", "1", "", "1"},
		{"a", "cpuset.mem_hardwall", "0", "", "0"},
		{"a", "cpuset.memory_migrate", "1", "", "1"},
		{"a", "cpuset.memory_migrate", "2", "", "1"},
		{"a", "cpuset.memory_migrate", "x", "EINVAL", "1"},
		{"a", "cpuset.memory_spread_page", "1", "", "1"},
		{"a", "cpuset.memory_spread_slab", "0", "", "0"},
		{"a", "cpuset.sched_load_balance", "1", "", "1"},
		{"a", "cpuset.sched_relax_domain_level", "-1", "", "-1"},
		{"a", "cpuset.memory_pressure", "", "", "0"},
		{"a", "cgroup.clone_children", "", "", "0"},
		{"a", "cgroup.clone_children", "1", "", "1"},
		{"a", "cgroup.clone_children", "0", "", "0"},
	},
	"freezer": {
		{"a", "freezer.state", "", "", "THAWED"},
		{"a", "freezer.self_freezing", "", "", "0"},
		{"a", "freezer.state", "FREEZING", "EINVAL", "THAWED"},
		{"a", "freezer.state", "frozen", "EINVAL", "THAWED"},
		{"a", "freezer.state", "FROZEN", "", "FROZEN"},
		{"a", "freezer.self_freezing", "", "", "1"},
		{"a", "freezer.parent_freezing", "", "", "0"},
		{"a/b", "freezer.parent_freezing", "", "", "1"},
		{"a/b", "freezer.self_freezing", "", "", "0"},
		{"a/b", "freezer.state", "", "", "FROZEN"},
		{"a/b", "freezer.state", "THAWED", "", "FROZEN"},
		{"a", "freezer.state", "THAWED", "", "THAWED"},
		{"a/b", "freezer.state", "", "", "THAWED"},
	},
	"pids": {
		{"a", "pids.max", "", "", "max"},
		{"a", "pids.max", "0", "", "0"},
		{"a", "pids.max", "-1", "EINVAL", "0"},
		{"a", "pids.max", "9999999999", "EINVAL", "0"},
		{"a", "pids.max", "4194304", "", "4194304"},
		{"a", "pids.max", "4194305", "EINVAL", "4194304"},
		{"a", "pids.max", "max", "", "max"},
		{"a", "pids.current", "", "", "0"},
		{"a", "pids.events", "", "", "max 0"},
	},
	"blkio": {
		{"a", "blkio.throttle.read_bps_device", "", "", ""},
		{"a", "blkio.throttle.io_service_bytes_recursive", "", "", "Total 0"},
		{"a", "blkio.throttle.io_service_bytes", "", "", "Total 0"},
		{"a", "blkio.throttle.io_serviced_recursive", "", "", "Total 0"},
		{"a", "blkio.throttle.io_serviced", "", "", "Total 0"},
		{"a", "blkio.throttle.read_bps_device", "nonsense", "EINVAL", ""},
		{"a", "blkio.throttle.read_bps_device", "999999:0 1", "ENODEV", ""},
	},
}

// onV2 names the controllers of v2 that stand for a v1 hierarchy's.
var onV2 = map[string]string{"cpu": "cpu", "cpuacct": "cpu", "memory": "memory", "cpuset": "cpuset", "freezer": "pids", "pids": "pids", "blkio": "io"}

// translated is a cgroup of the host for package translate.
type translated struct {
	top, dir string
	kept     map[string]string // by directory and name
}

func (c translated) Read(file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, file))
	return string(b), plainErrno(err)
}

func (c translated) Write(file, value string) error {
	return plainErrno(os.WriteFile(filepath.Join(c.dir, file), []byte(value), 0))
}

func plainErrno(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func (c translated) Kept(name string) (string, error) { return c.kept[c.dir+" "+name], nil }

func (c translated) Keep(name, value string) error {
	c.kept[c.dir+" "+name] = value
	return nil
}

func (c translated) Above() (translate.Cgroup, bool) {
	return translated{c.top, filepath.Dir(c.dir), c.kept}, c.dir != c.top
}

func (c translated) Below() (all []translate.Cgroup, err error) {
	entries, err := os.ReadDir(c.dir)
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, translated{c.top, filepath.Join(c.dir, e.Name()), c.kept})
		}
	}
	return all, err
}

// translateV2Steps are the same the other way: the answers of the kernel's v2 (run here on 6.12 and 6.1), which the rows of
// package translate give where it has v1. Of cpu.weight with cpu.idle there is no step: 6.12 shows 1 and 6.1 shows 0.
var translateV2Steps = map[string][]translateStep{
	"cpu": {
		{"a", "cpu.weight", "50", "", "50"},
		{"a", "cpu.weight", "0", "ERANGE", "50"},
		{"a", "cpu.weight", "10001", "ERANGE", "50"},
		{"a", "cpu.weight", "-1", "EINVAL", "50"},
		{"a", "cpu.weight", "x", "EINVAL", "50"},
		{"a", "cpu.weight", "33", "", "33"},
		{"a", "cpu.weight.nice", "", "", "5"},
		{"a", "cpu.weight.nice", "5", "", "5"},
		{"a", "cpu.weight", "", "", "33"},
		{"a", "cpu.weight.nice", "-20", "", "-20"},
		{"a", "cpu.weight", "", "", "8668"},
		{"a", "cpu.weight.nice", "20", "ERANGE", "-20"},
		{"a", "cpu.weight.nice", "-21", "ERANGE", "-20"},
		{"a", "cpu.idle", "1", "", "1"},
		{"a", "cpu.idle", "0", "", "0"},
		{"a", "cpu.weight", "", "", "100"},
		{"a", "cpu.max", "50000 100000", "", "50000 100000"},
		{"a", "cpu.max", "20000", "", "20000 100000"},
		{"a", "cpu.max", "max", "", "max 100000"},
		{"a", "cpu.max", "max 50000", "", "max 50000"},
		{"a", "cpu.max", "999", "EINVAL", "max 50000"},
		{"a", "cpu.max", "1000 999", "EINVAL", "max 50000"},
		{"a", "cpu.max", "1000 1000001", "EINVAL", "max 50000"},
		{"a", "cpu.max", "x", "EINVAL", "max 50000"},
		{"a", "cpu.max", "-1", "EINVAL", "max 50000"},
		{"a", "cpu.max", "30000 20000", "", "30000 20000"},
		{"a", "cpu.max.burst", "10", "", "10"},
		{"a", "cpu.max.burst", "60000", "EINVAL", "10"},
		{"a", "cpu.max", "max 100000", "", "max 100000"},
		{"a", "cpu.stat.local", "", "", "throttled_usec 0"},
	},
	"memory": {
		{"a", "memory.max", "64M", "", "67108864"},
		{"a", "memory.max", "67108865", "", "67108864"},
		{"a", "memory.max", "-1", "EINVAL", "67108864"},
		{"a", "memory.max", "x", "EINVAL", "67108864"},
		{"a", "memory.max", "max", "", "max"},
		{"a", "memory.max", "64M", "", "67108864"},
		{"a", "memory.swap.max", "32M", "", "33554432"},
		{"a", "memory.max", "32M", "", "33554432"},
		{"a", "memory.swap.max", "", "", "33554432"},
		{"a", "memory.max", "128M", "", "134217728"},
		{"a", "memory.swap.max", "", "", "33554432"},
		{"a", "memory.swap.max", "0", "", "0"},
		{"a", "memory.swap.max", "max", "", "max"},
		{"a", "memory.swap.max", "-1", "EINVAL", "max"},
		{"a", "memory.max", "max", "", "max"},
		{"a", "memory.swap.max", "32M", "", "33554432"},
		{"a", "memory.max", "64M", "", "67108864"},
		{"a", "memory.swap.max", "", "", "33554432"},
		{"a", "memory.max", "max", "", "max"},
		{"a", "memory.swap.max", "", "", "33554432"},
		{"a", "memory.swap.max", "max", "", "max"},
		{"a", "memory.high", "max", "", "max"},
		{"a", "memory.low", "0", "", "0"},
		{"a", "memory.min", "0", "", "0"},
		{"a", "memory.swap.high", "max", "", "max"},
		{"a", "memory.oom.group", "0", "", "0"},
		{"a", "memory.oom.group", "2", "EINVAL", "0"},
		{"a", "memory.oom.group", "x", "EINVAL", "0"},
		{"a", "memory.swap.current", "", "", "0"},
		{"a", "memory.events", "", "", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0"},
		{"a", "memory.swap.events", "", "", "high 0\nmax 0\nfail 0"},
		{"a/b", "memory.current", "", "", "0"},
	},
	"cpuset": {
		{"a", "cpuset.cpus", "0", "", "0"},
		{"a", "cpuset.cpus.effective", "", "", "0"},
		{"a/b", "cpuset.cpus.effective", "", "", "0"},
		{"a/b", "cpuset.cpus", "1", "", "1"},
		{"a/b", "cpuset.cpus.effective", "", "", "0"},
		{"a", "cpuset.cpus", "1", "", "1"},
		{"a/b", "cpuset.cpus.effective", "", "", "1"},
		{"a", "cpuset.cpus", "99999", "ERANGE", "1"},
		{"a", "cpuset.cpus", "x", "EINVAL", "1"},
		{"a", "cpuset.cpus", "\n", "", ""},
		{"a/b", "cpuset.cpus", "\n", "", ""},
		{"a", "cpuset.mems", "0", "", "0"},
		{"a", "cpuset.mems", "7", "EINVAL", "0"},
		{"a", "cpuset.mems.effective", "", "", "0"},
	},
	"freezer": {
		{"a", "cgroup.freeze", "1", "", "1"},
		{"a/b", "cgroup.freeze", "", "", "0"},
		{"a", "cgroup.freeze", "2", "ERANGE", "1"},
		{"a", "cgroup.freeze", "x", "EINVAL", "1"},
		{"a", "cgroup.freeze", "0", "", "0"},
	},
	"pids": {
		{"a", "pids.max", "0", "", "0"},
		{"a", "pids.max", "-1", "EINVAL", "0"},
		{"a", "pids.max", "4194305", "EINVAL", "0"},
		{"a", "pids.max", "max", "", "max"},
		{"a", "pids.current", "", "", "0"},
		{"a", "pids.events", "", "", "max 0"},
	},
	"io": {
		{"a/b", "io.max", "nonsense", "EINVAL", ""},
		{"a/b", "io.max", "999999:0 rbps=1", "ENODEV", ""},
		{"a/b", "io.max", "", "", ""},
		{"a", "io.stat", "", "", ""},
	},
}

// onV1 names the v1 hierarchy that has a controller of v2, and a v2 one where the v1 is not there: every cgroup can freeze.
var onV1 = map[string]string{"io": "blkio", "freezer": "pids"}

// TestTranslateV1: where the kernel has v1 it gives the table's answers; where it has v2, the rows of package translate do.
func TestTranslateV1(t *testing.T) { testTranslate(t, hierarchy.V1, translateSteps, onV2) }

// TestTranslateV2: where the kernel has v2 it gives the table's answers; where it has v1, the rows of package translate do.
func TestTranslateV2(t *testing.T) { testTranslate(t, hierarchy.V2, translateV2Steps, onV1) }

func testTranslate(t *testing.T, shown hierarchy.Version, table map[string][]translateStep, other map[string]string) {
	h := kit.OpenHost(t)
	for controller, steps := range table {
		t.Run(controller, func(t *testing.T) {
			hier := hierarchyWith(h, controller, other[controller])
			if hier == nil {
				t.Skipf("machine: no hierarchy has %s", controller)
			}
			path := kit.NewBoundary(t, t.Name(), hier)
			top := kit.HostDir(hier, path)
			for _, name := range []string{"a", "a/b", "a/c"} {
				dir := filepath.Join(top, name)
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				switch {
				case hier.Version == hierarchy.V2:
					if err := hier.Enable(path+"/"+name, hier.Controllers...); err != nil {
						t.Fatal(err)
					}
				case shown == hierarchy.V2 && controller == "cpuset": // as mkdir in a view of v2 has to
					for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
						if err := os.WriteFile(filepath.Join(dir, f), []byte(kit.ReadFile(filepath.Join(top, f))), 0); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			kept := map[string]string{}
			for _, s := range steps {
				if hier.Version == shown && s.file == "memory.move_charge_at_immigrate" && s.write == "1" && !conn.KernelAtLeast(6, 13) {
					continue // still accepted there (e33b51499a0a)
				}
				s.run(t, shown, translated{top, filepath.Join(top, s.in), kept}, hier.Version == shown)
			}
		})
	}
}

func hierarchyWith(h *host.Host, names ...string) *host.Hierarchy {
	for _, name := range names {
		if hier := h.Hierarchy(name); name != "" && hier != nil {
			return hier
		}
	}
	return nil
}

// run does a step natively, or by the row of the file.
func (s translateStep) run(t *testing.T, shown hierarchy.Version, c translated, native bool) {
	t.Helper()
	write := func() error { return c.Write(s.file, s.write) }
	read := func() (string, error) { return c.Read(s.file) }
	host := s.file
	if !native {
		row, ok := translate.Lookup(shown, s.file)
		if !ok {
			t.Fatalf("%s has no row", s.file)
		}
		host = row.HostFile(s.file)
		write = func() error { return row.Write(c, s.file, []byte(s.write)) }
		read = func() (string, error) {
			b, err := row.Read(c, s.file)
			return string(b), err
		}
	}
	if host != "" && !kit.Exists(filepath.Join(c.dir, host)) {
		t.Logf("%s: the kernel has no %s", s.file, host)
		return
	}
	if s.write != "" {
		if got := kit.ErrnoName(write()); got != s.errno {
			t.Errorf("%s: writing %q to %s: %s, want %q", s.in, s.write, s.file, got, s.errno)
		}
	}
	got, err := read()
	if err != nil {
		got = kit.ErrnoName(err)
	}
	if got = strings.TrimSuffix(got, "\n"); got != s.reads {
		t.Errorf("%s: after writing %q %s reads %q, want %q", s.in, s.write, s.file, got, s.reads)
	}
}
