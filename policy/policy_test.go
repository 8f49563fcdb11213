package policy_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

func fuzzSeeds(f *testing.F) (texts [][]byte) {
	f.Helper()
	for _, dir := range []string{"good", "bad"} {
		des, err := os.ReadDir(testdata + "/" + dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, de := range des {
			if !strings.HasSuffix(de.Name(), ".yaml") {
				continue
			}
			text, err := os.ReadFile(testdata + "/" + dir + "/" + de.Name())
			if err != nil {
				f.Fatal(err)
			}
			texts = append(texts, text)
		}
	}
	return texts
}

func parse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestDefault: the default says of every file of a shown controller what the table says, and shows the controllers that
// its comments say.
func TestDefault(t *testing.T) {
	p := policy.Default()
	notShown := []string{"blkio", "net_prio", "perf_event", "debug"}
	for _, c := range hierarchy.KnownControllers() {
		if got, want := p.Permits(c), !slices.Contains(notShown, c); got != want {
			t.Errorf("Permits(%q) = %v; want %v", c, got, want)
		}
	}
	if p.Permits("unified") || p.Permits("name=systemd") {
		t.Error("a named hierarchy or the second tree of a hybrid host is shown by default")
	}
	q, err := p.WithControllers(append([]string{"unified"}, hierarchy.KnownControllers()...))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range hierarchy.Table() {
		if strings.Contains(row.Name, "*") {
			continue
		}
		for place, want := range map[hierarchy.Place]hierarchy.Verdict{hierarchy.Boundary: row.Boundary, hierarchy.Below: row.Below} {
			d := q.Decide(policy.Request{Version: row.Version, File: row.Name, Place: place})
			if d.Verdict != want || d.Rule != "default table" || d.Check != nil || d.File.Name != row.Name {
				t.Errorf("v%d %s at place %d: %v by %q; the table says %v", row.Version, row.Name, place, d.Verdict, d.Rule, want)
			}
		}
	}
	if got, want := p.Quota(), (policy.Quota{Cgroups: 4096, Depth: 16}); got != want {
		t.Errorf("Quota = %+v; want %+v", got, want)
	}
}

// TestTotal: what is not known is hidden, whatever is asked.
func TestTotal(t *testing.T) {
	for _, r := range []policy.Request{
		{}, {Version: hierarchy.V2}, {Version: 3, File: "memory.max"}, {Version: -1, File: "memory.max"},
		{Version: hierarchy.V2, File: "memory.max", Place: 7}, {Version: hierarchy.V2, File: "memory.shown_ram_in_bytes"},
		{Version: hierarchy.V2, File: "memory.limit_in_bytes"}, {Version: hierarchy.V1, File: "memory.max"},
		{Version: hierarchy.V2, File: strings.Repeat("m", 1<<16)}, {Version: hierarchy.V2, File: "\x00"},
	} {
		if d := policy.Default().Decide(r); d.Verdict != hierarchy.Hidden || d.Rule == "" {
			t.Errorf("%.40v: %v by %q; want hidden", r, d.Verdict, d.Rule)
		}
	}
}

// TestCheck: a constraint of the policy lets through the canonical value and nothing else.
func TestCheck(t *testing.T) {
	p := parse(t, `{version: 1, below: {guarded: {
		pids.max: {range: [0x10, 512]}, memory.max: {max: 64M}, memory.high: {values: [max, 1G]},
		net_cls.classid: {range: [0x00100000, 0x0010ffff]}, "hugetlb.2*.max": {max: 4M},
		cpu.max: {values: ["50000 100000"]}, freezer.state: {values: [THAWED]}, cpu.cfs_quota_us: {max: 50000}}}}`)
	for _, c := range []struct {
		v        hierarchy.Version
		file, in string
		want     string
		err      error
	}{
		{hierarchy.V2, "pids.max", "0x20\n", "32", nil},
		{hierarchy.V1, "pids.max", "020", "16", nil},
		{hierarchy.V2, "pids.max", "15", "", unix.EPERM},
		{hierarchy.V2, "pids.max", "513", "", unix.EPERM},
		{hierarchy.V2, "pids.max", "max", "", unix.EPERM},
		{hierarchy.V2, "pids.max", "many", "", unix.EINVAL},
		{hierarchy.V2, "memory.max", "64M\n", "67108864", nil},
		{hierarchy.V2, "memory.max", "65M", "", unix.EPERM},
		{hierarchy.V2, "memory.max", "max", "", unix.EPERM},
		{hierarchy.V2, "memory.high", "1024M", "1073741824", nil},
		{hierarchy.V2, "memory.high", "max\n", "max", nil},
		{hierarchy.V2, "memory.high", "1", "", unix.EPERM},
		{hierarchy.V1, "net_cls.classid", "0x100001", "1048577", nil},
		{hierarchy.V1, "net_cls.classid", "4296015873", "", unix.EPERM}, // the kernel would cut it to 0x100001
		{hierarchy.V1, "net_cls.classid", "0", "", unix.EPERM},
		{hierarchy.V2, "hugetlb.2MB.max", "2M", "2097152", nil},
		{hierarchy.V2, "hugetlb.2MB.max", "8M", "", unix.EPERM},
		{hierarchy.V2, "cpu.max", "50000 100000\n", "50000 100000", nil},
		{hierarchy.V2, "cpu.max", "50001 100000", "", unix.EPERM},
		{hierarchy.V1, "freezer.state", "THAWED\n", "THAWED", nil},
		{hierarchy.V1, "freezer.state", "FROZEN", "", unix.EPERM},
		{hierarchy.V1, "cpu.cfs_quota_us", "-1", "", unix.EPERM},
		{hierarchy.V1, "cpu.cfs_quota_us", "50000", "50000", nil},
	} {
		d := p.Decide(policy.Request{Version: c.v, File: c.file, Place: hierarchy.Below})
		if d.Verdict != hierarchy.Guarded || d.Check == nil || d.File.Constraint != hierarchy.ByPolicy {
			t.Errorf("v%d %s: %v, constraint %v; want guarded by the policy", c.v, c.file, d.Verdict, d.File.Constraint)
			continue
		}
		got, err := d.Check([]byte(c.in))
		if strings.TrimSuffix(string(got), "\n") != c.want || !errors.Is(err, c.err) {
			t.Errorf("v%d %s: Check(%q) = %q, %v; want %q, %v", c.v, c.file, c.in, got, err, c.want, c.err)
		}
	}
	if d := p.Decide(policy.Request{Version: hierarchy.V2, File: "hugetlb.1GB.max", Place: hierarchy.Below}); d.Check != nil {
		t.Error("hugetlb.2*.max speaks of hugetlb.1GB.max")
	}
}

// TestUnknown: a file that no table knows is hidden; named by the policy it is read-only, if its controller is shown.
func TestUnknown(t *testing.T) {
	const name = "memory.shown_ram_in_bytes"
	named := parse(t, "{version: 1, unknown: ["+name+", cgroup.novel]}")
	other := parse(t, "{version: 1, controllers: [pids], unknown: ["+name+"]}")
	for _, v := range bothVersions {
		for _, place := range bothPlaces {
			r := policy.Request{Version: v, File: name, Place: place}
			for p, want := range map[*policy.Policy]hierarchy.Verdict{
				policy.Default(): hierarchy.Hidden, named: hierarchy.ReadOnly, other: hierarchy.Hidden,
			} {
				if d := p.Decide(r); d.Verdict != want {
					t.Errorf("%+v: %v by %q; want %v", r, d.Verdict, d.Rule, want)
				}
			}
		}
	}
	if _, err := policy.Default().Explain(name); !errors.Is(err, policy.ErrUnknownFile) {
		t.Errorf("Explain of an unknown file: %v; want ErrUnknownFile", err)
	}
}

// TestWithControllers: a command line sets the default's controllers and narrows a policy's.
func TestWithControllers(t *testing.T) {
	p, err := policy.Default().WithControllers([]string{"blkio", "name=systemd"})
	if err != nil || !p.Permits("blkio") || !p.Permits("name=systemd") || p.Permits("memory") {
		t.Errorf("WithControllers(blkio) on the default: %v", err)
	}
	if d := p.Decide(policy.Request{Version: hierarchy.V2, File: "memory.max", Place: hierarchy.Below}); d.Verdict != hierarchy.Hidden || d.Rule != "--controllers" {
		t.Errorf("memory.max: %v by %q; want hidden by --controllers", d.Verdict, d.Rule)
	}
	listed := parse(t, "{version: 1, controllers: [memory, pids]}")
	if p, err := listed.WithControllers([]string{"pids"}); err != nil || p.Permits("memory") || !p.Permits("pids") {
		t.Errorf("narrowing: %v", err)
	}
	if !listed.Permits("memory") {
		t.Error("WithControllers changed the policy that it was called on")
	}
	for names, want := range map[string]string{"cpu": "policy.yaml:1", "memroy": "allowed: ", "a b": "no such controller"} {
		if p, err := listed.WithControllers(strings.Fields(names)); p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("WithControllers(%s) = %v; want an error with %q", names, err, want)
		}
	}
	if p, err := listed.WithControllers(nil); err != nil || p.Permits("pids") {
		t.Errorf("no controllers: %v", err)
	}
}

