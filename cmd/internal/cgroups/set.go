package cgroups

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// settable are the classes of control files that Set accepts.
var settable = []string{"limit", "weight", "protection", "config"}

// Set sets control files of a guest's boundary, and returns all changes in the order of the writes. If v1 refuses a
// value because of values in cgroups below, Set lowers just those (see makeRoom). Limits that depend on each other,
// like memory.limit_in_bytes and memory.memsw.limit_in_bytes, are written in an order that the kernel accepts.
//
// Set makes all changes or none: if one limit cannot be set, it restores the old values. fault.Invalid for a file or a
// value that cannot be set, fault.Unsupported for a file of a hierarchy that is not shown to the guest, fault.Failed if
// the kernel refuses.
func Set(bs []*host.Boundary, limits []Limit) ([]Change, error) {
	var todo []*setting
	for _, l := range limits {
		s, err := settingOf(bs, l)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(todo, func(o *setting) bool { return o.file == s.file && o.key() == s.key() }) {
			return nil, fault.New(fault.Invalid, "cannot set %s twice at once: name it once", l.File)
		}
		todo = append(todo, s)
	}
	var j journal
	if err := setAll(&j, todo); err != nil {
		if j.undo(0); j.lost != nil {
			return nil, fault.New(fault.Failed, "%v; these could not be put back: %v", err, errors.Join(j.lost...))
		}
		return nil, fault.New(fault.Failed, "%v; nothing was changed", err)
	}
	changes := []Change{}
	for _, w := range j.writes {
		changes = append(changes, w.Change)
	}
	return changes, nil
}

// setting is a limit to set.
type setting struct {
	boundary *host.Boundary
	row      hierarchy.ControlFile
	file     string
	value    string // in canonical form
	got      string // content of the file after the write
}

// key returns the key of the line that the setting writes, in a file with several.
func (s *setting) key() string { return keyOf(s.file, s.value) }

// settingOf finds the hierarchy of a limit and checks it.
func settingOf(bs []*host.Boundary, l Limit) (*setting, error) {
	for _, b := range bs {
		row, ok := b.Hierarchy().ControlFile(l.File)
		if !ok || row.RootOnly() {
			continue
		}
		if err := checkSettable(row, l.File); err != nil {
			return nil, err
		}
		v, err := row.Grammar.Parse([]byte(l.Value))
		if err != nil || len(v.Canonical()) == 0 {
			return nil, fault.New(fault.Invalid, "cannot set %s to %q: write %s", l.File, l.Value, row.Grammar)
		}
		return &setting{boundary: b, row: row, file: l.File, value: string(v.Canonical())}, nil
	}
	for _, v := range []hierarchy.Version{hierarchy.V1, hierarchy.V2} {
		if row, ok := hierarchy.Lookup(v, l.File); ok {
			if err := checkSettable(row, l.File); err != nil {
				return nil, err
			}
			return nil, fault.New(fault.Unsupported,
				"cannot set %s: no hierarchy of the guest has it; it has %s: use their names of the "+
					"file, which docs/control-files.md lists, or add the guest with the controller", l.File, names(bs))
		}
	}
	return nil, fault.New(fault.Invalid,
		"cannot set %s: there is no such control file: docs/control-files.md lists them", l.File)
}

// checkSettable refuses a file that is no plain value: it moves or kills tasks, shapes the tree, runs something on the
// host, or could not be restored.
func checkSettable(row hierarchy.ControlFile, file string) error {
	switch {
	case !slices.Contains(settable, row.Class):
		return fault.New(fault.Invalid,
			"cannot set %s, whose class is %s: name a control file of the classes %s; docs/control-files.md "+
				"lists them", file, row.Class, strings.Join(settable, ", "))
	case row.Mode&0o222 == 0:
		return fault.New(fault.Invalid, "cannot set %s: it is read-only: name another control file", file)
	case row.Mode&0o444 == 0:
		return fault.New(fault.Invalid,
			"cannot set %s: what it has now cannot be read, so it could not be put back: write it on the host",
			file)
	}
	return nil
}

