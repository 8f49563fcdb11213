package translate

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestWeightsOnV1: every weight of v2 comes back from v1's shares, and every nice value.
func TestWeightsOnV1(t *testing.T) {
	c := under(nil, map[string]string{"cpu.shares": "1024\n"})
	for w := uint64(minWeight); w <= maxWeight; w++ {
		if err := writeOf(t, hierarchy.V2, c, "cpu.weight", decimal(w)); err != nil {
			t.Fatal(err)
		}
		if got := readOf(t, hierarchy.V2, c, "cpu.weight"); got != decimal(w) {
			t.Fatalf("weight %d is %q shares, which are weight %s", w, c.files["cpu.shares"], got)
		}
	}
	for _, nice := range []string{"-20", "-1", "0", "1", "19"} {
		if err := writeOf(t, hierarchy.V2, c, "cpu.weight.nice", nice); err != nil {
			t.Fatal(err)
		}
		if got := readOf(t, hierarchy.V2, c, "cpu.weight.nice"); got != nice {
			t.Errorf("nice %s is %q shares, which are %s", nice, c.files["cpu.shares"], got)
		}
	}
}

// allOrNothing does a write again and again with one more of the host's writes before it stops, and then whole: it ends
// as one that was done once.
func allOrNothing(t *testing.T, files map[string]string, name, value string) {
	t.Helper()
	once := under(nil, maps.Clone(files))
	want := writeOf(t, hierarchy.V2, once, name, value)
	for dies := 1; dies <= len(once.writes); dies++ {
		c := under(nil, maps.Clone(files))
		c.dies = dies
		if err := writeOf(t, hierarchy.V2, c, name, value); err == nil {
			t.Fatalf("%s %s did not stop at write %d", name, value, dies)
		}
		// A server that has died undoes nothing.
		c = &tree{files: filesAfter(files, once.writes[:dies-1]), kept: c.kept}
		c.kept = keptDuring(t, files, name, value, dies)
		if err := writeOf(t, hierarchy.V2, c, name, value); !errors.Is(err, want) || !maps.Equal(c.files, once.files) {
			t.Errorf("%s %s, which stopped at write %d and was done again: %v, %v; want %v", name, value, dies, err, c.files, once.files)
		}
	}
}

// filesAfter are the files after the first of the writes.
func filesAfter(files map[string]string, writes []string) map[string]string {
	c := &tree{files: maps.Clone(files)}
	for _, w := range writes {
		file, value, _ := strings.Cut(w, " ")
		_ = c.Write(file, value)
	}
	return c.files
}

// keptDuring is what is kept when the server dies at one of the writes.
func keptDuring(t *testing.T, files map[string]string, name, value string, dies int) (kept map[string]string) {
	t.Helper()
	c := under(nil, maps.Clone(files))
	c.refuses = func(c *tree, _, _ string) error {
		if len(c.writes) == dies-1 {
			kept = maps.Clone(c.kept)
		}
		return nil
	}
	_ = writeOf(t, hierarchy.V2, c, name, value)
	return kept
}