// TestDecideAllocates: a decision about a known file, exact or of a family, and about an unknown one allocates nothing.
// TestDecideTranslated: what a policy says of one version's file holds for the file that stands for it, and the table's word on
// how v1 nests holds for no file of v2 behind it.
func TestDecideTranslated(t *testing.T) {
	parse := func(text string) *policy.Policy {
		p, err := policy.Parse("p", []byte("version: 1\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		return p.Legacy()
	}
	standard := policy.Default().Legacy()
	for _, c := range []struct {
		p            *policy.Policy
		file, behind string
		place        hierarchy.Place
		want         hierarchy.Verdict
	}{
		{standard, "memory.limit_in_bytes", "memory.max", hierarchy.Below, hierarchy.ReadWrite},
		{standard, "memory.limit_in_bytes", "memory.max", hierarchy.Boundary, hierarchy.ReadOnly},
		{standard, "memory.failcnt", "memory.events", hierarchy.Below, hierarchy.ReadWrite},
		{standard, "memory.usage_in_bytes", "memory.current", hierarchy.Below, hierarchy.ReadOnly},
		{standard, "memory.soft_limit_in_bytes", "", hierarchy.Below, hierarchy.ReadWrite},
		{standard, "blkio.throttle.read_bps_device", "io.max", hierarchy.Below, hierarchy.ReadWrite},
		{standard, "blkio.throttle.read_bps_device", "io.max", hierarchy.Boundary, hierarchy.ReadOnly},
		{standard, "blkio.throttle.io_serviced", "io.stat", hierarchy.Below, hierarchy.ReadOnly},
		{standard, "cpuacct.usage", "cpu.stat", hierarchy.Below, hierarchy.ReadWrite},
		{parse("below: {read-only: [memory.max]}\n"), "memory.limit_in_bytes", "memory.max", hierarchy.Below, hierarchy.ReadOnly},
		{parse("below: {hidden: [memory.max]}\n"), "memory.limit_in_bytes", "memory.max", hierarchy.Below, hierarchy.Hidden},
		{parse("below: {read-only: [memory.limit_in_bytes]}\n"), "memory.limit_in_bytes", "memory.max", hierarchy.Below, hierarchy.ReadOnly},
		{parse("below: {read-only: [blkio.throttle.read_bps_device]}\n"), "blkio.throttle.read_bps_device", "io.max", hierarchy.Below, hierarchy.ReadOnly},
		{parse("controllers: [memory]\n"), "cpu.shares", "cpu.weight", hierarchy.Below, hierarchy.Hidden},
		{parse("controllers: [blkio]\n"), "blkio.throttle.read_bps_device", "io.max", hierarchy.Below, hierarchy.ReadWrite},
	} {
		r := policy.Request{Version: hierarchy.V1, File: c.file, Place: c.place}
		if got := c.p.DecideTranslated(r, c.behind); got.Verdict != c.want {
			t.Errorf("%s, which stands for %s, at %v: %v (%s), want %v", c.file, c.behind, c.place, got.Verdict, got.Rule, c.want)
		}
	}
	if p := parse("controllers: [io, cpu]\n"); !p.Permits("blkio") || !p.Permits("cpuacct") || p.Permits("memory") || p.Legacy() != p {
		t.Errorf("%q", p.Controllers())
	}
	if p := parse("controllers: [cpuacct]\n"); p.Permits("cpu") {
		t.Errorf("%q", p.Controllers())
	}
}

func TestDecideAllocates(t *testing.T) {
	p := parse(t, `{version: 1, below: {guarded: {"hugetlb.2*.max": {max: 4M}, pids.max: {max: 5}}}}`)
	for _, name := range []string{"memory.max", "pids.max", "hugetlb.2MB.max", "hugetlb.1GB.max", "blkio.reset_stats", "x.y", "memory.unheard"} {
		var d policy.Decision
		for _, v := range bothVersions {
			if n := testing.AllocsPerRun(100, func() { d = p.Decide(policy.Request{Version: v, File: name, Place: hierarchy.Below}) }); n != 0 {
				t.Errorf("Decide of v%d %s (%v): %v allocations", v, name, d.Verdict, n)
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	p := policy.Default()
	for _, name := range []string{"memory.max", "hugetlb.2MB.max", "memory.unheard"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(policy.Request{Version: hierarchy.V2, File: name, Place: hierarchy.Below})
			}
		})
	}
}

// TestHides: a rule of the policy hides a file, and not the table, an unknown name or a controller that is not shown.
func TestHides(t *testing.T) {
	p := parse(t, "version: 1\ncontrollers: [memory, pids]\nbelow: {hidden: [memory.current, pids.*], read-only: [memory.max]}\n")
	for _, c := range []struct {
		file  string
		place hierarchy.Place
		want  bool
	}{
		{"memory.current", hierarchy.Below, true}, {"memory.current", hierarchy.Boundary, false}, {"pids.max", hierarchy.Below, true},
		{"memory.max", hierarchy.Below, false}, {"cpu.max", hierarchy.Below, false}, {"memory.nothing", hierarchy.Below, false},
		{"cgroup.freeze", hierarchy.Below, false},
	} {
		if got := p.Hides(policy.Request{Version: hierarchy.V2, File: c.file, Place: c.place}); got != c.want {
			t.Errorf("%s at place %d: %v", c.file, c.place, got)
		}
	}
	var none policy.Policy
	if none.Hides(policy.Request{Version: hierarchy.V2, File: "memory.max", Place: hierarchy.Below}) {
		t.Error("no policy hides a file by a rule")
	}
}
