package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// The invariants of the package, restated here without its help.

var (
	bothVersions = []hierarchy.Version{hierarchy.V1, hierarchy.V2}
	bothPlaces   = []hierarchy.Place{hierarchy.Boundary, hierarchy.Below}
)

// mayOptIn are the only files that a policy may make writable below the boundary against the table.
var mayOptIn = []string{"net_cls.classid", "cpu.rt_runtime_us", "cpu.rt_period_us"}

// neverWritable are files that no policy may make writable anywhere.
var neverWritable = []string{
	"release_agent", "cpuset.cpus.partition", "cpuset.cpus.exclusive", "cpuset.cpu_exclusive", "cpuset.mem_exclusive",
	"cpuset.sched_load_balance", "cpuset.sched_relax_domain_level", "net_prio.ifpriomap", "net_prio.prioidx",
	"cgroup.event_control", "io.latency", "io.cost.qos", "io.cost.model", "cgroup.controllers", "memory.current",
	"blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device", "cpuset.memory_pressure_enabled",
}

// neverAtBoundary are limits and actions, none of which may be writable at the boundary.
var neverAtBoundary = []string{
	"memory.max", "memory.high", "memory.limit_in_bytes", "pids.max", "cpu.max", "cpu.weight", "cpu.shares",
	"cpu.cfs_quota_us", "cpuset.cpus", "cpuset.mems", "io.max", "cgroup.type", "cgroup.freeze", "cgroup.kill",
	"cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure", "devices.allow", "devices.deny", "freezer.state",
	"hugetlb.2MB.max", "hugetlb.1GB.limit_in_bytes", "net_cls.classid", "cpu.rt_runtime_us", "notify_on_release",
	"memory.oom_control", "memory.force_empty", "memory.failcnt", "cpuacct.usage", "rdma.max", "misc.max", "dmem.max",
}

// names makes real names of a row: the name itself, or, for a row of many, some that it stands for.
func names(row hierarchy.ControlFile) []string {
	if !strings.Contains(row.Name, "*") {
		return []string{row.Name}
	}
	var out []string
	for _, s := range []string{"2MB", "1GB", "memory", "pids", "throttle", "memory.kmem", "max", ""} {
		out = append(out, strings.ReplaceAll(row.Name, "*", s))
	}
	return out
}

func writable(v hierarchy.Verdict) bool { return v == hierarchy.ReadWrite || v == hierarchy.Guarded }

// checkInvariants holds a policy against every row of the table and against names that no table knows.
func checkInvariants(t *testing.T, p *policy.Policy) {
	t.Helper()
	all := slices.Concat(neverWritable, neverAtBoundary, []string{"", "memory.shown_ram_in_bytes", "x", "cgroup.", "memory."})
	for _, row := range hierarchy.Table() {
		all = append(all, names(row)...)
	}
	for _, v := range bothVersions {
		for _, name := range all {
			for _, place := range bothPlaces {
				d := p.Decide(policy.Request{Version: v, File: name, Place: place})
				checkDecision(t, p, v, name, place, d)
			}
		}
	}
}

func checkDecision(t *testing.T, p *policy.Policy, v hierarchy.Version, name string, place hierarchy.Place, d policy.Decision) {
	t.Helper()
	fail := func(why string) {
		t.Helper()
		t.Errorf("v%d %q at place %d: %v by %q: %s", v, name, place, d.Verdict, d.Rule, why)
	}
	row, known := hierarchy.Lookup(v, name)
	table := row.Below
	if place == hierarchy.Boundary {
		table = row.Boundary
	}
	w := writable(d.Verdict)
	switch {
	case d.Rule == "":
		fail("no rule is named")
	case w && !known:
		fail("a file that no table knows is writable")
	case w && place == hierarchy.Boundary && !writable(table):
		fail("writable at the boundary against the table")
	case w && place == hierarchy.Boundary && slices.Contains(neverAtBoundary, name):
		fail("a limit or an action is writable at the boundary")
	case w && !writable(table) && !slices.Contains(mayOptIn, name):
		fail("writable against the table")
	case w && slices.Contains(neverWritable, name) && d.File.Constraint != hierarchy.Unchanged:
		fail("never writable")
	case d.Verdict == hierarchy.ReadWrite && table == hierarchy.Guarded:
		fail("the table's guard is lifted")
	case d.Check != nil && d.Verdict != hierarchy.Guarded:
		fail("a constraint without the verdict guarded")
	case d.Check != nil && row.Constraint != hierarchy.Unconstrained && row.Constraint != hierarchy.Canonical:
		fail("the table's constraint is replaced")
	case d.Check == nil && w && name == "net_cls.classid":
		fail("writable without a constraint")
	}
	prefix, _, _ := strings.Cut(name, ".")
	everywhere := v == hierarchy.V2 && hierarchy.ControllerOf(name) == "" // v2 has it without the controller
	if slices.Contains(hierarchy.KnownControllers(), prefix) && !everywhere && !p.Permits(prefix) && d.Verdict != hierarchy.Hidden {
		fail("a file of a controller that is not shown")
	}
}

