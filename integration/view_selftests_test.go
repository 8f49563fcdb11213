package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// selftestsVariable names a directory with the programs of the kernel's tools/testing/selftests/cgroup, unmodified.
const selftestsVariable = "VCGROUPFS_SELFTESTS"

// selftestTime is how long one program may take; with emulated processors test_cpu and test_kmem take half a minute. Some
// never end when they have failed: they wait for children that they did not kill.
const selftestTime = 3 * time.Minute

// selftestTries is how often a program is run in a guest until its tests pass. Some hold a processor's time against a
// clock, and fail now and then on a busy machine. So each further try begins natively, and a test that fails there in one
// run of several is held against no guest.
const selftestTries = 4

// selftestForms are forms of "run".
var selftestForms = []struct {
	name    string
	options []string
}{{"privileged", []string{"--privileged"}}, {"plain", nil}, {"userns", []string{"--userns"}}}

// selftestDifference is a test that passes natively and not in a guest.
type selftestDifference struct {
	test  string
	forms string // in which it does not pass
	row   string // how the row of docs/divergences.md begins that says why
}

// selftestDifferences is the whole list.
var selftestDifferences = []selftestDifference{
	{"test_cgcore_no_internal_process_constraint_on_threads", "privileged plain userns",
		"v2: threaded cgroups directly below the root"},
	{"test_cgcore_lesser_ns_open", "privileged plain userns", "v2: a cgroup namespace that a guest makes"},
	{"test_kmem_proc_kpagecgroup", "userns", "files of the host's root"},
	{"test_memcg_oom_group_score_events", "plain userns", "a guest that is not privileged lowers `/proc/PID/oom_score_adj`"},
}

func selftestDiffers(test, form string) bool {
	return slices.ContainsFunc(selftestDifferences, func(d selftestDifference) bool {
		return d.test == test && slices.Contains(strings.Fields(d.forms), form)
	})
}

// TestSelftestDifferences: each is explained.
func TestSelftestDifferences(t *testing.T) {
	doc := kit.ReadFile("../docs/divergences.md")
	if !strings.HasPrefix(doc, "# ") {
		t.Skip("machine: docs/ is not there")
	}
	for _, d := range selftestDifferences {
		if !strings.Contains(doc, "\n| "+d.row) {
			t.Errorf("docs/divergences.md has no row that begins %q, for %s", d.row, d.test)
		}
	}
}

// TestSelftests runs the kernel's own tests of cgroups on the host's cgroup2, then in guests. Each that passes natively
// passes in a guest, or is one of selftestDifferences.
func TestSelftests(t *testing.T) {
	dir := os.Getenv(selftestsVariable)
	if dir == "" {
		t.Skipf("machine: %s names no directory with the kernel's selftests; make selftests does", selftestsVariable)
	}
	if hier := kit.OpenHost(t).Hierarchy("memory"); hier == nil || hier.Version != hierarchy.V2 {
		t.Skip("machine: memory is not on the v2 hierarchy")
	}
	// test_memcg_high_sync locks memory, and waits without end where it may not. Root has a capability for that; who has
	// not, as in a guest that is not privileged, has this limit.
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err != nil {
		t.Fatal(err)
	}
	programs, err := filepath.Glob(filepath.Join(dir, "test_*"))
	if err != nil || len(programs) == 0 {
		t.Fatalf("no program in %s: %v", dir, err)
	}
	passed, same := 0, map[string]int{}
	for _, program := range programs {
		t.Run(filepath.Base(program), func(t *testing.T) {
			native := selftestNatively(t, program)
			passed += native.count("ok")
			for _, f := range selftestForms {
				same[f.name] += testSelftest(t, program, native, f.name, f.options)
			}
		})
	}
	t.Logf("%d tests passed natively at first; there and in guests, by form: %v", passed, same)
	if passed == 0 {
		t.Error("no test passes natively")
	}
}

