// Package nri is a plugin of NRI, the Node Resource Interface of containerd and CRI-O: it has the runtime give a view to each
// container that asks for one by an annotation of its pod.
//
// # Words
//
// The runtime is containerd or CRI-O. The OCI runtime is what it starts to make a container (runc, crun); that one calls hooks.
//
// # What always holds
//
// The cgroup of a container does not exist when the plugin is asked about it. So the plugin makes no guest: it adds the hooks of
// "vcgroupfs hook oci" to the container, and where Plugin.Notify says so a listener to its seccomp policy, and changes nothing else of
// it. What is wrong makes the container fail. A container that
// asks for nothing is left alone.
package nri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/plugin"
	"github.com/containerd/nri/pkg/stub"
	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// The annotations of a pod. Each is for all of its containers, as it is or with "/pod" behind it, or with "/container.NAME" for one
// container, which comes first.
const (
	ViewAnnotation        = "cgroups.vcgroupfs.dev"             // "true" asks for a view
	ControllersAnnotation = "controllers.cgroups.vcgroupfs.dev" // narrows the controllers that are shown
	StackAnnotation       = "stack.cgroups.vcgroupfs.dev"       // "true", "false": Plugin.Stack for it
	TmpfsAnnotation       = "tmpfs.cgroups.vcgroupfs.dev"       // "true", "false": Plugin.Tmpfs for it
)

// DefaultSocket is where a runtime listens for plugins when nobody says otherwise.
const DefaultSocket = api.DefaultSocketPath

const (
	// reconnectEvery is how long the plugin waits for a runtime that is not there. Until it is back the runtime starts containers
	// without it.
	reconnectEvery = time.Second
	// startTimeout is more than a runtime gives a plugin to register and to be configured (5 s and 2 s).
	startTimeout = 10 * time.Second
)

// Plugin answers a runtime. Its fields are immutable.
type Plugin struct {
	Name, Index string         // as the runtime is to know it; the index, two digits, orders the plugins
	Program     string         // that the hooks run: a path of the host, as are the next two
	Socket      string         // the daemon's
	PolicyFile  string         // "" for the default policy
	Policy      *policy.Policy // what PolicyFile says, narrowed to Controllers
	Controllers []string       // that may be shown; none: as the policy says
	Stack       *bool          // whether what is mounted in the container stays below the view, unless its pod says; nil: as hooks do unasked
	Tmpfs       bool           // a tmpfs with a mount for each hierarchy instead of the view itself, unless its pod says otherwise
	ProcCgroups bool           // a file over /proc/cgroups, too
	Notify      string         // the daemon's socket for listeners, which the container's seccomp policy is to ask; "" for none
	Log         *logrus.Entry
}

