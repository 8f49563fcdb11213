package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// translatedPair is a control file through a view that translates it, and one with the same file behind it through a view
// that does not.
type translatedPair struct {
	translated, plain string // paths
	value             string // to write; "" for a file that is only read
}

// BenchmarkTranslated prints what opening, reading and closing a translated file, and writing it, cost against a file that the
// view passes on, through views of the same host in the same run: medians, and ratios.
func BenchmarkTranslated(b *testing.B) {
	pairs := translatedPairs(b)
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "operation\ttranslated\tpassed on\tratio")
	row := func(name string, n int, do func(path, value string) error, p translatedPair) {
		times := map[string][]float64{}
		for range benchRounds {
			for _, path := range []string{p.translated, p.plain} {
				start := time.Now()
				for range n {
					if err := do(path, p.value); err != nil {
						b.Fatalf("%s of %s: %v", name, path, err)
					}
				}
				times[path] = append(times[path], float64(time.Since(start).Nanoseconds())/float64(n))
			}
		}
		median := func(path string) float64 { slices.Sort(times[path]); return times[path][len(times[path])/2] }
		t, o := median(p.translated), median(p.plain)
		fmt.Fprintf(w, "%s %s\t%s\t%s\t%.2f\n", name, filepath.Base(p.translated), time.Duration(t), time.Duration(o), t/o)
	}
	for _, p := range pairs {
		row("open, read, close", 200, func(path, _ string) error { _, err := os.ReadFile(path); return err }, p)
		if p.value != "" {
			row("open, write, close", 100, func(path, value string) error {
				return kit.WithFile(path, unix.O_WRONLY, kit.WriteFD(value))
			}, p)
		}
	}
	w.Flush()
	os.Stdout.Write(out.Bytes())
}

// translatedPairs mounts two views of a boundary. On a host with v1 hierarchies one shows them and one a v2 tree; on a host
// with v2 alone one shows that and one v1 hierarchies.
func translatedPairs(b *testing.B) []translatedPair {
	h := kit.OpenHost(b)
	var all []*host.Hierarchy
	for _, c := range append(strings.Split(lentControllers, ","), hierarchy.Unified) {
		if hier := kit.NeedHierarchy(b, h, c); !slices.Contains(all, hier) {
			all = append(all, hier)
		}
	}
	path := kit.NewBoundary(b, "bench-translated", all...)
	v1 := kit.MountView(b, "--boundary", path, "--controllers", lentControllers, "--layout", "v1").Dir
	v2 := kit.MountView(b, "--boundary", path, "--controllers", lentControllers, "--layout", "v2").Dir
	if word := kit.WriteFile(filepath.Join(v2, subtreeControl), "+memory +pids +cpu"); word != "ok" {
		b.Fatal(word)
	}
	if err := os.Mkdir(filepath.Join(v2, "a"), 0o755); err != nil {
		b.Fatal(err)
	}
	cpu := filepath.Join(v1, h.Hierarchy("cpu").Dir)
	if !kit.OnV1(h, "cpu") {
		cpu = filepath.Join(v1, "cpu")
	}
	one := []translatedPair{
		{filepath.Join(v2, "a/memory.max"), filepath.Join(v1, "memory/a/memory.limit_in_bytes"), "67108864"},
		{filepath.Join(v2, "a/pids.max"), filepath.Join(v1, "pids/a/pids.max"), "100"},
		{filepath.Join(v2, "a/cpu.weight"), filepath.Join(cpu, "a/cpu.shares"), "512"},
		{filepath.Join(v2, "a/memory.current"), filepath.Join(v1, "memory/a/memory.usage_in_bytes"), ""},
		{filepath.Join(v2, "a/memory.stat"), filepath.Join(v1, "memory/a/memory.stat"), ""},
	}
	if !kit.OnV1(h, "memory") {
		for i := range one {
			one[i].translated, one[i].plain = one[i].plain, one[i].translated
		}
		return one
	}
	// What a host with v1 hierarchies may have in its v2 one.
	unified := h.Hierarchy(hierarchy.Unified)
	if !slices.Contains(unified.Controllers, "hugetlb") {
		return one
	}
	other := kit.NewBoundary(b, "bench-bridge", unified)
	bridge := kit.MountView(b, "--boundary", other, "--controllers", "hugetlb,name=one", "--layout", "v1").Dir
	plain := kit.MountView(b, "--boundary", other, "--controllers", "hugetlb,unified", "--layout", "v2").Dir
	if err := os.Mkdir(filepath.Join(bridge, "hugetlb/a"), 0o755); err != nil {
		b.Fatal(err)
	}
	return append(one,
		translatedPair{filepath.Join(bridge, "hugetlb/a/hugetlb.2MB.limit_in_bytes"), filepath.Join(plain, "a/hugetlb.2MB.max"), "2097152"},
		translatedPair{filepath.Join(bridge, "hugetlb/a/hugetlb.2MB.usage_in_bytes"), filepath.Join(plain, "a/hugetlb.2MB.current"), ""},
	)
}
