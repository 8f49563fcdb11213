package integration

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestHierarchies: what "hierarchies" says of a layout is what a view in that layout shows, and mount refuses what it refuses.
func TestHierarchies(t *testing.T) {
	h := kit.OpenHost(t)
	path := kit.NewBoundary(t, "hierarchies", h.Hierarchies()...)
	last := h.Hierarchies()[len(h.Hierarchies())-1]
	for _, controllers := range []string{"", h.Hierarchies()[0].Names()[0], last.Names()[len(last.Names())-1]} {
		for _, layout := range []string{"auto", "v1", "v2", "hybrid"} {
			options := []string{"--layout", layout}
			if controllers != "" {
				options = append(options, "--controllers", controllers)
			}
			t.Run(strings.Join(append(options, "."), " "), func(t *testing.T) {
				testHierarchies(t, path, layout, options)
			})
		}
	}
}

func testHierarchies(t *testing.T, path, layout string, options []string) {
	var all, list []struct {
		Version int
		Shown   string
	}
	auto := kit.RunCommand(t, slices.Concat([]string{"hierarchies", "--json"}, options, []string{"--layout", "auto"})...)
	if err := json.Unmarshal([]byte(auto.Stdout), &all); err != nil {
		t.Fatalf("%v: %+v", err, auto)
	}
	// What the v2 hierarchy has no controller for no v1 hierarchy stands for.
	named := slices.Contains(options, hierarchy.Unified)
	mount := slices.Concat([]string{"mount", "--boundary", path}, options)
	got := kit.RunCommand(t, slices.Concat([]string{"hierarchies", "--json"}, options)...)
	if layout == "v1" && named {
		refused := kit.RunCommand(t, append(mount, kit.PublicDir(t))...)
		why, here, _ := strings.Cut(got.Stderr, "; layouts for what is shown: ")
		if got.Status != 4 || got.Stdout != "" || strings.Count(got.Stderr, "\n") != 1 || !strings.Contains(why, "in layout "+layout) || slices.Contains(strings.Split(strings.TrimSpace(here), ", "), layout) {
			t.Errorf("hierarchies: %+v", got)
		}
		if refused.Status == 0 || refused.Stderr != why+"\n" {
			t.Errorf("mount: %+v, hierarchies: %q", refused, why)
		}
		for _, l := range strings.Split(strings.TrimSpace(here), ", ") {
			if other := kit.RunCommand(t, slices.Concat([]string{"hierarchies"}, options, []string{"--layout", l})...); other.Status != 0 || !strings.Contains(other.Stdout, "SHOWN") {
				t.Errorf("hierarchies names layout %s and says in it: %+v", l, other)
			}
		}
		return
	}
	if err := json.Unmarshal([]byte(got.Stdout), &list); err != nil || got.Status != 0 {
		t.Fatalf("%v: %+v", err, got)
	}
	var want, dirs []string
	for _, one := range list {
		if one.Shown != "" {
			want = append(want, strings.Fields(one.Shown)...)
		}
	}
	v := kit.MountView(t, mount[1:]...)
	entries, err := os.ReadDir(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch {
		case e.IsDir():
			dirs = append(dirs, e.Name())
		case e.Name() == kit.Procs:
			dirs = append(dirs, ".")
		}
	}
	slices.Sort(want)
	want = slices.Compact(want) // of layout v2, in which v1 hierarchies lend controllers
	if slices.Sort(dirs); !slices.Equal(dirs, want) || len(want) == 0 {
		t.Errorf("hierarchies says that a guest is shown %q, the view's top has %q", want, dirs)
	}
}