// TestLimitsOnV1: a limit that is several files of v1 ends, done again after the server died in the middle, as one that was
// done once.
func TestLimitsOnV1(t *testing.T) {
	files := func(limit, memsw string) map[string]string {
		return map[string]string{"memory.limit_in_bytes": limit + "\n", "memory.memsw.limit_in_bytes": memsw + "\n"}
	}
	allOrNothing(t, files("67108864", "100663296"), "memory.max", "128M")
	allOrNothing(t, files("67108864", "100663296"), "memory.max", "32M")
	allOrNothing(t, files("67108864", "100663296"), "memory.max", "max")
	allOrNothing(t, files("67108864", "9223372036854771712"), "memory.swap.max", "32M")
	cpu := map[string]string{"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}
	allOrNothing(t, cpu, "cpu.max", "20000 50000")
	allOrNothing(t, cpu, "cpu.max", "max")
	allOrNothing(t, cpu, "cpu.max", "20000")

	c := under(nil, files("67108864", "100663296"))
	for _, step := range [][3]string{{"memory.max", "32M", "33554432 67108864"}, {"memory.swap.max", "0", "33554432 33554432"}} {
		if err := writeOf(t, hierarchy.V2, c, step[0], step[1]); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(c.files["memory.limit_in_bytes"]) + " " + strings.TrimSpace(c.files["memory.memsw.limit_in_bytes"]); got != step[2] {
			t.Errorf("%s %s: %s, want %s", step[0], step[1], got, step[2])
		}
	}
	if got := readOf(t, hierarchy.V2, c, "memory.swap.max"); got != "0" {
		t.Errorf("memory.swap.max is %s", got)
	}

	// Without a limit of memory that of swap is kept until there is one, as runc writes them.
	const unlimited = "9223372036854771712"
	allOrNothing(t, files(unlimited, unlimited), "memory.swap.max", "32M")
	c = under(nil, files(unlimited, unlimited))
	for _, step := range [][5]string{ // and what the guest reads, and the host has
		{"memory.swap.max", "0", "max 0", unlimited, unlimited}, {"memory.max", "64M", "67108864 0", "67108864", "67108864"},
		{"memory.swap.max", "32M", "67108864 33554432", "67108864", "100663296"},
		{"memory.max", "max", "max 33554432", unlimited, unlimited},
		{"memory.max", "32M", "33554432 33554432", "33554432", "67108864"},
		{"memory.swap.max", "max", "33554432 max", "33554432", unlimited},
		{"memory.max", "max", "max max", unlimited, unlimited},
	} {
		if err := writeOf(t, hierarchy.V2, c, step[0], step[1]); err != nil {
			t.Fatal(err)
		}
		shown := readOf(t, hierarchy.V2, c, "memory.max") + " " + readOf(t, hierarchy.V2, c, "memory.swap.max")
		memory, memsw := strings.TrimSpace(c.files["memory.limit_in_bytes"]), strings.TrimSpace(c.files["memory.memsw.limit_in_bytes"])
		if shown != step[2] || memory != step[3] || memsw != step[4] {
			t.Errorf("%s %s: %s, on the host %s %s; want %q", step[0], step[1], shown, memory, memsw, step[2:])
		}
	}

	// A host without swap accounting.
	c = under(nil, map[string]string{"memory.limit_in_bytes": unlimited + "\n"})
	if err := writeOf(t, hierarchy.V2, c, "memory.max", "64M"); err != nil || c.files["memory.limit_in_bytes"] != "67108864\n" {
		t.Errorf("without swap accounting: %v, %v", err, c.files)
	}

	// What the host refuses changes nothing.
	c = under(nil, maps.Clone(cpu))
	c.refuses = func(_ *tree, _, value string) error {
		if value == "90000" {
			return unix.EINVAL
		}
		return nil
	}
	if err := writeOf(t, hierarchy.V2, c, "cpu.max", "90000 50000"); !errors.Is(err, unix.EINVAL) || !maps.Equal(c.files, cpu) {
		t.Errorf("refused: %v, %v", err, c.files)
	}
}

// v1Sets refuses what v1 does: a set that is empty, not within the parent's or not around a child's.
func v1Sets(c *tree, file, value string) error {
	set, err := setOf(value)
	if err != nil || len(set) == 0 {
		return unix.EINVAL
	}
	if slices.Max(set) > 7 {
		return unix.ERANGE
	}
	for _, child := range c.below {
		if has, _ := setOf(child.(*tree).files[file]); !within(has, set) {
			return unix.EBUSY
		}
	}
	if has, _ := setOf(c.above.files[file]); !within(set, has) {
		return unix.EACCES
	}
	return nil
}

// TestSetsOnV1: after any sequence of writes each of v1's sets is what v2 calls effective, and no write was one that v1
// refuses.
func TestSetsOnV1(t *testing.T) {
	const file = "cpuset.cpus"
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		top := under(nil, map[string]string{file: "0-7\n"})
		all := []*tree{top}
		for range 6 {
			above := all[random.IntN(len(all))]
			c := under(above, map[string]string{file: above.files[file]}) // as mkdir in a view does
			c.refuses = v1Sets
			all = append(all, c)
		}
		wants := map[*tree][]uint64{}
		for range 30 {
			c := all[1+random.IntN(len(all)-1)]
			var set []uint64
			for n := range uint64(8) {
				if random.IntN(3) == 0 {
					set = append(set, n)
				}
			}
			if random.IntN(5) == 0 {
				set = nil
			}
			wants[c] = set
			if err := writeOf(t, hierarchy.V2, c, file, listOf(set)+"\n"); err != nil {
				t.Fatalf("%v: %v", set, err)
			}
			if got := readOf(t, hierarchy.V2, c, file); got != listOf(set) {
				t.Fatalf("%v is read as %s", set, got)
			}
			effective := map[*tree][]uint64{top: {0, 1, 2, 3, 4, 5, 6, 7}}
			for _, c := range all[1:] { // after those above them
				parents := effective[c.above]
				for _, n := range wants[c] {
					if slices.Contains(parents, n) {
						effective[c] = append(effective[c], n)
					}
				}
				if len(effective[c]) == 0 {
					effective[c] = parents
				}
				if got := strings.TrimSpace(c.files[file]); got != listOf(effective[c]) {
					t.Fatalf("v1 has %s, v2 would have %s", got, listOf(effective[c]))
				}
			}
		}
	}
	c := under(under(nil, map[string]string{file: "0-7\n"}), map[string]string{file: "0-7\n"})
	c.refuses = v1Sets
	for value, want := range map[string]error{"8": unix.ERANGE, "x": unix.EINVAL} {
		if err := writeOf(t, hierarchy.V2, c, file, value); !errors.Is(err, want) || c.kept[file] != "" {
			t.Errorf("%s: %v, %q", value, err, c.kept[file])
		}
	}
}

// TestIOMaxOnV1: a line of several limits is v1's several files; where there are cgroups below, none.
func TestIOMaxOnV1(t *testing.T) {
	files := map[string]string{}
	for _, th := range throttles {
		files[th.file] = ""
	}
	c := under(nil, files)
	if err := writeOf(t, hierarchy.V2, c, "io.max", "8:0 rbps=1048576 wiops=max"); err != nil {
		t.Fatal(err)
	}
	if got := readOf(t, hierarchy.V2, c, "io.max"); got != "8:0 rbps=1048576 wbps=max riops=max wiops=0" {
		t.Errorf("io.max: %q", got) // the kernel leaves lines of 0 out
	}
	for _, bad := range []string{"8:0", "8:0 rbps=x", "8:0 rbps=0", "8:0 nonsense=1"} {
		if err := writeOf(t, hierarchy.V2, c, "io.max", bad); err != unix.EINVAL {
			t.Errorf("%s: %v", bad, err)
		}
	}
	under(c, map[string]string{})
	if err := writeOf(t, hierarchy.V2, c, "io.max", "8:0 rbps=1"); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("with a cgroup below: %v", err)
	}
}