// setAll writes all settings. It first tries each as it is, repeatedly while one more is accepted, and then makes room
// for a refused one.
func setAll(j *journal, all []*setting) error {
	for todo := all; len(todo) > 0; {
		var rest []*setting
		var refused []error
		for _, s := range todo {
			if err := s.write(j); err != nil {
				rest, refused = append(rest, s), append(refused, err)
			}
		}
		if len(rest) == len(todo) {
			i, err := forceOne(j, rest, refused)
			if err != nil {
				return err
			}
			rest = slices.Delete(rest, i, i+1)
		}
		todo = rest
	}
	for _, s := range all {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

// forceOne writes the first refused setting for which room can be made, and returns its index. The error is that of the
// first setting.
func forceOne(j *journal, todo []*setting, refused []error) (int, error) {
	var first error
	for i, s := range todo {
		before := len(j.writes)
		err := s.force(j, refused[i])
		if err == nil {
			return i, nil
		}
		j.undo(before)
		if first == nil {
			first = err
		}
	}
	return 0, first
}

// roomTries bounds the tries to make room for one value: the guest may use up the room in between.
const roomTries = 3

// force makes room for a refused setting, and writes it.
func (s *setting) force(j *journal, refused error) error {
	err := refused
	for range roomTries {
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBUSY) {
			break
		}
		made, roomErr := s.makeRoom(j)
		if roomErr != nil {
			return fmt.Errorf("cannot make room for %s=%s below the boundary: %w", s.file, s.value, roomErr)
		}
		if !made {
			break
		}
		if err = s.write(j); err == nil {
			return nil
		}
	}
	return fmt.Errorf("cannot set %s=%s in the hierarchy %s: %w: %s", s.file, strings.TrimSpace(s.value),
		s.boundary.Hierarchy(), err, s.advice(err))
}

// write writes the setting at the boundary.
func (s *setting) write(j *journal) error {
	root, err := s.boundary.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	if err := j.write(s.boundary, root, s.file, s.value); err != nil {
		return err
	}
	s.got, err = read(root, s.file)
	return err
}

// check checks that the setting still holds: making room for another one may have changed it.
func (s *setting) check() error {
	root, err := s.boundary.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	if now, err := read(root, s.file); err != nil || now != s.got && keyOf(s.file, s.value) == "" {
		return fmt.Errorf(
			"cannot set %s=%s: another of the values leaves no room for it: see which of them belong together (%w)",
			s.file, strings.TrimSpace(s.value), cmp.Or(err, error(unix.EINVAL)))
	}
	return nil
}

// advice returns the remedy for the kernel's error.
func (s *setting) advice(err error) string {
	switch {
	case gone(err):
		return "the boundary is gone, or has no such file: its controller may not be enabled for it, or the kernel too old"
	case errors.Is(err, unix.EBUSY) && s.row.Controller == "memory":
		return "the guest uses more than that and it cannot be reclaimed: take a larger value, or end some of its processes"
	case errors.Is(err, unix.EINVAL) && s.file == "memory.limit_in_bytes":
		return "it may not be more than memory.memsw.limit_in_bytes: set both at once"
	case errors.Is(err, unix.EINVAL) && strings.HasPrefix(s.file, "cpu.cfs_burst"):
		return "it may not be more than cpu.cfs_quota_us"
	case errors.Is(err, unix.EINVAL) && strings.HasPrefix(s.file, "cpu.cfs_"):
		return "the quota is 1000 or more, or -1, the period 1000 to 1000000, and their ratio no more than that of the " +
			"cgroup above the boundary"
	case errors.Is(err, unix.EINVAL) && strings.HasPrefix(s.file, "cpu.rt_"):
		return "all cgroups beside the boundary and it may not have more than the one above"
	case errors.Is(err, unix.ENOSPC) && s.row.Controller == "cpuset":
		return "the guest's processes would have none: name at least one"
	case errors.Is(err, unix.EACCES) && s.row.Controller == "cpuset":
		return "the cgroup above the boundary does not have all of these: see what it has"
	case errors.Is(err, unix.ERANGE):
		return "take a value within the file's bounds"
	}
	return "see docs/control-files.md for what it takes (" + s.row.Grammar.String() + ")"
}
