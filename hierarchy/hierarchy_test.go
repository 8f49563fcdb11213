package hierarchy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// describe prints what Assemble finds, one hierarchy in a line.
func describe(all []hierarchy.Hierarchy) string {
	var b strings.Builder
	for _, h := range all {
		fmt.Fprintf(&b, "v%d %d %s at %s dir %s links %v ro %t\n", h.Version, h.ID, h, h.Mountpoint, h.Dir, h.Symlinks(), h.ReadOnly)
	}
	return b.String()
}

func assemble(t testing.TB, mountinfo, cgroups, controllers string) []hierarchy.Hierarchy {
	t.Helper()
	mounts, err := hierarchy.ParseMounts([]byte(mountinfo))
	if err != nil {
		t.Fatal(err)
	}
	return hierarchy.Assemble(mounts, []byte(cgroups), controllers)
}

// TestAssemble: hosts of every kind, as captured.
func TestAssemble(t *testing.T) {
	dirs, err := filepath.Glob("../testdata/hierarchy/*/mountinfo")
	if err != nil || len(dirs) < 4 {
		t.Fatalf("captured hosts: %v, %v", dirs, err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			read := func(name string) string {
				raw, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				return string(raw)
			}
			got := describe(assemble(t, read("mountinfo"), read("cgroup"), read("cgroup.controllers")))
			if *update {
				if err := os.WriteFile(filepath.Join(dir, "want"), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read("want"); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// TestViews: views in a mount table. What anybody may have mounted is none.
func TestViews(t *testing.T) {
	const text = `42 48 0:39 / /sys/fs/cgroup rw,nosuid - fuse.cgroup vcgroupfs rw,user_id=0,group_id=0,default_permissions,allow_other
43 42 0:40 / /x ro,nosuid - fuse.cgroup2 vcgroupfs rw,user_id=0,group_id=0
44 42 0:39 /memory /sys/fs/cgroup/memory rw - fuse.cgroup vcgroupfs rw,user_id=0,group_id=0
45 42 0:39 /memory/a /y rw - fuse.cgroup vcgroupfs rw,user_id=0,group_id=0
46 42 0:41 / /home/mallory/m rw - fuse.cgroup2 mallory rw,user_id=1000,group_id=1000
47 42 0:42 / /lxcfs rw - fuse.lxcfs lxcfs rw,user_id=0,group_id=0
`
	mounts, err := hierarchy.ParseMounts([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, m := range mounts {
		fmt.Fprintf(&got, "%d %s view %t several %t whole %t dir %q ro %t v%d\n", m.ID, m.Point, m.View, m.Several, m.Whole, m.Dir, m.ReadOnly, m.Version)
	}
	const want = `42 /sys/fs/cgroup view true several true whole true dir "" ro false v1
43 /x view true several false whole true dir "" ro true v2
44 /sys/fs/cgroup/memory view true several true whole true dir "memory" ro false v1
45 /y view true several true whole false dir "" ro false v1
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
	top := mounts[0]
	parts := []hierarchy.Mount{top.Part("/c/cpu,cpuacct", "cpu,cpuacct"), top.Part("/c/systemd", "systemd"), top.Part("/c/unified", "unified")}
	found := describe(hierarchy.Assemble(parts, []byte("9:name=systemd:/\n8:pids:/\n4:cpuacct,cpu:/\n0::/\n"), "memory"))
	const hosts = `v1 4 cpuacct,cpu at /c/cpu,cpuacct dir cpu,cpuacct links [cpuacct cpu] ro false
v1 9 name=systemd at /c/systemd dir systemd links [] ro false
v2 0 unified at /c/unified dir unified links [] ro false
`
	if found != hosts {
		t.Errorf("got\n%swant\n%s", found, hosts)
	}
}

func TestLayout(t *testing.T) {
	v1, v2 := hierarchy.Hierarchy{Version: hierarchy.V1}, hierarchy.Hierarchy{Version: hierarchy.V2}
	for _, c := range []struct {
		shown []hierarchy.Hierarchy
		want  hierarchy.Layout
	}{
		{[]hierarchy.Hierarchy{v2}, hierarchy.LayoutV2}, {[]hierarchy.Hierarchy{v1, v1}, hierarchy.LayoutV1},
		{[]hierarchy.Hierarchy{v1, v2}, hierarchy.LayoutHybrid},
	} {
		if got := hierarchy.LayoutAuto.Resolve(c.shown); got != c.want {
			t.Errorf("Resolve(%v) = %v, want %v", c.shown, got, c.want)
		}
	}
	for _, c := range []struct {
		layout hierarchy.Layout
		shown  []hierarchy.Hierarchy
		says   string
	}{
		{hierarchy.LayoutV1, []hierarchy.Hierarchy{v1}, ""}, {hierarchy.LayoutV2, []hierarchy.Hierarchy{v2}, ""},
		{hierarchy.LayoutHybrid, []hierarchy.Hierarchy{v2}, ""}, {hierarchy.LayoutHybrid, []hierarchy.Hierarchy{v1, v2}, ""},
		{hierarchy.LayoutV1, []hierarchy.Hierarchy{v1, v2}, "cannot show the v2 hierarchy in layout v1"},
		{hierarchy.LayoutV2, []hierarchy.Hierarchy{{Version: hierarchy.V1, Controllers: []string{"pids"}}}, "cannot show pids in layout v2"},
		{hierarchy.LayoutV2, []hierarchy.Hierarchy{v2, {Version: hierarchy.V1, Name: "x"}}, "cannot show name=x in layout v2"},
	} {
		got, err := c.layout.Arrange(c.shown)
		if got != c.layout || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v for %v: %v, %v; want %q", c.layout, c.shown, got, err, c.says)
		}
	}
	for _, name := range []string{"auto", "v1", "v2", "hybrid"} {
		if l, err := hierarchy.ParseLayout(name); err != nil || l.String() != name {
			t.Errorf("ParseLayout(%s) = %v, %v", name, l, err)
		}
	}
	if _, err := hierarchy.ParseLayout("v3"); err == nil || !strings.Contains(err.Error(), "allowed") {
		t.Errorf("ParseLayout(v3): %v", err)
	}
}

// TestTranslatedLayouts: what a view shows for a hierarchy of the other version.
func TestTranslatedLayouts(t *testing.T) {
	v2 := hierarchy.Hierarchy{Version: hierarchy.V2, Controllers: []string{"cpuset", "cpu", "io", "memory", "perf_event", "hugetlb", "pids", "rdma", "misc"}}
	v1 := func(id int, controllers ...string) hierarchy.Hierarchy {
		return hierarchy.Hierarchy{Version: hierarchy.V1, ID: id, Controllers: controllers, Dir: strings.Join(controllers, ",")}
	}
	named := hierarchy.Hierarchy{Version: hierarchy.V1, ID: 5, Name: "systemd", Dir: "systemd"}
	permitted := []string{"cpu", "cpuacct", "io", "blkio", "memory", "freezer", "name=systemd", "misc"}
	for _, c := range []struct {
		layout    hierarchy.Layout
		of        hierarchy.Hierarchy
		beside    []hierarchy.Hierarchy
		permitted []string
		want      string
	}{
		{hierarchy.LayoutV2, v2, nil, permitted, "unified"},
		{hierarchy.LayoutV1, v2, nil, permitted, "cpu,cpuacct blkio memory misc freezer systemd"},
		{hierarchy.LayoutV1, v2, []hierarchy.Hierarchy{v1(3, "memory"), v1(4, "freezer"), named}, permitted, "cpu,cpuacct blkio misc"},
		{hierarchy.LayoutV1, v2, nil, []string{"perf_event", "devices", "net_cls"}, ""},
		{hierarchy.LayoutV1, v1(3, "memory"), []hierarchy.Hierarchy{v2}, permitted, "memory"},
		{hierarchy.LayoutV2, v1(3, "memory"), []hierarchy.Hierarchy{v2}, permitted, ""},
		{hierarchy.LayoutHybrid, v1(3, "memory"), []hierarchy.Hierarchy{v2}, permitted, "memory"},
	} {
		var got []string
		for _, h := range c.layout.Shown(c.of, append([]hierarchy.Hierarchy{c.of}, c.beside...), c.permitted) {
			if h.Version == hierarchy.V2 {
				h.Dir = h.String()
			}
			got = append(got, h.Dir)
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("layout %v for %v beside %v: %q, want %q", c.layout, c.of, c.beside, text, c.want)
		}
	}
	for _, c := range []struct {
		h    hierarchy.Hierarchy
		want string
	}{
		{v1(1, "cpu", "cpuacct"), "cpu"}, {v1(2, "memory"), "memory"}, {v1(3, "blkio"), ""}, {v1(4, "freezer"), ""}, {named, ""}, {v2, ""},
		{v1(5, "perf_event"), ""}, {v1(6, "cpuset", "pids"), "cpuset pids"},
	} {
		if got := strings.Join(c.h.Lends(), " "); got != c.want {
			t.Errorf("%v lends %q, want %q", c.h, got, c.want)
		}
	}
}

// FuzzMounts: no text of a mount table or of /proc/<pid>/cgroup makes a panic, or a hierarchy without a mount.
func FuzzMounts(f *testing.F) {
	for _, dir := range []string{"hybrid", "v2"} {
		m, _ := os.ReadFile("../testdata/hierarchy/" + dir + "/mountinfo")
		c, _ := os.ReadFile("../testdata/hierarchy/" + dir + "/cgroup")
		f.Add(m, c)
	}
	f.Fuzz(func(t *testing.T, mountinfo, cgroups []byte) {
		mounts, err := hierarchy.ParseMounts(mountinfo)
		if err != nil {
			return
		}
		for _, h := range hierarchy.Assemble(mounts, cgroups, "cpu memory") {
			if h.Mountpoint == "" && len(mounts) == 0 || h.Version != hierarchy.V1 && h.Version != hierarchy.V2 {
				t.Fatalf("%+v from %d mounts", h, len(mounts))
			}
		}
	})
}

func ExampleLookup() {
	f, _ := hierarchy.Lookup(hierarchy.V2, "hugetlb.2MB.max")
	fmt.Println(f.Name, f.Boundary, f.Below)
	v, err := f.Grammar.Parse([]byte("4M\n"))
	fmt.Printf("%s %v\n", v.Canonical(), err)
	// Output:
	// hugetlb.*.max read-only read-write
	// 4194304 <nil>
}

// TestControlFile: by a control file's name its hierarchy is found.
func TestControlFile(t *testing.T) {
	cpu := hierarchy.Hierarchy{Version: hierarchy.V1, Controllers: []string{"cpu", "cpuacct"}}
	unified := hierarchy.Hierarchy{Version: hierarchy.V2, Controllers: []string{"memory"}}
	for _, c := range []struct {
		h    hierarchy.Hierarchy
		file string
		want bool
	}{
		{cpu, "cpu.shares", true}, {cpu, "cpuacct.usage", true}, {cpu, "cpu.max", false}, {cpu, "memory.limit_in_bytes", false},
		{cpu, "tasks", false}, {cpu, "cgroup.clone_children", false},
		{unified, "memory.max", true}, {unified, "cgroup.freeze", true}, {unified, "cpu.stat", true}, {unified, "cpu.max", false},
		{unified, "memory.limit_in_bytes", false}, {unified, "no.such.file", false},
	} {
		if row, ok := c.h.ControlFile(c.file); ok != c.want || ok && row.Name != c.file {
			t.Errorf("%s, %s: %q, %t; want %t", c.h, c.file, row.Name, ok, c.want)
		}
	}
}

// TestNumber: hierarchies that stand for v2 have IDs that no other one has.
func TestNumber(t *testing.T) {
	host := []hierarchy.Hierarchy{
		{Version: hierarchy.V1, ID: 4, Controllers: []string{"devices"}}, {Version: hierarchy.V1, ID: 9, Name: "systemd"},
		{Version: hierarchy.V2, Controllers: []string{"memory", "pids"}},
	}
	shown := hierarchy.LayoutV1.Shown(host[2], host, []string{"memory", "pids", "name=one"})
	hierarchy.Number(shown, host)
	var got []string
	for _, h := range shown {
		got = append(got, fmt.Sprintf("%d %s", h.ID, h))
	}
	if want := []string{"10 memory", "11 pids", "12 name=one"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	hierarchy.Number(host, host)
	if host[0].ID != 4 || host[1].ID != 9 || host[2].ID != 0 {
		t.Errorf("the host's own became %v", host)
	}
}
