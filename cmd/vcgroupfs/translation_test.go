package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
)

// TestExplainTranslation: a line says what stands for a file, after the verdicts on the version shown.
func TestExplainTranslation(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"cpu.shares", "cpu.shares, v1 on a v2 host: cpu.weight: weight = ceil(10^((l²+125l)/612 - 7/34)), l = log2 of " +
			"shares; 2 is 1, 1024 is 100, 262144 is 10000; lost: several shares have the same weight; a weight that the " +
			"host has set is shown as the most shares for it\n"},
		{"cpu.rt_runtime_us", "cpu.rt_runtime_us, v1 on a v2 host: not shown: v2 has no real-time bandwidth\n"},
		{"cgroup.clone_children", "cgroup.clone_children, v1 on a v2 host: 0 or 1, kept; lost: it has no effect\n"},
		{"hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.limit_in_bytes, v1 on a v2 host: hugetlb.2MB.max: the same; -1 is max, shown as 2^63 - the page\n"},
		{"memory.events.local", "memory.events.local, v2 on a v1 host: not shown: v1 does not " +
			"tell a cgroup's own events from those below\n"},
		{"pids.max", "pids.max, v1 on a v2 host: pids.max: the same\n" +
			"pids.max, v2 on a v1 host: pids.max: the same\n"},
		{"cgroup.procs", ""}, {"devices.allow", ""},
	} {
		code, out, errs := try("policy", "explain", c.file)
		got := ""
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, c.file+", ") {
				got += line
			}
		}
		if code != 0 || errs != "" || got != c.want {
			t.Errorf("%s: %d, %q, %q; want %q", c.file, code, errs, got, c.want)
		}
	}
	_, out, _ := try("policy", "explain", "pids.max", "cpu.idle")
	for i, want := range []string{"v1, boundary", "v1, below", "v1 on", "v2, boundary", "v2, below", "v2 on",
		"v1, boundary", "v1, below", "v1 on", "v2, boundary", "v2, below", "v2 on"} {
		if lines := strings.Split(out, "\n"); len(lines) != 13 || !strings.Contains(lines[i], want) {
			t.Fatalf("line %d of %q has no %q", i, lines, want)
		}
	}
}

// TestExplainTranslationJSON: each line has the row's texts; one without a row has no such field.
func TestExplainTranslationJSON(t *testing.T) {
	for _, r := range translate.Rows() {
		file := strings.Replace(r.Name, "*", map[bool]string{false: "2MB", true: "memory"}[r.Name[0] == '*'], 1)
		_, out, errs := try("policy", "explain", "--json", file)
		var list []explanation
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) == 0 {
			t.Fatalf("%s: %v, %s", file, err, errs)
		}
		for _, e := range list {
			if e.Version != int(r.Version) {
				continue
			}
			want := translation{3 - e.Version, r.HostFile(file), r.Says, r.Lost, r.Absent}
			if e.Translation == nil || *e.Translation != want {
				t.Errorf("%s on v%d, %s: %v, want %v", file, e.Version, e.Place, e.Translation, want)
			}
		}
	}
	if _, out, _ := try("policy", "explain", "--json", "cgroup.procs"); strings.Contains(out, "translation") {
		t.Errorf("cgroup.procs: %s", out)
	}
}
