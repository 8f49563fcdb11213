package guest

import (
	"strings"
	"testing"
)

func TestNamesAndLimits(t *testing.T) {
	for name, want := range map[string]bool{
		"web": true, "run-12": true, "a.b_c-d": true, "": false, "..": false, ".hidden": false, "a/b": false, "-x": false, "tasks": false,
		"memory.max": false, "cgroup.procs": false, strings.Repeat("x", 65): false, "a\nb": false,
	} {
		if err := CheckName(name); (err == nil) != want {
			t.Errorf("CheckName(%q): %v", name, err)
		}
	}
	if l, err := ParseLimit("io.max=8:0 rbps=1"); err != nil || l != (Limit{"io.max", "8:0 rbps=1"}) {
		t.Errorf("%v, %v", l, err)
	}
	for _, s := range []string{"", "x", "=1", "x=", "../x=1"} {
		if _, err := ParseLimit(s); err == nil {
			t.Errorf("ParseLimit(%q) takes it", s)
		}
	}
	if o, err := ParseOwner("1000:1001"); err != nil || o.UID != 1000 || o.GID != 1001 {
		t.Errorf("%v, %v", o, err)
	}
	for _, s := range []string{"", "root:root", "1", "-1:0", "4294967295:0", "1:2:3"} {
		if _, err := ParseOwner(s); err == nil {
			t.Errorf("ParseOwner(%q) takes it", s)
		}
	}
}

func TestFilterCgroups(t *testing.T) {
	const text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nmemory\t4\t240\t1\npids\t8\t77\t1\nblkio\t0\t5\t1\ncpuacct\t0\t5\t1\n"
	permits := func(names ...string) func(string) bool {
		return func(c string) bool { return strings.Contains(" "+strings.Join(names, " ")+" ", " "+c+" ") }
	}
	for want, p := range map[string]func(string) bool{
		"#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t1\t1\npids\t8\t1\t1\n": permits("memory", "pids"),
		"#subsys_name\thierarchy\tnum_cgroups\tenabled\n":                                 permits(),
		"#subsys_name\thierarchy\tnum_cgroups\tenabled\nblkio\t0\t1\t1\n":                 permits("io"), // v2's io is blkio there
		"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuacct\t0\t1\t1\n":               permits("cpu"),
	} {
		if got := filterCgroups(text, p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
