package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/early"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
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
		box, err := hook.Read(runtimes.Input{Stdin: early.Stdin(), Getenv: os.Getenv})
		if err != nil {
			return err
		}
		daemon := api.NewClient(c.String("socket")).As(api.Maker{By: c.String(madeByFlag), Of: box.Of})
		defer daemon.Close()
		ctx, cancel := context.WithTimeout(c.Context, hookTimeout-early.Spent)
		defer cancel()
		name := spec.NameOf(box.ID)
		if box.Pid == 0 {
			return removeContainer(ctx, daemon, name, c.App.ErrWriter)
		}
		return addContainer(ctx, daemon, name, box, c)
	}
}

// addContainer adds the guest of a container, whose controllers the daemon finds. A daemon of an earlier version
// refuses that, and is told them.
func addContainer(ctx context.Context, daemon *api.Client, name string, box runtimes.Container, c *cli.Context) error {
	g, err := containerSpec(box, c)
	if err != nil {
		return err
	}
	_, _, err = daemon.Add(ctx, name, g)
	if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), `unknown field "ofRuntime"`) {
		return err
	}
	if g, err = foundHere(box, g, c); err != nil {
		return err
	}
	_, _, err = daemon.Add(ctx, name, g)
	return err
}

// containerSpec describes the guest of a container by the options and the runtime's words.
func containerSpec(box runtimes.Container, c *cli.Context) (g api.GuestSpec, err error) {
	g = api.GuestSpec{Layout: layoutOf(c), Controllers: spec.ControllerNames(c.String("controllers")), Pid: box.Pid,
		OfRuntime: true}
	if file := c.String("policy"); file != "" {
		if _, g.Policy, err = readPolicy(file); err != nil {
			return g, err
		}
	}
	if g.Into, err = intoOf(c, box.Rootfs); err != nil {
		return g, err
	}
	if _, err = layoutFlag(c); err != nil {
		return g, err
	}
	g.Controllers, err = spec.Narrow(g.Controllers, runtimes.ControllersAnnotation,
		box.Annotations[runtimes.ControllersAnnotation])
	return g, err
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

// foundHere finds in this process what a daemon of this version finds itself (api.GuestSpec.OfRuntime).
func foundHere(box runtimes.Container, g api.GuestSpec, c *cli.Context) (_ api.GuestSpec, err error) {
	g.OfRuntime = false
	p, err := spec.PolicyOf(g.Policy, g.Controllers)
	if err != nil {
		return g, fault.With(fault.Invalid, err)
	}
	h, err := host.Open()
	if err != nil {
		return g, fault.With(fault.Unsupported, err)
	}
	defer h.Close()
	layout, err := layoutFlag(c)
	if err != nil {
		return g, err
	}
	made := views.Container{Name: box.ID, Pid: box.Pid, Caller: os.Getpid()}
	if g.Controllers, err = made.Controllers(h, g.Controllers, p, layout); err != nil {
		return g, err
	}
	if g.CurrentCgroup, err = host.InOwnNamespace(box.Pid, "cgroup"); err != nil {
		return g, fmt.Errorf("cannot look at process %d of container %s: %w", box.Pid, box.ID, err)
	}
	return g, nil
}
