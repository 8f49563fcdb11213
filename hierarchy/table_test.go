package hierarchy_test

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

var update = flag.Bool("update", false, "write docs/control-files.md anew")

// fact is a row of testdata/hierarchy/controlfiles.tsv, what was measured and read about one or a few control files.
type fact struct {
	version               hierarchy.Version
	names                 []string
	exists, below, atRoot string
	mode                  string
}

// expand makes the names of a row: "a / b", "a, b", "<sz>", "{read,write}", "[rsvd.]", and short forms of a prefix.
func expand(text string) []string {
	text = strings.NewReplacer(" (CFQ, <5.0)", "", " (+_recursive)", "", " stats", "", " (all)", "", " (nonroot, newer)", "",
		"_user/_sys/_percpu/_percpu_user/_percpu_sys/_all", "_user / cpuacct.usage_sys / cpuacct.usage_all",
		"uclamp.min/max", "uclamp.min / cpu.uclamp.max", "{read,write}_{bps,iops}", "read_bps", "<sz>", "2MB").Replace(text)
	var names []string
	first := ""
	for _, part := range regexp.MustCompile(` / |, | \| `).Split(text, -1) {
		if first == "" {
			first = part
		}
		switch prefix, _, _ := strings.Cut(first, "."); {
		case strings.HasPrefix(part, "*."):
			part = "memory" + part[1:]
		case strings.HasPrefix(part, ".") && !strings.HasPrefix(part, ".["):
			part = "hugetlb.2MB" + part
		case strings.HasPrefix(part, ".["):
			part = "hugetlb.2MB" + part
		case !strings.Contains(part, ".") && strings.Contains(first, "."):
			part = prefix + "." + part
		}
		part = strings.ReplaceAll(part, "blkio.io_serviced", "blkio.throttle.io_serviced")
		if strings.Contains(part, "[rsvd.]") {
			names = append(names, strings.Replace(part, "[rsvd.]", "rsvd.", 1))
			part = strings.Replace(part, "[rsvd.]", "", 1)
		}
		names = append(names, strings.ReplaceAll(part, "*", "io_serviced"))
	}
	return names
}

func facts(t testing.TB) []fact {
	t.Helper()
	raw, err := os.ReadFile("../testdata/hierarchy/controlfiles.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var all []fact
	for i, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		f := strings.Split(line, "\t")
		if i == 0 || strings.HasPrefix(f[2], "<any") || strings.HasPrefix(f[2], "(") {
			continue // the heading, what stands for unknown files, hierarchies without files of their own
		}
		v, _ := strconv.Atoi(f[0])
		x := fact{version: hierarchy.Version(v), exists: f[4], atRoot: f[9], below: f[10], mode: f[3]}
		if f[2] == "same names as v2" {
			x.names, x.mode = []string{"rdma.max", "misc.max", "dmem.max"}, "0644"
		} else {
			x.names = expand(f[2])
		}
		all = append(all, x)
	}
	return all
}

// verdictOf reads a verdict as the facts write it.
func verdictOf(s, exists string) hierarchy.Verdict {
	switch {
	case exists == "root only", s == "hidden", s == "n/a":
		return hierarchy.Hidden
	case s == "rw":
		return hierarchy.ReadWrite
	case s == "rwc", s == "fake":
		return hierarchy.Guarded
	}
	return hierarchy.ReadOnly // ro, ro*, deny, fake(0): shown, never written
}

// declared are the rows that differ from the facts, each for a reason.
var declared = map[string]string{
	"devices.deny": "devcgroup_update_access asks for CAP_SYS_ADMIN for deny as for allow, so it is guarded as that is",
}

// TestFacts: the table has every control file of the facts, with the verdicts that they give.
func TestFacts(t *testing.T) {
	n := 0
	for _, fact := range facts(t) {
		for _, name := range fact.names {
			n++
			row, ok := hierarchy.Lookup(fact.version, name)
			if !ok {
				t.Errorf("v%d %s is not in the table", fact.version, name)
				continue
			}
			if declared[name] != "" {
				continue
			}
			if want := verdictOf(fact.atRoot, fact.exists); row.Boundary != want {
				t.Errorf("v%d %s at the boundary: %v, the facts say %s", fact.version, name, row.Boundary, fact.atRoot)
			}
			if want := verdictOf(fact.below, fact.exists); row.Below != want {
				t.Errorf("v%d %s below: %v, the facts say %s", fact.version, name, row.Below, fact.below)
			}
			mode, err := strconv.ParseUint(strings.Fields(fact.mode)[0], 8, 32)
			if err == nil && row.Mode != uint32(mode) {
				t.Errorf("v%d %s: mode %04o, the facts say %s", fact.version, name, row.Mode, fact.mode)
			}
		}
	}
	if n < 150 {
		t.Errorf("only %d names were found in the facts", n)
	}
}