// testSelftest runs a program in guests of one form, and answers with the number of tests that pass there and natively.
func testSelftest(t *testing.T, program string, native tap, form string, options []string) int {
	t.Helper()
	view := tap{}
	for try := 1; try == 1 || try <= selftestTries && len(missing(native, view, form)) > 0; try++ {
		if try > 1 {
			again := selftestNatively(t, program)
			maps.DeleteFunc(native, func(test, _ string) bool { return again[test] != "ok" })
		}
		now := selftestInGuest(t, program, form, options)
		maps.Copy(now, view.only("ok"))
		view = now
	}
	t.Logf("%s: %v", form, view)
	for _, test := range missing(native, view, form) {
		t.Errorf("%s: %s: natively ok, in a guest %q", form, test, view[test])
	}
	same := 0
	for test := range native.only("ok") {
		if view[test] != "ok" {
			continue
		}
		same++
		if selftestDiffers(test, form) {
			t.Errorf("%s: %s passes, and is declared not to", form, test)
		}
	}
	return same
}

// missing are the tests that pass natively, should in a guest, and do not.
func missing(native, view tap, form string) (names []string) {
	for test := range native.only("ok") {
		if view[test] != "ok" && !selftestDiffers(test, form) {
			names = append(names, test)
		}
	}
	return names
}

// tap is what a program said of its tests, by name: "ok", "not ok" or "skip".
type tap map[string]string

// only are the tests with one result.
func (x tap) only(result string) tap {
	out := maps.Clone(x)
	maps.DeleteFunc(out, func(_, r string) bool { return r != result })
	return out
}

func (x tap) count(result string) int { return len(x.only(result)) }

func (x tap) String() string {
	names := func(result string) []string { return slices.Sorted(maps.Keys(x.only(result))) }
	return fmt.Sprintf("%d ok, not ok: %v, skipped: %v", x.count("ok"), names("not ok"), names("skip"))
}

var tapLine = regexp.MustCompile(`(?m)^(?:(ok|not ok) \d+|1\.\.0) (# SKIP )?(.*)$`)

// parseTAP reads lines as ksft_test_result_pass and its kin print them (tools/testing/selftests/kselftest.h).
func parseTAP(out []byte) tap {
	results := tap{}
	for _, m := range tapLine.FindAllSubmatch(out, -1) {
		result := string(m[1])
		if len(m[2]) > 0 {
			result = "skip"
		}
		results[string(m[3])] = result
	}
	return results
}

// selftestNatively runs a program on the host's cgroup2.
func selftestNatively(t *testing.T, program string) tap {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), selftestTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, program).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("cannot run it natively: %v, %v; it printed %q", err, ctx.Err(), out)
	}
	native := parseTAP(out)
	t.Logf("native: %v", native)
	return native
}

// selftestScript is what a guest does. Every controller is enabled at its root, as at the root of the machine: in one cgroup,
// 100 processes that sleep and wake all the while slow down those that are to join them.
const selftestScript = `cd /sys/fs/cgroup && echo "+cpu +cpuset +memory +pids +io +hugetlb" >cgroup.subtree_control &&
cd "$OLDPWD" && "$0"
exit $?`

// selftestInGuest runs a program in a guest that shows every controller the programs ask for. It finds the view by the
// kernel's own mount below, in /proc/self/mounts. clone3 is ENOSYS in every form, for which the programs fall back.
func selftestInGuest(t *testing.T, selftest, form string, options []string) tap {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), selftestTime)
	defer cancel()
	args := slices.Concat([]string{"run", "--controllers", "cpu,cpuset,memory,pids,io,hugetlb"}, options,
		[]string{"--", "sh", "-c", selftestScript, selftest})
	cmd := exec.CommandContext(ctx, kit.Program(t), args...)
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		exit = &exec.ExitError{}
	}
	if results := parseTAP(out); len(results) > 0 {
		return results
	}
	t.Logf("%s: no test said anything: %v, %v: %q %q", form, err, ctx.Err(), out, exit.Stderr)
	return tap{}
}
