package integration

import (
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestRunSmallLimits: what "run" itself needs before its command begins is not counted as the command's, and a limit with which none can begin is
// refused in words.
func TestRunSmallLimits(t *testing.T) {
	h := kit.OpenHost(t)
	kit.NeedHierarchy(t, h, "pids")
	kit.NeedHierarchy(t, h, "memory")
	memory := kit.PathsOf(h).Limit
	for _, limit := range []string{"pids.max=0", "pids.max=1", "pids.max=4", memory + "=8M"} {
		for _, form := range [][]string{nil, {"--userns"}, {"--privileged"}} {
			got := kit.RunCommand(t, append(append([]string{"run", "--controllers", "pids,memory", "--limit", limit}, form...), "--", "sh", "-c", "exit 7")...)
			if got.Status != 7 || got.Stderr != "" {
				t.Errorf("%s %q: status %d, said %q", limit, form, got.Status, got.Stderr)
			}
		}
	}
	got := kit.RunCommand(t, "run", "--controllers", "pids,memory", "--limit", memory+"=4096", "--", "true")
	if got.Status != 125 || !strings.Contains(got.Stderr, "less than a command needs to begin, which is some 4 MiB") || strings.Contains(got.Stderr, "goroutine") {
		t.Errorf("%s=4096: status %d, said %q", memory, got.Status, got.Stderr)
	}
	got = kit.RunCommand(t, "run", "--controllers", "pids,memory", "--limit", "pids.max=1", "--", "/nonexistent")
	if got.Status != 127 || !strings.Contains(got.Stderr, "cannot execute /nonexistent") {
		t.Errorf("a command that is not there: status %d, said %q", got.Status, got.Stderr)
	}
	got = kit.RunCommand(t, "run", "--controllers", "pids,memory", "--limit", "pids.max=word", "--", "true")
	if got.Status != 125 || !strings.Contains(got.Stderr, "cannot set pids.max=word") {
		t.Errorf("a limit that is none: status %d, said %q", got.Status, got.Stderr)
	}
}
