package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// values are what is written to every control file that a guest may write: right for some, wrong for others.
var values = []string{
	"", "\n", "0", "1\n", "2", "100", "1000", "10000", "-1", "max", "garbage", "1M", "010", "0x10", "100000 100000", "max 100000",
	"50000 100000", "50000abc 100000", "0-1", "0,0", "all", "FROZEN", "THAWED", "frozen", "default 100", "8:0 rbps=1048576", "0:0 1",
	"idle", "restrict-to-be", "no-change", "16E", "18446744073709551616", "5M\x00junk", " 7 ", "+9", "12.34", "x=1",
}

// fileSteps are about each control file of a cgroup below the boundary: what stat says, which keys a read has, and what
// writes do.
func fileSteps(t *testing.T, hier *host.Hierarchy) []step {
	steps := []step{{"files: controllers for the children", func(x *traceEnv) string { return enableAll(x) }}}
	for _, name := range filesOf(t, hier) {
		row, known := hierarchy.Lookup(hier.Version, name)
		if !known || row.Below == hierarchy.Hidden {
			continue
		}
		steps = append(steps,
			step{"file " + name + ": stat", func(x *traceEnv) string { return kit.StatText(x.at("f/" + name)) }},
			step{"file " + name + ": keys", func(x *traceEnv) string { return keys(kit.ReadFile(x.at("f/" + name))) }})
		if row.Mode&0o222 == 0 || row.Constraint == hierarchy.Members || row.Constraint == hierarchy.Subtree || name == "cgroup.type" {
			continue
		}
		if row.Below == hierarchy.ReadOnly { // not even natively: some change the whole host
			steps = append(steps, step{"file " + name + ": open for writing", func(x *traceEnv) string { return tryView(x, name) }})
			continue
		}
		if row.Constraint == hierarchy.Unchanged {
			steps = append(steps, unchangedSteps(name)...)
			continue
		}
		for _, value := range slices.Concat(values, valuesOf(row)) {
			if row.Constraint == hierarchy.Canonical && looser(value) || row.Constraint == hierarchy.Trigger || row.Constraint == hierarchy.DeviceRule {
				continue
			}
			steps = append(steps, step{fmt.Sprintf("file %s: value %q", name, value), func(x *traceEnv) string {
				return kit.WriteFile(x.at("f/"+name), value) + " " + settled(name, kit.ReadFile(x.at("f/"+name)))
			}})
		}
	}
	steps = append(steps, renewedSteps(hier)...)
	return append(steps, step{"files: clean-up", func(x *traceEnv) string { return kit.Rmdir(x.at("f")) }})
}

// unchangedSteps write the value that a file has, which changes nothing, and on the view alone another: some change the
// whole host.
func unchangedSteps(name string) []step {
	write := func(what, format string) step {
		return step{fmt.Sprintf("unchanged: %s: %s", name, what), func(x *traceEnv) string {
			value := strings.TrimSpace(kit.ReadFile(x.at("f/" + name)))
			return kit.WriteFile(x.at("f/"+name), fmt.Sprintf(format, value)) + " " + kit.ReadFile(x.at("f/"+name))
		}}
	}
	steps := []step{write("as it is", "%s"), write("with a newline", "%s\n"), write("and more", "%s x"), write("in quotes", "'%s'")}
	for _, other := range []string{"0", "1", "3", "0-1", "root", "garbage", "\n"} {
		steps = append(steps, step{fmt.Sprintf("unchanged: %s: another value", name), func(x *traceEnv) string {
			before := kit.ReadFile(x.at("f/" + name))
			if !kit.IsFUSE(x.w) || strings.TrimSpace(other) == strings.TrimSpace(before) {
				return "EPERM"
			}
			answer := kit.WriteFile(x.at("f/"+name), other)
			if after := kit.ReadFile(x.at("f/" + name)); after != before {
				return fmt.Sprintf("%q: %s, and %q is %q", other, answer, before, after)
			}
			if answer == "EINVAL" {
				return "EPERM" // no value of this file
			}
			return answer
		}})
	}
	return steps
}

// valuesOf are values that mean something to some files alone.
func valuesOf(row hierarchy.ControlFile) []string {
	if row.Controller == "cpuset" && row.Class == "limit" {
		return []string{"0\n1", "0\ngarbage", "0,\n1", "0 \n1", "ALL", "All", "all\n", "0-0:1/1", "0-1:1/2\n1", ",0,", "0,,0", "0-", "1-0", "N", "0-N", "n", "0:1/2", "0\t1", "0x0", "99999999999"}
	}
	return nil
}

