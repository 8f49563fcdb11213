package views

import (
	"fmt"
	"slices"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// Container is a container that a runtime has just made.
type Container struct {
	Name   string
	Pid    int // of its first process, which the runtime has moved to the container's cgroups
	Caller int // of a process in the runtime's own cgroups
}

// Controllers returns the controllers that a container can be shown: of the given ones, or else of those that the
// policy permits, the ones in whose hierarchy the runtime has made the container a cgroup of its own, and which the
// layout can show. In other hierarchies the container is in the runtime's cgroup, like the caller; that cgroup is no
// boundary. The error names the container.
func (c Container) Controllers(
	h *host.Host, given []string, p *policy.Policy, layout hierarchy.Layout,
) (own []string, err error) {
	its, err := h.PathsOf(c.Pid)
	if err != nil {
		return nil, fmt.Errorf("cannot find container %s: process %d: %w", c.Name, c.Pid, err)
	}
	ours, err := h.PathsOf(c.Caller)
	if err != nil {
		return nil, fmt.Errorf("cannot find process %d of the runtime: %w", c.Caller, err)
	}
	for i, t := range h.Hierarchies() {
		if its[i] == "" {
			return nil, fmt.Errorf("cannot find container %s in the hierarchy %s", c.Name, t)
		}
		shared := its[i] == "/" || its[i] == ours[i]
		for _, name := range t.Names() {
			switch {
			case shared && slices.Contains(given, name):
				return nil, fmt.Errorf(
					"cannot show controller %q to container %s: the runtime has made it no cgroup in that hierarchy", name, c.Name)
			case !shared && p.Permits(name) && CanShow(t, name, layout):
				own = append(own, name)
			}
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf(
			"cannot show container %s anything: the runtime has made it no cgroup in a hierarchy that may be shown", c.Name)
	}
	if len(given) > 0 {
		// The maker of the guest refuses a name that the host does not have.
		return given, nil
	}
	return own, nil
}
