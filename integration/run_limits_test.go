package integration

import (
	"strings"
	"testing"
)

// TestRunSmallLimits: what "run" itself needs before its command begins is not counted as the command's, and a limit with which none can begin is
// refused in words.
func TestRunSmallLimits(t *testing.T) {
	h := openHost(t)
	need(t, h, "pids")
	need(t, h, "memory")
	memory := pathsOf(h).limit
	for _, limit := range []string{"pids.max=0", "pids.max=1", "pids.max=4", memory + "=8M"} {
		for _, form := range [][]string{nil, {"--userns"}, {"--privileged"}} {
			got := runCommand(t, append(append([]string{"run", "--controllers", "pids,memory", "--limit", limit}, form...), "--", "sh", "-c", "exit 7")...)
			if got.status != 7 || got.err != "" {
				t.Errorf("%s %q: status %d, said %q", limit, form, got.status, got.err)
			}
		}
	}
	got := runCommand(t, "run", "--controllers", "pids,memory", "--limit", memory+"=4096", "--", "true")
	if got.status != 125 || !strings.Contains(got.err, "less than a command needs to begin, which is some 4 MiB") || strings.Contains(got.err, "goroutine") {
		t.Errorf("%s=4096: status %d, said %q", memory, got.status, got.err)
	}
	got = runCommand(t, "run", "--controllers", "pids,memory", "--limit", "pids.max=1", "--", "/nonexistent")
	if got.status != 127 || !strings.Contains(got.err, "cannot execute /nonexistent") {
		t.Errorf("a command that is not there: status %d, said %q", got.status, got.err)
	}
	got = runCommand(t, "run", "--controllers", "pids,memory", "--limit", "pids.max=word", "--", "true")
	if got.status != 125 || !strings.Contains(got.err, "cannot set pids.max=word") {
		t.Errorf("a limit that is none: status %d, said %q", got.status, got.err)
	}
}
