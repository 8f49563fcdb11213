package api

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// Bounds of a request's fields. The kernel's own are PATH_MAX and, for a write to a control file, a page
// (kernfs_fop_write_iter).
const (
	maxPath   = 4095
	maxValue  = 4096
	maxLimits = 256
)

// Check reports every fault of a spec, a line for each: the field's name, the fault and the allowed values. It does not
// check against the host: the daemon finds a missing cgroup, process, directory or controller while it adds the guest.
// p is the guest's policy, narrowed to its controllers.
func (s *GuestSpec) Check() (p *policy.Policy, err error) {
	p = policy.Default()
	if s.Policy != "" {
		p, err = policy.Parse("policy", []byte(s.Policy))
	}
	return s.check(p, err)
}

// CheckParsed is Check for a spec with its policy already parsed.
func (s *GuestSpec) CheckParsed(p *policy.Policy) error {
	_, err := s.check(p, nil)
	return err
}

func (s *GuestSpec) check(p *policy.Policy, policyErr error) (*policy.Policy, error) {
	var faults []string
	fault := func(field, format string, args ...any) {
		faults = append(faults, field+": "+fmt.Sprintf(format, args...))
	}
	switch {
	case s.Boundary == "" && s.Pid == 0:
		fault("boundary", "not given; give boundary, a cgroup path such as /machines/web, or pid, a process")
	case s.Boundary != "" && s.Pid != 0:
		fault("boundary", "given beside pid; give one of the two")
	case s.Boundary != "" && !cleanPath(s.Boundary):
		fault("boundary",
			"%q is not allowed; give the path of a cgroup below the root, counted from the root of each hierarchy, "+
				"such as /machines/web", s.Boundary)
	}
	if s.CurrentCgroup && s.Pid == 0 {
		fault("currentCgroup", "given without pid; it says which cgroup of a process to take")
	}
	if s.OfRuntime && (s.Pid == 0 || s.CurrentCgroup) {
		fault("ofRuntime", "given without pid or beside currentCgroup; it has the daemon find the cgroups of a process")
	}
	if s.Pid < 0 {
		fault("pid", "%d is not allowed; give the number of a process, 1 or more", s.Pid)
	}
	if s.Into != nil {
		s.Into.check(s.Pid, fault)
	}
	if s.Target != "" && !cleanPath(s.Target) {
		fault("target", "%q is not allowed; give the absolute path of a directory, without . and .., such as "+
			"/srv/web/rootfs/sys/fs/cgroup", s.Target)
	}
	switch {
	case s.Rootfs != "" && s.Target == "":
		fault("rootfs", "given without target; it is the guest's root, from which target is counted")
	case s.Rootfs != "" && !cleanPath(s.Rootfs):
		fault("rootfs",
			"%q is not allowed; give the absolute path of the guest's root, without . and .., such as /srv/web/rootfs", s.Rootfs)
	}
	if s.Over && s.Target == "" {
		fault("over", "given without target; it lets the view be mounted over what is there")
	}
	p = s.narrow(p, policyErr, fault)
	if s.Owner != "" {
		if _, err := spec.ParseOwner(s.Owner); err != nil {
			fault("owner", "%v", err)
		}
	}
	if s.Layout != "" {
		if _, err := hierarchy.ParseLayout(s.Layout); err != nil {
			fault("layout", "%v", err)
		}
	}
	if len(s.Limits) > maxLimits {
		fault("limits", "%d of them; allowed: %d", len(s.Limits), maxLimits)
	} else {
		for _, file := range slices.Sorted(maps.Keys(s.Limits)) {
			if err := checkLimit(Limit{file, s.Limits[file]}); err != nil {
				fault("limits", "%v", err)
			}
		}
	}
	if len(faults) > 0 {
		return nil, errors.New(strings.Join(faults, "\n"))
	}
	return p, nil
}

func (i *Into) check(pid int, fault func(field, format string, args ...any)) {
	if pid == 0 {
		fault("into", "given without pid; it is a place in the mount namespace of a process")
	}
	if !cleanPath(i.Path) {
		fault("into.path", "%q is not allowed; give the absolute path of a directory in the guest, such as /sys/fs/cgroup",
			i.Path)
	}
	if i.Rootfs != "" && !cleanPath(i.Rootfs) {
		fault("into.rootfs", "%q is not allowed; give the absolute path of the directory that will be the guest's root",
			i.Rootfs)
	}
}

// narrow returns the policy with the controllers, which can only narrow its list. With a wrong policy, it checks the
// controllers against the default, so that all faults are reported at once.
func (s *GuestSpec) narrow(p *policy.Policy, policyErr error,
	fault func(field, format string, args ...any)) *policy.Policy {
	if policyErr != nil {
		for line := range strings.SplitSeq(policyErr.Error(), "\n") {
			fault("policy", "%s", strings.TrimPrefix(line, "policy:"))
		}
		p = policy.Default()
	}
	if len(s.Controllers) == 0 {
		return p
	}
	narrowed, err := p.WithControllers(s.Controllers)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fault("controllers", "%s", line)
		}
	}
	return narrowed
}

// Place returns the mount point of the view on the host.
func (s *GuestSpec) Place() target.Target { return target.Target{Rootfs: s.Rootfs, Path: s.Target} }

// cleanPath reports that p is absolute, below the root, and in canonical form.
func cleanPath(p string) bool {
	return strings.HasPrefix(p, "/") && p != "/" && path.Clean(p) == p && len(p) <= maxPath &&
		!strings.ContainsAny(p, "\x00\n")
}

func checkLimit(l Limit) error {
	if l.File == "" || l.File == "." || l.File == ".." || len(l.File) > 255 || strings.ContainsAny(l.File, "/\x00\n") {
		return fmt.Errorf("%q is not allowed; give the name of a control file of the boundary, such as pids.max", l.File)
	}
	if l.Value == "" || len(l.Value) > maxValue || strings.ContainsAny(l.Value, "\x00\n") {
		return fmt.Errorf("the value of %s is not allowed; give one line of 1 to %d bytes, such as %s=64", l.File, maxValue,
			l.File)
	}
	return nil
}

// CheckLimits reports every fault of the body of POST /v1/guests/{name}/set, a line for each.
func CheckLimits(limits []Limit) error {
	if len(limits) == 0 || len(limits) > maxLimits {
		return fmt.Errorf("%d limits; give 1 to %d, as in [{\"file\": \"pids.max\", \"value\": \"64\"}]", len(limits),
			maxLimits)
	}
	var faults []string
	for i, l := range limits {
		if err := checkLimit(l); err != nil {
			faults = append(faults, fmt.Sprintf("[%d]: %v", i, err))
		}
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "\n"))
	}
	return nil
}

func (u *UpgradeRequest) check() error {
	if u.Program != "" && !cleanPath(u.Program) {
		return fmt.Errorf(
			"program: %q is not allowed; give the absolute path of a program without . and .., or nothing for the one "+
				"that the daemon was started as", u.Program)
	}
	return nil
}
