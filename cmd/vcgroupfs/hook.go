package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// hookTimeout bounds the wait for the daemon, which may be restarting.
const hookTimeout = 30 * time.Second

func hookCommand() *cli.Command {
	c := &cli.Command{
		Name:  "hook",
		Usage: "what container runtimes call to give a container its view",
		Description: "Runtimes run these with the container's state; docs/runtimes.md has the configuration for each. The " +
			"daemon (vcgroupfs serve)\n" +
			"must run. A hook that fails makes the container fail: it never starts without its view. Cgroups that the runtime " +
			"has given to the\n" +
			"root of the container's user namespace are the host's root's from then on.",
		Action: group,
	}
	for _, h := range runtimes.Hooks() {
		c.Subcommands = append(c.Subcommands, &cli.Command{
			Name: h.Name, Usage: h.Usage, Description: h.Description, Flags: hookFlags(), Action: hookAction(h),
		})
	}
	return c
}

func hookFlags() []cli.Flag {
	return append(append(policyFlags(),
		&cli.StringFlag{Name: "into", Value: "/sys/fs/cgroup", Usage: "attach the view at `DIR` in the container"},
		socketFlag(),
		&cli.StringFlag{Name: madeByFlag, Value: api.ByHook, Hidden: true},
	), attachmentFlags()...)
}

// madeByFlag is the option that the NRI plugin adds to its hooks, so that the guests are known as its own.
const madeByFlag = "made-by"

// hookAction gives a container its view, or removes it.
func hookAction(hook *runtimes.Hook) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() > 0 {
			return usageErrorf("%s takes no argument but options: %q", strings.TrimPrefix(c.Command.HelpName, "vcgroupfs "),
				c.Args().First())
		}
		box, err := hook.Read(runtimes.Input{Stdin: os.Stdin, Getenv: os.Getenv})
		if err != nil {
			return err
		}
		daemon := api.NewClient(c.String("socket")).As(api.Maker{By: c.String(madeByFlag), Of: box.Of})
		defer daemon.Close()
		ctx, cancel := context.WithTimeout(c.Context, hookTimeout)
		defer cancel()
		name := spec.NameOf(box.ID)
		if box.Pid == 0 {
			return removeContainer(ctx, daemon, name, c.App.ErrWriter)
		}
		p, text, err := readPolicy(c.String("policy"))
		if err != nil {
			return err
		}
		g := api.GuestSpec{Layout: layoutOf(c), Controllers: spec.ControllerNames(c.String("controllers")), Policy: text,
			Pid: box.Pid}
		if g.Into, err = intoOf(c, box.Rootfs); err != nil {
			return err
		}
		if g.Controllers, err = spec.Narrow(g.Controllers, runtimes.ControllersAnnotation,
			box.Annotations[runtimes.ControllersAnnotation]); err != nil {
			return err
		}
		layout, err := layoutFlag(c)
		if err != nil {
			return err
		}
		if g.Controllers, err = ownControllers(box, g.Controllers, p, layout); err != nil {
			return err
		}
		// A runtime makes the container's cgroup, and moves its first process there, before it calls the hook. Without a
		// cgroup namespace to mark the boundary, the process's present cgroup is the boundary.
		_, err = host.CgroupNamespaceOf(box.Pid)
		if g.CurrentCgroup = errors.Is(err, host.ErrOwnNamespace); err != nil && !g.CurrentCgroup {
			return fmt.Errorf("cannot look at process %d of container %s: %w", box.Pid, box.ID, err)
		}
		_, _, err = daemon.Add(ctx, name, g)
		return err
	}
}

// removeContainer removes the guest of a container that has ended. If the guest is gone, or belongs to another
// container of the same name, nothing is left to do.
func removeContainer(ctx context.Context, daemon *api.Client, name string, stderr io.Writer) error {
	err := daemon.Remove(ctx, name, false)
	switch fault.Of(err) {
	case fault.NotFound:
		return nil
	case fault.Conflict:
		fmt.Fprintf(stderr, "vcgroupfs: nothing to remove: %v\n", err)
		return nil
	}
	return err
}

// ownControllers returns the controllers that a container can be shown: of the given ones, or else of those that the
// policy permits, the ones in whose hierarchy the runtime has made the container a cgroup of its own, and which the
// layout can show. In other hierarchies the container is in the runtime's cgroup, like this process; that cgroup is
// no boundary.
func ownControllers(
	box runtimes.Container, given []string, p *policy.Policy, layout hierarchy.Layout,
) (own []string, err error) {
	if len(given) > 0 {
		if p, err = p.WithControllers(given); err != nil {
			return nil, fault.With(fault.Invalid, err)
		}
	}
	h, err := host.Open()
	if err != nil {
		return nil, fault.With(fault.Unsupported, err)
	}
	defer h.Close()
	var shared []string
	for _, t := range h.Hierarchies() {
		its, err := t.PathOf(box.Pid)
		if err != nil {
			return nil, fmt.Errorf("cannot find container %s in the hierarchy %s: %w", box.ID, t, err)
		}
		ours, err := t.PathOf(os.Getpid())
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("cannot find this process in the hierarchy %s: %w", t, err)
		}
		if its == ours || its == "/" {
			shared = append(shared, t.Names()...)
			continue
		}
		for _, name := range t.Names() {
			if p.Permits(name) && views.CanShow(t, name, layout) {
				own = append(own, name)
			}
		}
	}
	for _, name := range given {
		if slices.Contains(shared, name) {
			return nil, fmt.Errorf(
				"cannot show controller %q to container %s: the runtime has made it no cgroup in that hierarchy", name, box.ID)
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf(
			"cannot show container %s anything: the runtime has made it no cgroup in a hierarchy that may be shown", box.ID)
	}
	if len(given) > 0 {
		// The daemon refuses a name that the host does not have.
		return given, nil
	}
	return own, nil
}
