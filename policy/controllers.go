package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// notByDefault says why a controller is hidden unless a policy or the command line names it.
var notByDefault = map[string]string{
	"blkio": "v1 throttling is flat: a task in a child cgroup escapes its parent's limit; on v2 the controller io nests " +
		"and is shown",
	"net_prio":   "it lists and sets the network interfaces of the host, whoever asks",
	"perf_event": "it is of use only with a descriptor of a real cgroupfs (PERF_FLAG_PID_CGROUP)",
	"debug":      "it shows the kernel's own data structures",
	hierarchy.Unified: "on a host with v1 hierarchies the v2 tree is a second view of the same guest; " +
		"on a host with v2 only it is always shown",
}

// nameMax is the kernel's bound on a named hierarchy, MAX_CGROUP_ROOT_NAMELEN less the NUL
// (kernel/cgroup/cgroup-internal.h).
const nameMax = 63

// knownController says whether some kernel has this controller.
func knownController(name string) bool { return hierarchy.KnownController(name) }

// checkController checks one name of the controllers shown; the error lists what is allowed. A named v1 hierarchy is
// "name=" and what the kernel takes there: letters, digits, '.', '-' and '_' (cgroup1_parse_param).
func checkController(name string) error {
	if knownController(name) || name == hierarchy.Unified {
		return nil
	}
	if label, ok := strings.CutPrefix(name, "name="); ok {
		if label != "" && len(label) <= nameMax && strings.IndexFunc(label, notNameRune) < 0 {
			return nil
		}
		return fmt.Errorf("bad name of a hierarchy; allowed: name= and 1 to %d of letters, digits, '.', '-', '_'", nameMax)
	}
	return fmt.Errorf("no such controller; allowed: %s, %s, name=NAME",
		strings.Join(hierarchy.KnownControllers(), ", "), hierarchy.Unified)
}

func notNameRune(c rune) bool { return c > 0x7f || !isNameByte(byte(c)) }

// owner is the controller that a control file belongs to, as hierarchy.ControllerOf, "" for a core file. On v1 no
// controller's file is core: cpu.stat is the cpu controller's there, while v2 has it in every cgroup.
func owner(v hierarchy.Version, file string) string {
	c := hierarchy.ControllerOf(file)
	if c == "" && v == hierarchy.V1 {
		if prefix, _, dotted := strings.Cut(file, "."); dotted && knownController(prefix) {
			return prefix
		}
	}
	return c
}

// Permits says whether a controller is shown: "memory", a named v1 hierarchy as "name=systemd", or "unified" for the v2
// tree of a host that has v1 hierarchies too. A policy knows no host: the only tree of a host with v2 alone is shown
// whether or not "unified" is permitted.
func (p *Policy) Permits(controller string) bool { return p.shown[controller] }

// Controllers lists what is shown, in the policy's order, with the names that Permits takes.
func (p *Policy) Controllers() []string { return slices.Clone(p.spec.controllers) }

// Legacy returns the policy for a view in which files of v1 stand for those of v2: one that shows a controller under
// its name in one version shows it under its names in the other, too, io as blkio and cpu as cpu and cpuacct.
func (p *Policy) Legacy() *Policy {
	if p.legacy == nil {
		return p
	}
	return p.legacy()
}

// WithControllers returns the policy with the shown controllers set to names, as a command line does. Where the policy
// lists controllers itself the names can only narrow that list; otherwise they may be any that a policy can list. No
// names: no controller is shown. The error lists what is allowed, for each wrong name.
func (p *Policy) WithControllers(names []string) (*Policy, error) {
	s := p.spec
	var wrong []string
	for _, name := range names {
		if err := checkController(name); err != nil {
			wrong = append(wrong, fmt.Sprintf("cannot show controller %q: %v", name, err))
		} else if s.listed && !p.shown[name] {
			wrong = append(wrong, fmt.Sprintf("cannot show controller %q: the policy does not (%s); %s",
				name, s.controllersAt, oneOf(s.controllers)))
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("%s", strings.Join(wrong, "\n"))
	}
	s.controllers, s.listed, s.controllersAt = slices.Clone(names), true, "--controllers"
	return compile(s), nil
}
