// Package guest is the life of a guest: its boundary in each hierarchy, its limits, its view, the command that runs in it,
// and their removal.
//
// # Words
//
// A lease is what "run" makes on the host for one guest: cgroups, and a file below /run that names them and is locked as
// long as its maker lives. The first process of a guest is started as "guest-init": it sets its namespaces up and then
// becomes the command.
//
// # What always holds
//
// What was made is removed on every way out; what a killed server leaves is found by its file and removed by the next. The
// guest begins only when all of it is set up, and ends when its server does.
package guest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// Shown says whether a view with this policy shows a hierarchy: the v2 tree of a host without v1 always.
func Shown(h *host.Host, t *host.Hierarchy, p *policy.Policy) bool {
	if t.Version == hierarchy.V2 && len(h.Hierarchies()) == 1 {
		return true
	}
	return slices.ContainsFunc(t.Names(), p.Permits)
}

// Select lists the hierarchies that a view with this policy shows. The error says what the host has when that is none.
func Select(h *host.Host, p *policy.Policy) ([]*host.Hierarchy, error) {
	var trees []*host.Hierarchy
	for _, t := range h.Hierarchies() {
		if Shown(h, t, p) {
			trees = append(trees, t)
		}
	}
	if len(trees) == 0 {
		return nil, fault.New(fault.Unsupported,
			"cannot show anything: no hierarchy of this host has a permitted controller; it has %s", Available(h))
	}
	return trees, nil
}

// Available names what the host has, for messages.
func Available(h *host.Host) string {
	var names []string
	for _, t := range h.Hierarchies() {
		names = append(names, t.Names()...)
	}
	return strings.Join(names, ", ")
}

// CheckControllers says which controllers that were named on a command line the host does not have.
func CheckControllers(h *host.Host, names []string) error {
	for _, name := range names {
		if h.Hierarchy(name) == nil {
			return fault.New(fault.Unsupported,
				"cannot show controller %q: this host does not have it; it has %s", name, Available(h))
		}
	}
	return nil
}

// Place says where a guest's boundary is: at a path counted from the root of each hierarchy, or where the cgroup namespace of a
// process begins, or, with Current, at the cgroups that the process is in now.
type Place struct {
	Path    string
	Pid     int
	Current bool
}

// Find says how to find the boundary in a hierarchy. The error says what to give instead when a process has no boundary.
func (p Place) Find() (func(*host.Hierarchy) (string, error), error) {
	if p.Path != "" {
		return func(*host.Hierarchy) (string, error) { return p.Path, nil }, nil
	}
	at := func(t *host.Hierarchy) (string, error) { return t.PathOf(p.Pid) }
	what := "the cgroup"
	if !p.Current {
		ns, err := host.CgroupNamespaceOf(p.Pid)
		switch {
		case errors.Is(err, host.ErrOwnNamespace):
			return nil, fmt.Errorf("cannot find the boundary of process %d: it is in the host's own cgroup namespace, so nothing marks "+
				"one; take the cgroup that it is in now (--current-cgroup), or give a path (--boundary PATH)", p.Pid)
		case errors.Is(err, unix.ESRCH):
			return nil, fmt.Errorf("cannot find the boundary of process %d: no such process", p.Pid)
		case err != nil:
			return nil, fmt.Errorf("cannot find the boundary of process %d: %w", p.Pid, err)
		}
		at = func(t *host.Hierarchy) (string, error) { return ns.Root(t.Hierarchy) }
		what = "the root of the cgroup namespace"
	}
	return func(t *host.Hierarchy) (string, error) {
		path, err := at(t)
		switch {
		case errors.Is(err, unix.ENOENT) && !p.Current:
			return "", fmt.Errorf("cannot find %s of process %d in the hierarchy %s: the process was moved out of it; give a path "+
				"(--boundary PATH)", what, p.Pid, t)
		case err != nil:
			return "", fmt.Errorf("cannot find %s of process %d in the hierarchy %s: %w", what, p.Pid, t, err)
		case path == "/":
			return "", fmt.Errorf("cannot use %s of process %d as a boundary: it is the root of the hierarchy %s; move it to one "+
				"of its own, or show fewer controllers with --controllers", what, p.Pid, t)
		}
		return path, nil
	}, nil
}

// Limit is one "FILE=VALUE".
type Limit struct {
	File, Value string
}

// ParseLimit reads "FILE=VALUE". The error says the form.
func ParseLimit(s string) (Limit, error) {
	file, value, ok := strings.Cut(s, "=")
	if !ok || file == "" || value == "" || strings.Contains(file, "/") {
		return Limit{}, fmt.Errorf("cannot read limit %q: write FILE=VALUE, as in pids.max=64", s)
	}
	return Limit{file, value}, nil
}

// treeOf finds the hierarchy that a limit's control file belongs to.
func treeOf(h *host.Host, file string) (*host.Hierarchy, error) {
	if t := writableIn(h, file); t != nil {
		return t, nil
	}
	if here := nameHere(h, file); here != "" {
		return nil, fault.New(fault.Unsupported,
			"cannot set %s: on this host it is called %s, whose values docs/control-files.md has", file, here)
	}
	return nil, fault.New(fault.Unsupported, "cannot set %s: no hierarchy of this host has a control file of "+
		"that name that can be written; docs/control-files.md lists v1 and v2 names, and the host has %s", file, Available(h))
}

// writableIn is the hierarchy with a control file that can be written, nil for none.
func writableIn(h *host.Host, file string) *host.Hierarchy {
	for _, t := range h.Hierarchies() {
		row, ok := t.ControlFile(file)
		if ok && row.Mode&0o222 != 0 && row.Constraint != hierarchy.Members {
			return t
		}
	}
	return nil
}

// late says whether a limit is set only when the guest's first process is about to become the command: what that needs before is not the
// command's. Other limits, as those of cpuset on v1, must be there before a process is.
func (l Limit) late() bool {
	return strings.HasPrefix(l.File, "pids.") || strings.HasPrefix(l.File, "memory.")
}

// splitLimits gives those that are set before there is a process, and those that are late.
func splitLimits(all []Limit) (early, late []Limit) {
	for _, l := range all {
		if l.late() {
			late = append(late, l)
		} else {
			early = append(early, l)
		}
	}
	return early, late
}

// apply sets limits at a boundary.
func apply(h *host.Host, path string, limits []Limit) error {
	for _, l := range limits {
		t, err := treeOf(h, l.File)
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
