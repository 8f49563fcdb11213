package cgroups

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// lines are a tree in a form to compare: path, hierarchies, processes, and whether it is cut.
func lines(path string, c Cgroup) []string {
	line := fmt.Sprint(path, " ", c.Hierarchies)
	for _, p := range c.Processes {
		line += fmt.Sprint(" ", p.Pid, p.Command)
	}
	if c.Cut {
		line += " cut"
	}
	all := []string{line}
	for _, child := range c.Children {
		all = append(all, lines(strings.TrimSuffix(path, "/")+"/"+child.Name, child)...)
	}
	return all
}

func TestTree(t *testing.T) {
	p := v1Playground(t, "pids", "memory")
	a, b := p.sleep(), p.sleep()
	p.create(0, "/x/y")
	p.create(0, "/.vcgroupfs") // of v1 no leaf
	p.create(1, "/x")
	p.put(0, "/x/y", a.pid())
	p.put(1, "/x", a.pid())
	p.put(1, "/x", b.pid())
	tree, err := Tree(p.bs)
	p.must(err)
	procs := fmt.Sprintf(" %dsleep %dsleep", min(a.pid(), b.pid()), max(a.pid(), b.pid()))
	want := []string{
		"/ [pids memory]",
		"/.vcgroupfs [pids]",
		"/x [pids memory]" + procs,
		fmt.Sprintf("/x/y [pids] %dsleep", a.pid()),
	}
	if got := lines("/", tree); !slices.Equal(got, want) {
		t.Errorf("the tree is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if tree.Figures.Processes != 2 || tree.Cgroups != 3 || CountProcesses(p.bs) != 2 {
		t.Errorf("%d processes, %d cgroups, CountProcesses %d; want 2, 3, 2", tree.Figures.Processes, tree.Cgroups, CountProcesses(p.bs))
	}
	if x := tree.Children[1]; x.Figures.Pids != 1 || x.Figures.MemoryLimit != -1 || x.Children[0].MemoryBytes != -1 {
		t.Errorf("figures: %+v", x)
	}
	if raw, err := json.Marshal(tree); err != nil || strings.Contains(string(raw), "null") {
		t.Errorf("%s, %v: want no null", raw, err)
	}
}

// TestTreeLeaf: the leaf of a v2 boundary is a part of "/".
func TestTreeLeaf(t *testing.T) {
	p := newPlayground(t, hierarchy.Unified)
	a, b := p.sleep(), p.sleep()
	p.create(0, "/"+hierarchy.LeafName)
	p.create(0, "/x/"+hierarchy.LeafName) // an ordinary cgroup, there
	p.put(0, "/"+hierarchy.LeafName, a.pid())
	p.put(0, "/x/"+hierarchy.LeafName, b.pid())
	tree, err := Tree(p.bs)
	p.must(err)
	want := []string{
		fmt.Sprintf("/ [unified] %dsleep", a.pid()),
		"/x [unified]",
		fmt.Sprintf("/x/.vcgroupfs [unified] %dsleep", b.pid()),
	}
	if got := lines("/", tree); !slices.Equal(got, want) {
		t.Errorf("the tree is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if f := FiguresOf(p.bs); f.Cgroups != 2 {
		t.Errorf("%d cgroups, want 2", f.Cgroups)
	}
}

func TestTreeGone(t *testing.T) {
	p := newPlayground(t, "pids")
	p.must(p.hierarchies[0].RemoveAll(p.top))
	_, err := Tree(p.bs)
	if fault.Of(err) != fault.NotFound {
		t.Errorf("Tree of a boundary that is gone: %v", err)
	}
	f := FiguresOf(p.bs)
	f.Cgroups = -1 // an open directory that was removed is empty
	if f != noFigures() {
		t.Errorf("figures of a boundary that is gone: %+v", f)
	}
	var s Sampler
	if events := append(s.Sample(p.bs), s.Sample(p.bs)...); events != nil {
		t.Errorf("events of a boundary that is gone: %v", events)
	}
}

func TestTreeBounds(t *testing.T) {
	p := newPlayground(t, hierarchy.Unified)
	deep := strings.Repeat("/d", maxDepth+2)
	p.create(0, deep)
	tree, err := Tree(p.bs)
	p.must(err)
	got := lines("/", tree)
	if len(got) != maxDepth+1 || !strings.HasSuffix(got[maxDepth], "cut") {
		t.Errorf("%d lines, the last %q: want %d, the last one cut", len(got), got[len(got)-1], maxDepth+1)
	}
	left := 0
	for at := tree; len(at.Children) > 0; at = at.Children[0] {
		left++
	}
	m := treeMaker{nodes: map[string]*node{}}
	m.node("")
	for i := range maxCgroups + 5 {
		m.node(fmt.Sprint(i))
	}
	if len(m.nodes) != maxCgroups+1 || !m.nodes[""].Cut || left != maxDepth {
		t.Errorf("%d nodes, cut %t, %d levels", len(m.nodes), m.nodes[""].Cut, left)
	}
}

func TestFigures(t *testing.T) {
	p := v1Playground(t, "cpuacct", "memory", "pids", "freezer")
	busy := p.start(exec.Command("sh", "-c", "read go; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; read go"))
	for tree := range p.hierarchies {
		p.put(tree, "", busy.pid())
	}
	p.create(1, "/a/b")
	p.create(2, "/a")
	busy.in.Write([]byte("\n"))
	busy.out.ReadString('\n')
	f := FiguresOf(p.bs)
	if f.Processes != -1 || f.Cgroups != 2 || f.CPUUsec <= 0 || f.CPUUsec > 60e6 || f.MemoryBytes <= 0 || f.MemoryLimit != -1 ||
		f.Pids < 1 || f.Pids > 2 || f.PidsLimit != -1 || f.Frozen {
		t.Errorf("figures: %+v", f)
	}
	p.wantSet(limits("pids.max=64", "memory.limit_in_bytes=1G"), "/ pids.max max 64",
		"/ memory.limit_in_bytes "+v1NoLimit+" 1073741824")
	p.must(Freeze(context.Background(), p.bs))
	if f = FiguresOf(p.bs); f.MemoryLimit != 1<<30 || f.PidsLimit != 64 || !f.Frozen {
		t.Errorf("figures: %+v", f)
	}
	p.must(Thaw(context.Background(), p.bs))
}

// TestFiguresV2: the v2 hierarchy without controllers has but few; and the figures of a controller wherever it is.
func TestFiguresV2(t *testing.T) {
	p := newPlayground(t, hierarchy.Unified)
	g := p.sleep()
	p.put(0, "", g.pid())
	f := FiguresOf(p.bs)
	want := noFigures()
	want.Cgroups, want.CPUUsec = 0, f.CPUUsec
	if f != want || f.CPUUsec < 0 {
		t.Errorf("figures without controllers: %+v", f)
	}
	for _, c := range []string{"memory", "pids"} {
		t.Run(c, func(t *testing.T) {
			p := newPlayground(t, c)
			f := FiguresOf(p.bs)
			if c == "memory" && (f.MemoryBytes < 0 || f.MemoryLimit != -1) || c == "pids" && (f.Pids != 0 || f.PidsLimit != -1) {
				t.Errorf("figures: %+v", f)
			}
		})
	}
}

func BenchmarkFigures(b *testing.B) {
	p := newPlayground(b, "cpuacct", "memory", "pids", "freezer", hierarchy.Unified)
	for b.Loop() {
		FiguresOf(p.bs)
	}
}

func BenchmarkSample(b *testing.B) {
	p := newPlayground(b, "cpuacct", "memory", "pids", "freezer", hierarchy.Unified)
	var s Sampler
	for b.Loop() {
		s.Sample(p.bs)
	}
}

// TestDescriptors: nothing here leaves a descriptor open.
func TestDescriptors(t *testing.T) {
	p := newPlayground(t, "pids")
	p.create(0, "/a/b")
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		p.must(err)
		return len(entries)
	}
	var s Sampler
	work := func() {
		Tree(p.bs)
		FiguresOf(p.bs)
		CountProcesses(p.bs)
		s.Sample(p.bs)
		Set(p.bs, limits("pids.max=5", "pids.max=6"))
		Set(p.bs, limits("pids.max=7"))
		Freeze(context.Background(), p.bs)
		Kill(context.Background(), p.bs)
	}
	work() // directories stay open for the next
	before := count()
	for range 10 {
		work()
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors, then %d", before, after)
	}
}
