package run

import (
	"fmt"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// hierarchyOf finds the hierarchy of a limit's control file.
func hierarchyOf(h *host.Host, file string) (*host.Hierarchy, error) {
	if t := writableIn(h, file); t != nil {
		return t, nil
	}
	if here := nameHere(h, file); here != "" {
		return nil, fault.New(fault.Unsupported,
			"cannot set %s: on this host it is called %s, whose values docs/control-files.md has", file, here)
	}
	return nil, fault.New(fault.Unsupported, "cannot set %s: no hierarchy of this host has a control file of "+
		"that name that can be written; docs/control-files.md lists v1 and v2 names, and the host has %s", file,
		views.Available(h))
}

// writableIn returns the hierarchy with a writable control file of this name, nil for none.
func writableIn(h *host.Host, file string) *host.Hierarchy {
	for _, t := range h.Hierarchies() {
		row, ok := t.ControlFile(file)
		if ok && row.Mode&0o222 != 0 && row.Constraint != hierarchy.Members {
			return t
		}
	}
	return nil
}

// isLate reports a limit that is set only when the guest's first process is about to become the command, because that
// process's own use must not count for the command. Others, such as those of cpuset on v1, must be set before the first
// process joins.
func isLate(l spec.Limit) bool {
	return strings.HasPrefix(l.File, "pids.") || strings.HasPrefix(l.File, "memory.")
}

// splitLimits separates the limits to set before the first process from the late ones.
func splitLimits(all []spec.Limit) (early, late []spec.Limit) {
	for _, l := range all {
		if isLate(l) {
			late = append(late, l)
		} else {
			early = append(early, l)
		}
	}
	return early, late
}

// apply sets limits at a boundary.
func apply(h *host.Host, path string, limits []spec.Limit) error {
	for _, l := range limits {
		t, err := hierarchyOf(h, l.File)
		if err != nil {
			return err
		}
		row, _ := t.ControlFile(l.File)
		if v, err := row.Grammar.Parse([]byte(l.Value)); err != nil || len(v.Canonical()) == 0 {
			return fault.New(fault.Invalid, "cannot set %s=%s: write %s", l.File, l.Value, row.Grammar)
		}
		if err := t.WriteFile(path, l.File, l.Value); err != nil {
			return fmt.Errorf("cannot set %s=%s at the boundary in the hierarchy %s: %w", l.File, l.Value, t, err)
		}
	}
	return nil
}