// TestTable: what every row must keep.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range hierarchy.Table() {
		key := strconv.Itoa(int(f.Version)) + f.Name
		writable := f.Boundary == hierarchy.ReadWrite || f.Below == hierarchy.ReadWrite || f.Boundary == hierarchy.Guarded || f.Below == hierarchy.Guarded
		switch {
		case seen[key]:
			t.Errorf("v%d %s stands twice", f.Version, f.Name)
		case writable && f.Mode&0o222 == 0:
			t.Errorf("%s is writable against its mode %04o", f.Name, f.Mode)
		case (f.Boundary == hierarchy.Guarded || f.Below == hierarchy.Guarded) != (f.Constraint != hierarchy.Unconstrained):
			t.Errorf("%s: a guarded file needs a constraint, any other has none", f.Name)
		case f.Mode&0o222 != 0 && f.Below == hierarchy.ReadOnly && f.Reason == "":
			t.Errorf("%s could be written and is not: it needs a reason", f.Name)
		case f.RootOnly() && f.Below != hierarchy.Hidden:
			t.Errorf("%s is in the root only, so in no guest", f.Name)
		case f.Name != "tasks" && !strings.Contains(f.Name, ".") && f.Version == hierarchy.V2:
			t.Errorf("%s is no name of a v2 file", f.Name)
		}
		seen[key] = true
		if row, ok := hierarchy.Lookup(f.Version, strings.ReplaceAll(f.Name, "*", "memory")); !ok || row.Name != f.Name {
			t.Errorf("Lookup(%s) = %s, %t", f.Name, row.Name, ok)
		}
	}
}

func TestLookupUnknown(t *testing.T) {
	for _, name := range []string{"", "memory.shown_ram_in_bytes", "memory", "hugetlb..max", "x.events.local", ".events.local", "cgroup."} {
		for _, v := range []hierarchy.Version{-1, 0, 1, 2, 3} {
			if f, ok := hierarchy.Lookup(v, name); ok {
				t.Errorf("Lookup(%d, %q) = %s", v, name, f.Name)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"io.max": true, "cgroup.x": true, "memory.": true, "dmem.anything": true, "irq.pressure": true, "tasks": true,
		"notify_on_release": true, "release_agent": true, ".vcgroupfs": false,
		"a": false, "init.scope": false, "system.slice": false, "memory": false, "cgroup": false, ".memory.max": false, "Memory.max": false,
	} {
		if got := hierarchy.ReservedName(name); got != want {
			t.Errorf("ReservedName(%q) = %t", name, got)
		}
	}
	for _, f := range hierarchy.Table() {
		if !hierarchy.ReservedName(f.Name) && !strings.HasPrefix(f.Name, "*") {
			t.Errorf("a cgroup may be called %s, a control file", f.Name)
		}
	}
	for file, want := range map[string]string{
		"memory.max": "memory", "memory.pressure": "", "memory.pressure_level": "memory", "cpu.stat": "", "cpu.max": "cpu",
		"cgroup.procs": "", "tasks": "", "irq.pressure": "", "vendor.file": "",
	} {
		if got := hierarchy.ControllerOf(file); got != want {
			t.Errorf("ControllerOf(%s) = %q", file, got)
		}
	}
	if !slices.Contains(hierarchy.KnownControllers(), "dmem") || hierarchy.UnifiedController("freezer") {
		t.Error("controllers")
	}
}

// TestReference: docs/control-files.md is the table.
func TestReference(t *testing.T) {
	const file = "../docs/control-files.md"
	var b bytes.Buffer
	if err := writeReference(&b); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || !bytes.Equal(want, b.Bytes()) {
		t.Errorf("%s differs from the table (go generate ./hierarchy): %v", file, err)
	}
}