// Run serves the runtime that listens on a socket until ctx is done, which is no error. While the runtime is not there it tries
// again and again. The error is about a name or an index that no runtime takes.
func (p *Plugin) Run(ctx context.Context, socket string) error {
	if err := errors.Join(api.CheckPluginName(p.Name), api.CheckPluginIndex(p.Index)); err != nil {
		return fault.With(fault.Invalid, err)
	}
	for said := ""; ; {
		err := p.serve(ctx, socket)
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != said { // once, not each second
			said = err.Error()
			p.Log.WithError(err).Warn("no runtime to serve; trying again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectEvery):
		}
	}
}

// serve is one connection to the runtime. It always ends with an error.
func (p *Plugin) serve(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	// A runtime that knows failure policies fails a container rather than start it when the plugin does not answer.
	failClosed := &api.FailurePolicy{FailRequest: true, KeepConnected: true}
	s, err := stub.New(p, stub.WithPluginName(p.Name), stub.WithPluginIdx(p.Index), stub.WithConnection(conn), stub.WithFailurePolicy(failClosed))
	if err != nil {
		return err
	}
	// The stub waits for ever for a runtime that registers it and goes away before it configures it.
	started := make(chan error, 1)
	go func() { started <- s.Start(ctx) }()
	select {
	case err := <-started:
		if err != nil {
			return err
		}
	case <-time.After(startTimeout):
		return fmt.Errorf("the runtime has not configured the plugin within %v", startTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
	p.Log.Infof("serving the runtime at %s as %s-%s", socket, p.Index, p.Name)
	atEnd := context.AfterFunc(ctx, s.Stop)
	defer atEnd()
	s.Wait()
	return errors.New("the runtime has ended the connection")
}

// CreateContainer adds the hooks to a container that asks for a view. The error makes the container fail: an annotation is
// malformed, or names a controller that may not be shown.
func (p *Plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	log := p.Log.WithFields(logrus.Fields{"namespace": pod.GetNamespace(), "pod": pod.GetName(), "container": c.GetName(), "id": c.GetId()})
	hooks, err := p.hooks(pod, c.GetName())
	switch {
	case err != nil:
		log.WithError(err).Warn("refused")
		return nil, nil, fmt.Errorf("vcgroupfs: %w", err)
	case hooks == nil:
		return nil, nil, nil
	}
	adjust := &api.ContainerAdjustment{Hooks: hooks}
	if p.Notify != "" {
		if policy := notifying(c.GetLinux(), p.Notify); policy != nil {
			adjust.SetLinuxSeccompPolicy(policy)
		} else {
			log.Info("keeps its seccomp policy: the runtime does not tell which, or it has a listener already")
		}
	}
	log.Info("gets a view")
	return adjust, nil, nil
}

// hooks are those of a container of a pod; nil when it asks for no view.
func (p *Plugin) hooks(pod *api.PodSandbox, container string) (*api.Hooks, error) {
	if view, err := saysYes(pod, ViewAnnotation, container, false); err != nil || !view {
		return nil, err
	}
	asked, _ := plugin.GetEffectiveAnnotation(pod, ControllersAnnotation, container)
	controllers, err := spec.Narrow(p.Controllers, ControllersAnnotation, asked)
	if err == nil && len(controllers) > 0 {
		_, err = p.Policy.WithControllers(controllers)
	}
	if err != nil {
		return nil, err
	}

	stack, err1 := says(pod, StackAnnotation, container)
	if stack == nil {
		stack = p.Stack
	}
	tmpfs, err2 := saysYes(pod, TmpfsAnnotation, container, p.Tmpfs)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}

	args := []string{"vcgroupfs", "hook", "oci", "--made-by", "nri", "--socket", p.Socket}
	poststop := slices.Clone(args) // what is shown is nothing to it, and a policy that is gone must not keep the guest
	if len(controllers) > 0 {
		args = append(args, "--controllers", strings.Join(controllers, ","))
	}
	if p.PolicyFile != "" {
		args = append(args, "--policy", p.PolicyFile)
	}
	if stack != nil {
		args = append(args, map[bool]string{true: "--stack", false: "--no-stack"}[*stack])
	}
	if tmpfs {
		args = append(args, "--tmpfs")
	}
	if p.ProcCgroups {
		args = append(args, "--proc-cgroups")
	}
	return &api.Hooks{
		CreateRuntime: []*api.Hook{{Path: p.Program, Args: args}},
		Poststop:      []*api.Hook{{Path: p.Program, Args: poststop}},
	}, nil
}

// saysYes is what an annotation that is "true" or "false" says of a container. The error is about any other value.
func saysYes(pod *api.PodSandbox, key, container string, otherwise bool) (bool, error) {
	said, err := says(pod, key, container)
	if said == nil {
		return otherwise, err
	}
	return *said, err
}

// says is the same, nil where there is no annotation.
func says(pod *api.PodSandbox, key, container string) (*bool, error) {
	said, ok := plugin.GetEffectiveAnnotation(pod, key, container)
	if !ok {
		return nil, nil
	}
	if said != "true" && said != "false" {
		return nil, fmt.Errorf(`annotation %s: %q; allowed: "true", "false"`, key, said)
	}
	yes := said == "true"
	return &yes, nil
}
