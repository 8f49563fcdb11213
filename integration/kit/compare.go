package kit

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// stableFiles are the files that tell the same whenever they are read, when nobody works in their cgroup.
var stableFiles = []string{Procs, "tasks", "pids.current", "pids.max", "pids.events", "cgroup.events", "cgroup.type",
	"cgroup.subtree_control"}

// WantSame compares a site as the host has it with how it is seen: which cgroups there are, and what their stable files
// say.
func WantSame(t testing.TB, s Site) {
	t.Helper()
	c := comparison{t: t}
	c.walk(HostDir(s.Pids, s.Path), s.Dir, "/")
	if s.Unified != s.Pids {
		c.walk(HostDir(s.Unified, s.Path), s.EventsDir, "/")
	}
	if c.files < 100 {
		t.Errorf("%s: only %d files were compared", s.Path, c.files)
	}
}

type comparison struct {
	t          testing.TB
	files, bad int
}

func (c *comparison) walk(real, seen, below string) {
	c.t.Helper()
	want, got := CgroupsIn(real), CgroupsIn(seen)
	if !slices.Equal(want, got) {
		c.differ("%s has %q, the view %q", real, want, got)
	}
	for _, file := range stableFiles {
		path := filepath.Join(seen, file)
		if below == "/" || !Exists(path) {
			continue // the boundary's own files may show what is elsewhere on the host
		}
		if a, b := ReadFile(filepath.Join(real, file)), ReadFile(path); a != b {
			c.differ("%s/%s is %q, in the view %q", real, file, a, b)
		}
		c.files++
	}
	for _, name := range got {
		if c.bad < 20 {
			c.walk(filepath.Join(real, name), filepath.Join(seen, name), filepath.Join(below, name))
		}
	}
}

func (c *comparison) differ(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf(format, args...)
	c.bad++
}

// CgroupsIn are the names of the cgroups in a directory, sorted, without the one that a guest does not see.
func CgroupsIn(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() && e.Name() != hierarchy.LeafName {
			names = append(names, e.Name())
		}
	}
	return names
}
