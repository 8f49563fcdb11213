// Package nri is a plugin of NRI, the Node Resource Interface of containerd and CRI-O. It makes the runtime give a view
// to each container whose pod has an annotation for it.
//
// # Words
//
// The runtime is containerd or CRI-O. The OCI runtime (runc, crun) is the program that the runtime starts to make a
// container, and that calls hooks.
//
// # What always holds
//
// A container's cgroup does not exist yet when the runtime calls the plugin. So the plugin adds no guest: it adds the
// hooks of "vcgroupfs hook oci" to the container, and with Plugin.Notify a listener to its seccomp policy, and changes
// nothing else. Any fault makes the container fail. A container without an annotation stays as it is.
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

// Annotations of a pod. Each applies to all of its containers, by itself or with the suffix "/pod", or to one container
// with the suffix "/container.NAME", which takes precedence.
const (
	ViewAnnotation        = "cgroups.vcgroupfs.dev"             // "true" asks for a view
	ControllersAnnotation = "controllers.cgroups.vcgroupfs.dev" // narrows the controllers shown
	StackAnnotation       = "stack.cgroups.vcgroupfs.dev"       // "true", "false": replaces Plugin.Stack
	TmpfsAnnotation       = "tmpfs.cgroups.vcgroupfs.dev"       // "true", "false": replaces Plugin.Tmpfs
)

// DefaultSocket is the runtime's default socket for plugins.
const DefaultSocket = api.DefaultSocketPath

const (
	// reconnectEvery is the pause between tries to reach an absent runtime. Once it is back, the runtime starts containers
	// without the plugin until the next try.
	reconnectEvery = time.Second
	// startTimeout exceeds a runtime's own limits for registering and configuring a plugin (5 s and 2 s).
	startTimeout = 10 * time.Second
)

// Plugin answers a runtime. Its fields are immutable.
type Plugin struct {
	Name, Index string         // as the runtime knows it; the index, two digits, orders the plugins
	Program     string         // run by the hooks: a path on the host, like the next two
	Socket      string         // the daemon's
	PolicyFile  string         // "" for the default policy
	Policy      *policy.Policy // of PolicyFile, narrowed to Controllers
	Controllers []string       // allowed to be shown; none: the policy decides
	// Stack keeps the container's mounts below the view, unless its pod says otherwise; nil: the default of hooks.
	Stack *bool
	// Tmpfs makes a tmpfs with a mount for each hierarchy instead of the view itself, unless its pod says otherwise.
	Tmpfs   bool
	Options []string // further ones of the hooks, as on a command line
	// Notify is the daemon's socket for listeners, put into the container's seccomp policy; "" for none.
	Notify string
	Log    *logrus.Entry
}

// Run serves the runtime on a socket until ctx is done, which is no error. It keeps trying while the runtime is absent.
// fault.Invalid for a name or an index that no runtime accepts.
func (p *Plugin) Run(ctx context.Context, socket string) error {
	if err := errors.Join(api.CheckPluginName(p.Name), api.CheckPluginIndex(p.Index)); err != nil {
		return fault.With(fault.Invalid, err)
	}
	for said := ""; ; {
		err := p.serve(ctx, socket)
		if ctx.Err() != nil {
			return nil
		}
		// Once, not every second.
		if err.Error() != said {
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

// serve serves one connection to the runtime. It always ends with an error.
func (p *Plugin) serve(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	// A runtime with failure policies then fails a container instead of starting it when the plugin does not answer.
	failClosed := &api.FailurePolicy{FailRequest: true, KeepConnected: true}
	s, err := stub.New(p, stub.WithPluginName(p.Name), stub.WithPluginIdx(p.Index), stub.WithConnection(conn),
		stub.WithFailurePolicy(failClosed))
	if err != nil {
		return err
	}
	// The stub waits for ever for a runtime that registers it and disconnects before configuring it.
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

// CreateContainer adds the hooks to a container with the annotation. An error makes the container fail: an annotation
// is malformed, or names a controller that may not be shown.
func (p *Plugin) CreateContainer(_ context.Context, pod *api.PodSandbox,
	c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	log := p.Log.WithFields(logrus.Fields{"namespace": pod.GetNamespace(), "pod": pod.GetName(), "container": c.GetName(),
		"id": c.GetId()})
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

// hooks returns the hooks of a pod's container; nil if it wants no view.
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
	// poststop needs no view, and a missing policy must not keep the guest.
	poststop := slices.Clone(args)
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
	args = append(args, p.Options...)
	return &api.Hooks{
		CreateRuntime: []*api.Hook{{Path: p.Program, Args: args}},
		Poststop:      []*api.Hook{{Path: p.Program, Args: poststop}},
	}, nil
}

// saysYes returns the value of an annotation that is "true" or "false" for a container, or otherwise without one. An
// error for any other value.
func saysYes(pod *api.PodSandbox, key, container string, otherwise bool) (bool, error) {
	said, err := says(pod, key, container)
	if said == nil {
		return otherwise, err
	}
	return *said, err
}

// says returns the same, but nil without an annotation.
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
