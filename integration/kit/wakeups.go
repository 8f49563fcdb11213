package kit

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Effort is what processes did: how often their threads fell asleep, and how long they ran.
type Effort struct {
	Wakeups int // voluntary switches
	Ran     time.Duration
}

// effortOf adds up what the living threads of processes did since they began.
func effortOf(pids []int) (e Effort) {
	for _, pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, task := range tasks {
			for line := range strings.Lines(ReadFile(task + "/status")) {
				var n int
				if _, err := fmt.Sscanf(line, "voluntary_ctxt_switches: %d", &n); err == nil {
					e.Wakeups += n
				}
			}
			var ran, waited int64
			if _, err := fmt.Sscan(ReadFile(task+"/schedstat"), &ran, &waited); err == nil {
				e.Ran += time.Duration(ran)
			}
		}
	}
	return e
}

// EffortWithin is what the daemon does in a time: holder and worker, and an answerer if there is one.
func (d *Daemon) EffortWithin(t testing.TB, wait time.Duration) Effort {
	t.Helper()
	pids := d.Pids()
	before := effortOf(pids)
	time.Sleep(wait)
	after := effortOf(pids)
	return Effort{after.Wakeups - before.Wakeups, after.Ran - before.Ran}
}

// Pids are the holder and its children.
func (d *Daemon) Pids() []int {
	pids := []int{d.Cmd.Process.Pid}
	for _, p := range children(d.Cmd.Process.Pid) {
		pids = append(pids, int(p))
	}
	return pids
}
