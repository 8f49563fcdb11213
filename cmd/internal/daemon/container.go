package daemon

import (
	"fmt"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// OfRuntime finds what a runtime has made for a container: the boundary and the controllers. A runtime makes the
// container's cgroup, and moves its first process there, before it calls a hook. Without a cgroup namespace to mark the
// boundary, the process's present cgroup is the boundary. The error names the container.
func (d *Daemon) OfRuntime(
	name string, spec api.GuestSpec, p *policy.Policy, caller int,
) (api.GuestSpec, *policy.Policy, error) {
	spec.OfRuntime = false
	box := views.Container{Name: name, Pid: spec.Pid, Caller: caller}
	var err error
	if spec.Controllers, err = box.Controllers(d.making.host, spec.Controllers, p, layoutOf(spec)); err != nil {
		return spec, nil, err
	}
	if p, err = d.making.policies.of(spec); err != nil {
		return spec, nil, fault.With(fault.Invalid, err)
	}
	if spec.CurrentCgroup, err = host.InOwnNamespace(spec.Pid, "cgroup"); err != nil {
		return spec, nil, fmt.Errorf("cannot look at process %d of container %s: %w", spec.Pid, name, err)
	}
	return spec, p, nil
}
