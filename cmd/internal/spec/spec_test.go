package spec

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

// TestNameOf: a container's name that no guest can have gives another one, the same each time.
func TestNameOf(t *testing.T) {
	for _, name := range []string{"web", strings.Repeat("a", maxName)} {
		if got := NameOf(name); got != name {
			t.Errorf("%q became %q", name, got)
		}
	}
	seen := map[string]bool{}
	for _, name := range []string{"", "a/b", "-a", "cgroup.procs", strings.Repeat("a", maxName+1)} {
		got := NameOf(name)
		if err := CheckName(got); err != nil || got != NameOf(name) || seen[got] {
			t.Errorf("%q became %q: %v, %v before", name, got, err, seen)
		}
		seen[got] = true
	}
}