// looser says whether the kernel takes a value that the view does not, in a file where the view parses.
func looser(value string) bool { return value == "50000abc 100000" || value == "" }

// enableAll makes the directory of the trace's files, with every controller.
func enableAll(x *traceEnv) string {
	s := ""
	if x.hier.Version == hierarchy.V2 {
		s = kit.Mkdir(filepath.Join(x.dir, "p"), 0o755) + kit.WriteFile(filepath.Join(x.dir, "p", kit.Procs), strconv.Itoa(x.pid))
		for _, c := range []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma", "misc", "dmem"} {
			if x.hier.Holds(c) {
				s += kit.WriteFile(filepath.Join(x.dir, "cgroup.subtree_control"), "+"+c) + kit.WriteFile(x.at("cgroup.subtree_control"), "+"+c)
			}
		}
	}
	return s + kit.Mkdir(x.at("f"), 0o755)
}

// filesOf lists the control files of a cgroup of this kernel.
func filesOf(t *testing.T, hier *host.Hierarchy) []string {
	path := kit.NewBoundary(t, "files", hier)
	entries, err := os.ReadDir(kit.HostDir(hier, path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names
}

// tryView opens a file for writing on a view, and does nothing natively.
func tryView(x *traceEnv, name string) string {
	if !kit.IsFUSE(x.w) {
		return "not tried"
	}
	return kit.Word(kit.WithFile(x.at("f/"+name), os.O_WRONLY, func(int) error { return nil }))
}

// keys are the words that begin the lines of a statistics file, or the whole of a short one without numbers.
func keys(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "" || strings.ContainsAny(word, "0123456789") {
			word = "#"
		}
		out = append(out, word)
	}
	return strings.Join(slices.Compact(out), " ")
}

// settled is a value as it reads after a write, without what changes by itself.
func settled(name, text string) string {
	if strings.Contains(name, "usage") || strings.HasSuffix(name, ".peak") || strings.HasSuffix(name, "failcnt") {
		return keys(text)
	}
	return text
}

// unifiedSteps are about what v2 alone has.
func unifiedSteps() []step {
	at := func(x *traceEnv, file, value string) string {
		return kit.WriteFile(x.at(file), value) + " " + strings.TrimSpace(kit.ReadFile(x.at(file)))
	}
	steps := []step{
		{"v2: type", func(x *traceEnv) string {
			return kit.ReadFile(x.at("cgroup.type")) + kit.ReadFile(filepath.Join(x.dir, "cgroup.type"))
		}},
		{"v2: type garbage", func(x *traceEnv) string { return at(x, "cgroup.type", "domain") }},
		{"v2: max.depth", func(x *traceEnv) string {
			return at(x, "cgroup.max.depth", "0") + kit.Mkdir(x.at("deep"), 0o755) + at(x, "cgroup.max.depth", "max") + kit.Mkdir(x.at("deep"), 0o755) + kit.Rmdir(x.at("deep"))
		}},
		{"v2: max.descendants", func(x *traceEnv) string {
			return at(x, "cgroup.max.descendants", "1") + kit.Mkdir(x.at("d1"), 0o755) + kit.Mkdir(x.at("d2"), 0o755) + at(x, "cgroup.max.descendants", "max") + kit.Rmdir(x.at("d1"))
		}},
		{"v2: cgroup.stat counts", func(x *traceEnv) string {
			kit.Mkdir(x.at("c1"), 0o755)
			s := firstLine(kit.ReadFile(x.at("cgroup.stat"))) + firstLine(kit.ReadFile(filepath.Join(x.dir, "cgroup.stat")))
			return s + kit.Rmdir(x.at("c1"))
		}},
		{"v2: events of a populated cgroup", func(x *traceEnv) string {
			return x.moved("w/"+kit.Procs, x.pid, strconv.Itoa(x.pid)) + kit.ReadFile(x.at("cgroup.events")) + x.moved(kit.Procs, x.pid, strconv.Itoa(x.pid)) + kit.ReadFile(x.at("cgroup.events"))
		}},
		{"v2: freeze", func(x *traceEnv) string {
			s := x.moved("w/"+kit.Procs, x.pid, strconv.Itoa(x.pid)) + kit.WriteFile(x.at("cgroup.freeze"), "1")
			kit.Eventually(x.t, "the cgroup to freeze", func() bool { return strings.Contains(kit.ReadFile(x.at("cgroup.events")), "frozen 1") })
			s += kit.ReadFile(x.at("cgroup.freeze")) + kit.WriteFile(x.at("cgroup.freeze"), "0")
			kit.Eventually(x.t, "the cgroup to thaw", func() bool { return strings.Contains(kit.ReadFile(x.at("cgroup.events")), "frozen 0") })
			return s + x.moved(kit.Procs, x.pid, strconv.Itoa(x.pid))
		}},
		{"v2: kill", func(x *traceEnv) string {
			if !kit.Exists(x.at("cgroup.kill")) {
				return ""
			}
			pid := kit.StartSleeper(x.t)
			x.hier.Attach(strings.TrimPrefix(realPath(x), x.hier.Mountpoint), pid)
			s := x.moved("w/"+kit.Procs, pid, strconv.Itoa(pid)) + kit.WriteFile(x.at("cgroup.kill"), "0") + kit.WriteFile(x.at("cgroup.kill"), "1")
			kit.Eventually(x.t, "the killed to be gone", func() bool { return strings.Contains(kit.ReadFile(x.at("cgroup.events")), "populated 0") })
			return s
		}},
		{"v2: pressure switched off and on", func(x *traceEnv) (s string) {
			files := []string{"cpu.pressure", "memory.pressure", "io.pressure"}
			for _, value := range []string{"0", "1", "0", "1"} {
				for _, f := range files {
					s += fmt.Sprint(kit.Exists(x.at(f)), " ")
				}
				s += kit.WriteFile(x.at("cgroup.pressure"), value) + " "
			}
			return s
		}},
		{"v2: read of cgroup.kill", func(x *traceEnv) string { return kit.ReadFile(x.at("cgroup.kill")) }},
		{"v2: threaded", func(x *traceEnv) string {
			s := kit.Mkdir(x.at("th"), 0o755) + kit.WriteFile(x.at("th/cgroup.type"), "threaded") + kit.ReadFile(x.at("th/cgroup.type")) + kit.ReadFile(x.at("cgroup.type"))
			return s + kit.ReadFile(x.at("th/"+kit.Procs)) + kit.ReadFile(x.at("th/cgroup.threads")) + kit.Mkdir(x.at("th/x"), 0o755) + kit.ReadFile(x.at("th/x/cgroup.type")) + kit.Rmdir(x.at("th/x")) + kit.Rmdir(x.at("th"))
		}},
	}
	for _, text := range []string{"+bogus", "+", "hugetlb", "-hugetlb", " ", "\n", "+hugetlb -hugetlb", "+hugetlb\t", "+freezer", "+hugetlb,+pids", "-bogus",
		"+memory +bogus", "+bogus +memory", "-memory +bogus", "+memory -memory", "-memory +memory -memory", "+rdma -rdma", "+hugetlb +bogus",
		"+hugetlb -bogus", "-hugetlb +hugetlb -hugetlb", "+perf_event", "-perf_event", "+cpu -cpu +", "+misc -misc -", "+HUGETLB"} {
		steps = append(steps, step{fmt.Sprintf("v2: subtree_control %q", text), func(x *traceEnv) string { return at(x, "cgroup.subtree_control", text) }})
	}
	for _, text := range []string{"some 150000 2000000", "full 150000 2000000", "garbage", "some 0 2000000", "some 3000000 2000000", "some 150000 20000000", "", "some",
		" some 150000 2000000", "some  150000\t2000000", "some150000 2000000", "some 150000 2000000\n", "some 150000 2000000 x", "some 150000 2000000x",
		"some 0x249f0 2000000", "some 150000 0x1e8480", "some +150000 2000000", "some 150000 +2000000", "some -1 2000000", "some 0150000 02000000",
		"SOME 150000 2000000", "some 150000", "some\x00", "some 150000.5 2000000"} {
		for _, c := range []string{"cpu", "memory", "io"} { // each is written twice: one trigger to a descriptor
			steps = append(steps, step{fmt.Sprintf("v2: %s trigger %q", c, text), func(x *traceEnv) string {
				if !kit.Exists(x.at(c + ".pressure")) {
					return ""
				}
				return kit.TryFile(x.at(c+".pressure"), unix.O_RDWR, func(fd int) string {
					_, first := unix.Write(fd, []byte(text))
					_, second := unix.Write(fd, []byte(text))
					_, third := unix.Write(fd, []byte("garbage"))
					return kit.Word(first) + " " + kit.Word(second) + " " + kit.Word(third)
				})
			}})
		}
	}
	return steps
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
