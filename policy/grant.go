package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// tableRule names the table as the rule that spoke.
const tableRule = "default table"

// optIn lists the files that the table keeps from guests below the boundary and a policy may hand out after all,
// each by its name and for a reason. Everything else that the table does not make writable never is.
//
// net_cls.classid is not bounded by the parent's, so it is writable only within a constraint that keeps the guest to
// the classes that are its own. cpu.rt_* are: the runtimes of the children add up to at most the parent's
// (__rt_schedulable, kernel/sched/rt.c), so the kernel keeps what the host gave; what they pin is the host's own
// hand.
var optIn = map[string]struct{ constraint bool }{
	"net_cls.classid":   {constraint: true},
	"cpu.rt_runtime_us": {},
	"cpu.rt_period_us":  {},
}

// writable says whether a verdict lets a write through.
func writable(v hierarchy.Verdict) bool { return v == hierarchy.ReadWrite || v == hierarchy.Guarded }

// tableVerdict is what the table says of a file at a place.
func tableVerdict(f hierarchy.ControlFile, place hierarchy.Place) hierarchy.Verdict {
	if place == hierarchy.Boundary {
		return f.Boundary
	}
	return f.Below
}

// grant is the verdict that a rule gives a file at a place. It is never more than the table and optIn allow; what the
// rule asks for beyond that is not given, and the error says why and what is allowed.
func grant(f hierarchy.ControlFile, place hierarchy.Place, x rule) (hierarchy.Verdict, error) {
	table := tableVerdict(f, place)
	switch {
	case !writable(x.verdict):
		return x.verdict, nil
	case place == hierarchy.Boundary && !writable(table):
		return 0, fmt.Errorf("never writable at the boundary%s; %s", because(f.Reason), oneOf(boundaryWritable()))
	case place == hierarchy.Boundary:
		return table, nil
	case !writable(table), f.Constraint == hierarchy.Unchanged:
		return grantOptIn(f, x)
	case x.verdict == hierarchy.ReadWrite:
		// Guarded by the table stays guarded.
		return table, nil
	case x.limit == nil && table != hierarchy.Guarded:
		return 0, fmt.Errorf("the table puts no constraint on it; allowed: one of range, values, max")
	case x.limit != nil && !limitable(f):
		return 0, fmt.Errorf("guarded by the table already (%s); allowed: {} to keep that, or hidden, read-only",
			constraintText(f))
	}
	return hierarchy.Guarded, nil
}

// grantOptIn is grant for a file below the boundary that the table keeps from guests.
func grantOptIn(f hierarchy.ControlFile, x rule) (hierarchy.Verdict, error) {
	in, ok := optIn[f.Name]
	switch {
	case !ok && f.Mode&0o222 == 0:
		return 0, fmt.Errorf("never writable: the kernel has no write for it (mode %#o); allowed: hidden, read-only", f.Mode)
	case !ok:
		return 0, fmt.Errorf("never writable%s; allowed: hidden, read-only", because(f.Reason))
	case x.limit == nil && in.constraint:
		return 0, fmt.Errorf("writable only within a constraint%s; "+
			"allowed: hidden, read-only, or guarded with range, values or max",
			because(f.Reason))
	case x.limit == nil && x.verdict == hierarchy.Guarded:
		return 0, fmt.Errorf("the table puts no constraint on it; allowed: one of range, values, max")
	}
	return x.verdict, nil
}

// limitable says whether a constraint of the policy can stand on a file. On one that the table guards in a way of
// its own it would have to replace the table's, since a write is checked once; Canonical asks for no more than the
// canonical value, which a policy's constraint writes too.
func limitable(f hierarchy.ControlFile) bool {
	return f.Constraint == hierarchy.Unconstrained || f.Constraint == hierarchy.Canonical
}

// clamp is the last word on every decision made ready: nothing is writable that the table, or below the boundary optIn,
// does not make writable, and nothing guarded by the table is let through unguarded.
func clamp(f hierarchy.ControlFile, place hierarchy.Place, v hierarchy.Verdict, checked bool) hierarchy.Verdict {
	table := tableVerdict(f, place)
	if !writable(v) || writable(table) && (table == hierarchy.ReadWrite || v == hierarchy.Guarded) {
		return v
	}
	if in, ok := optIn[f.Name]; ok && place == hierarchy.Below && (checked || !in.constraint) {
		return v
	}
	return hierarchy.ReadOnly
}

// boundaryWritable names what a policy may list as writable at the boundary.
var boundaryWritable = sync.OnceValue(func() []string {
	var names []string
	for _, f := range hierarchy.Table() {
		if writable(f.Boundary) && !slices.Contains(names, f.Name) {
			names = append(names, f.Name)
		}
	}
	return names
})

// because appends a reason to a message.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + strings.TrimSuffix(reason, ".")
}

// constraintText says what the table's constraint on a file is.
func constraintText(f hierarchy.ControlFile) string {
	switch f.Constraint {
	case hierarchy.Members:
		return "only tasks inside the boundary move, and only within it"
	case hierarchy.Subtree:
		return "only controllers that are shown"
	case hierarchy.Trigger:
		return "pressure triggers of windows in multiples of 2 s, a bounded number of them"
	case hierarchy.Reclaim:
		return "one reclaim at a time"
	case hierarchy.PerOpen:
		return "a reset for the open file only"
	case hierarchy.Fake:
		return "kept by the view, never passed to the host"
	case hierarchy.PriorityClass:
		return "classes that do not raise a priority"
	case hierarchy.DeviceRule:
		return "one rule in a write, of a guest that the kernel would let write it"
	case hierarchy.Canonical:
		return "the canonical value of what was written"
	case hierarchy.Action:
		return "one at a time"
	case hierarchy.Unchanged:
		return "only the value that it has"
	}
	return ""
}