// randomPolicy writes a policy of entries that each Parse takes on its own, drawn from the table's names and from globs.
func randomPolicy(r *rand.Rand) string {
	rows := hierarchy.Table()
	pick := func() string {
		ns := names(rows[r.IntN(len(rows))])
		n := ns[r.IntN(len(ns))]
		if i := r.IntN(len(n) + 1); r.IntN(3) == 0 {
			n = n[:i] + "*" + n[min(len(n), i+r.IntN(4)):]
		}
		return n
	}
	list := func(section, key string) (items []string) {
		for range r.IntN(12) {
			item := fmt.Sprintf("%q", pick())
			if _, err := policy.Parse("one", fmt.Appendf(nil, "version: 1\n%s: {%s: [%s]}\n", section, key, item)); err == nil {
				items = append(items, item)
			}
		}
		return items
	}
	var b strings.Builder
	b.WriteString("version: 1\n")
	if r.IntN(2) == 0 {
		var cs []string
		for _, c := range hierarchy.KnownControllers() {
			if r.IntN(2) == 0 {
				cs = append(cs, c)
			}
		}
		fmt.Fprintf(&b, "controllers: [%s]\n", strings.Join(cs, ", "))
	}
	b.WriteString("boundary:\n  hidden: []\n")
	seen := map[string]bool{}
	write := func(section string, keys ...string) {
		clear(seen)
		for _, key := range keys {
			var items []string
			for _, i := range list(section, key) {
				if !seen[i] {
					seen[i] = true
					items = append(items, i)
				}
			}
			fmt.Fprintf(&b, "  %s: [%s]\n", key, strings.Join(items, ", "))
		}
	}
	write("boundary", "writable", "read-only")
	b.WriteString("below:\n")
	write("below", "hidden", "read-only", "read-write")
	b.WriteString("  guarded:\n    pids.peak*: {}\n")
	for range r.IntN(8) {
		e := fmt.Sprintf("%q: {%s}", pick(), []string{"", "max: 3", "range: [1, 100]", "values: [1]", "values: [max]"}[r.IntN(5)])
		if _, err := policy.Parse("one", fmt.Appendf(nil, "version: 1\nbelow: {guarded: {%s}}\n", e)); err == nil && !seen[strings.SplitN(e, ":", 2)[0]] {
			seen[strings.SplitN(e, ":", 2)[0]] = true
			fmt.Fprintf(&b, "    %s\n", e)
		}
	}
	return strings.Replace(b.String(), "    pids.peak*: {}\n", "    cgroup.threads: {}\n", 1)
}

// TestInvariants: no policy that Parse takes, nor any choice of controllers from it, breaks an invariant.
func TestInvariants(t *testing.T) {
	checkInvariants(t, policy.Default())
	checkInvariants(t, &policy.Policy{})
	r := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 60 {
		text := randomPolicy(r)
		p, err := policy.Parse("random.yaml", []byte(text))
		if err != nil {
			continue // two guarded globs of one file, say
		}
		taken++
		checkInvariants(t, p)
		if q, err := p.WithControllers([]string{"memory"}); err == nil {
			checkInvariants(t, q)
		}
		if t.Failed() {
			t.Fatalf("policy:\n%s", text)
		}
	}
	if taken < 20 {
		t.Errorf("only %d of 60 random policies were taken: the test draws too many bad ones", taken)
	}
}

// TestNeverWritable: asking for what is never writable is an error, alone and at either place, that says what is allowed.
func TestNeverWritable(t *testing.T) {
	for _, name := range neverWritable {
		for _, text := range []string{"below: {read-write: [%s]}", "below: {guarded: {%s: {values: [1]}}}", "boundary: {writable: [%s]}"} {
			_, err := policy.Parse("p", fmt.Appendf(nil, "version: 1\n"+text, name))
			if err == nil || !strings.Contains(err.Error(), "allowed: ") {
				t.Errorf(text+": error %v; want one that says what is allowed", name, err)
			}
		}
	}
	for _, name := range neverAtBoundary {
		if _, err := policy.Parse("p", fmt.Appendf(nil, "version: 1\nboundary: {writable: [%s]}", name)); err == nil {
			t.Errorf("boundary.writable takes %s", name)
		}
	}
}

// FuzzParse: Parse never panics, each fault has its place, and a policy that is taken keeps the invariants.
func FuzzParse(f *testing.F) {
	f.Add(policy.DefaultText())
	for _, text := range fuzzSeeds(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Parse("fuzz.yaml", text)
		if err == nil {
			checkInvariants(t, p)
			return
		}
		all, ok := err.(policy.Errors)
		if !ok || len(all) == 0 || p != nil {
			t.Fatalf("Parse = %v, %T; want no policy and policy.Errors", p, err)
		}
		for _, e := range all {
			if e.File != "fuzz.yaml" || e.Line < 1 || e.Column < 1 || e.Msg == "" {
				t.Fatalf("fault without its place: %+v", *e)
			}
		}
	})
}
