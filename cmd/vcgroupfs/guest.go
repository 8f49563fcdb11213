package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
)

func guestCommand() *cli.Command {
	return &cli.Command{
		Name:  "guest",
		Usage: "the guests of the daemon",
		Description: "Asks the daemon that \"vcgroupfs serve\" started to add, show, limit, stop and remove guests. " +
			"Options may stand before or\n" +
			"after the guest's name.\n\n" +
			"   vcgroupfs guest add web --boundary /machines/web --rootfs /srv/web/rootfs --target /sys/fs/cgroup " +
			"--controllers memory,pids\n" +
			"   vcgroupfs guest set web memory.max=512M\n" +
			"   vcgroupfs guest top --sort memory",
		Action: group,
		Subcommands: append([]*cli.Command{
			guestAddCommand(), guestRemoveCommand(), guestListCommand(), guestShowCommand(), guestTreeCommand(),
			guestTopCommand(), guestEventsCommand(), guestSetCommand(),
		}, guestVerbCommands()...),
	}
}

// guestVerbs are the verbs without an answer. One with an answer prints it, as guestTreeCommand does.
var guestVerbs = []struct {
	verb               api.Verb
	usage, description string
}{
	{api.Attach, "attach the view in the guest anew",
		"For a guest that was added with --into and has taken its view away. Where the view is in its place nothing " +
			"changes."},
	{api.Freeze, "stop the processes of a guest", "The processes stop where they are until \"guest thaw\"."},
	{api.Thaw, "let the processes of a frozen guest go on", ""},
	{api.Kill, "end every process of a guest",
		"Every process in the guest's boundary and below gets SIGKILL. The guest stays, unless it was added with --pid."},
}

func guestVerbCommands() (all []*cli.Command) {
	for _, v := range guestVerbs {
		all = append(all, &cli.Command{
			Name: string(v.verb), Usage: v.usage, Description: v.description, ArgsUsage: "NAME", Flags: []cli.Flag{socketFlag()},
			Action: guestAction(1, 1, "one guest", func(c *cli.Context, daemon *api.Client, args []string) error {
				if err := checkName(args[0]); err != nil {
					return err
				}
				return daemon.Do(c.Context, v.verb, args[0], nil)
			}),
		})
	}
	return all
}

func socketFlag() cli.Flag {
	return &cli.StringFlag{Name: "socket", Value: api.DefaultSocket, Usage: "ask the daemon at `PATH`",
		EnvVars: []string{"VCGROUPFS_SOCKET"}}
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "as JSON"} }

// guestAction is an action that asks the daemon. It has at least a number of arguments beside the options, and at most
// another number, -1 for any. what describes them in the message.
func guestAction(least, most int, what string,
	do func(c *cli.Context, daemon *api.Client, args []string) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		args := c.Args().Slice()
		if len(args) < least || most >= 0 && len(args) > most {
			return usageErrorf("give %s; vcgroupfs guest %s --help tells more", what, c.Command.Name)
		}
		daemon := api.NewClient(c.String("socket"))
		defer daemon.Close()
		return do(c, daemon, args)
	}
}

func guestAddCommand() *cli.Command {
	return &cli.Command{
		Name: "add", Usage: "add a guest: mount a view and serve it", ArgsUsage: "NAME",
		Description: "Mounts a view of the boundary at the directory given with --target, or at one that the daemon makes, " +
			"and serves it until\n" +
			"\"guest rm\"; it says where. The boundary must exist in each hierarchy that is shown. With --pid it is where the " +
			"cgroup namespace of a process begins, and the guest is removed\n" +
			"by itself when that process ends. Adding the same guest again changes nothing.\n\n" +
			"   vcgroupfs guest add web --boundary /machines/web --rootfs /srv/web/rootfs --target /sys/fs/cgroup --limit " +
			"pids.max=512\n\n" +
			"With --rootfs the target is a path in the guest's root, and the guest's symbolic links are followed inside that " +
			"root; without it no\n" +
			"part of the path may be a symbolic link. The view is unmounted wherever the guest has moved it by then.\n\n" +
			"With --into the view is attached in the mount namespace of that process, too, be it a guest that runs or one " +
			"that a\n" +
			"runtime is about to start; \"guest attach\" does it again when the guest has unmounted it. Cgroups of the guest " +
			"that belong to\n" +
			"the root of its user namespace are the host's root's until \"guest rm\" gives them back.\n\n" +
			"   vcgroupfs guest add db --pid 4711 --into /sys/fs/cgroup",
		Flags: append(append(policyFlags(),
			&cli.StringFlag{Name: "boundary", Usage: "`PATH` of the boundary, counted from the root of each hierarchy"},
			pidFlag(), currentFlag(),
			&cli.StringFlag{Name: "target", Usage: "mount the view at `DIR` (default: views/NAME beside the daemon's socket)",
				TakesFile: true},
			overFlag(),
			&cli.StringFlag{Name: "into",
				Usage: "attach the view at `DIR` in the mount namespace of the process (--pid), over what is mounted there"},
			&cli.StringFlag{Name: "rootfs",
				Usage: "count --target from `DIR`, the guest's root on the host; with --into: the guest's root will be DIR, as " +
					"the process sees it now (a runtime's rootfs, before it pivots)"},
			&cli.StringFlag{Name: "owner",
				Usage: "`UID:GID` of the host that are root in the guest (default: 0:0; with --pid its user namespace's root)"},
			&cli.StringSliceFlag{Name: "limit",
				Usage: "write VALUE to the boundary's control file first: `FILE=VALUE`; may be given again"},
			socketFlag(),
		), attachmentFlags()...),
		Action: guestAction(1, 1, "one name for the guest", func(c *cli.Context, daemon *api.Client, args []string) error {
			if err := checkName(args[0]); err != nil {
				return err
			}
			spec, err := specFlags(c)
			if err != nil {
				return err
			}
			g, made, err := daemon.Add(c.Context, args[0], spec)
			if err != nil {
				return err
			}
			if made {
				fmt.Fprintf(c.App.Writer, "added %s at %s\n", args[0], g.Spec.Place())
			} else {
				fmt.Fprintf(c.App.Writer, "%s is there already, at %s\n", args[0], g.Spec.Place())
			}
			return nil
		}),
	}
}

func checkName(name string) error { return fault.With(fault.Invalid, spec.CheckName(name)) }

// layoutOf returns the layout for a guest's spec: "" for auto.
func layoutOf(c *cli.Context) string {
	if layout := c.String("layout"); layout != "auto" {
		return layout
	}
	return ""
}

// specFlags makes a guest's spec of the flags of "guest add".
func specFlags(c *cli.Context) (g api.GuestSpec, err error) {
	g = api.GuestSpec{
		Boundary: c.String("boundary"), Pid: c.Int("pid"), CurrentCgroup: c.Bool("current-cgroup"), Owner: c.String("owner"),
		Layout:      layoutOf(c),
		Controllers: spec.ControllerNames(c.String("controllers")),
	}
	if err := checkPlace(c); err != nil {
		return g, err
	}
	if c.IsSet("controllers") && len(g.Controllers) == 0 {
		return g, usageErrorf("no controller in --controllers; as in: --controllers memory,pids")
	}
	if g.Into, err = intoFlags(c); err != nil {
		return g, err
	}
	g.Over = c.Bool("over")
	if g.Rootfs, g.Target, err = targetFlags(c.String("rootfs"), c.String("target"), g.Into == nil); err != nil {
		return g, err
	}
	limits, err := limitArgs(c.StringSlice("limit"))
	if err != nil {
		return g, err
	}
	for _, l := range limits {
		if _, twice := g.Limits[l.File]; twice {
			return g, usageErrorf("--limit %s is given twice", l.File)
		}
		if g.Limits == nil {
			g.Limits = map[string]string{}
		}
		g.Limits[l.File] = l.Value
	}
	p, text, err := readPolicy(c.String("policy"))
	if err != nil {
		return g, err
	}
	g.Policy = text
	if err := g.CheckParsed(p); err != nil {
		return g, usageErrorf("cannot add the guest: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return g, nil
}

// targetFlags returns the guest's root and the target. counts: --rootfs is the root of the target; with --into it is
// the root of the place in the process.
func targetFlags(rootfs, target string, counts bool) (root, path string, err error) {
	switch {
	case rootfs == "" || !counts:
		path, err = hostPath(target)
	case target == "" || !filepath.IsAbs(target):
		err = usageErrorf(
			"--rootfs DIR is the guest's root: give --target beside it, an absolute path from there, such as /sys/fs/cgroup")
	default:
		path = filepath.Clean(target)
		root, err = hostPath(rootfs)
	}
	return root, path, err
}

// hostPath makes a path absolute; "" stays. It resolves the working directory, since the shell's name of it may have
// links.
func hostPath(path string) (string, error) {
	switch {
	case path == "":
		return "", nil
	case filepath.IsAbs(path):
		return filepath.Clean(path), nil
	}
	cwd, err := filepath.EvalSymlinks(".")
	if err == nil {
		cwd, err = filepath.Abs(cwd)
	}
	return filepath.Join(cwd, path), err
}

func limitArgs(texts []string) (limits []api.Limit, err error) {
	for _, text := range texts {
		l, err := spec.ParseLimit(text)
		if err != nil {
			return nil, fault.With(fault.Invalid, err)
		}
		limits = append(limits, api.Limit(l))
	}
	return limits, nil
}

func guestRemoveCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Usage: "remove guests: unmount their views", ArgsUsage: "NAME...",
		Description: "Unmounts the views. The boundaries, what is in them and their limits stay: they are whose made them. " +
			"A guest that a runtime's\n" +
			"hook, NRI or self made is removed by whoever made it (\"guest ls\", BY), and a frozen guest is thawed first: " +
			"else give --force.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Usage: "remove guests that somebody else made, too, and frozen ones, which are thawed"},
			socketFlag(),
		},
		Action: guestAction(1, -1, "the names of the guests to remove",
			func(c *cli.Context, daemon *api.Client, args []string) error {
				var errs []error
				for _, name := range args {
					if err := checkName(name); err != nil {
						return err
					}
				}
				for _, name := range args {
					err := daemon.Remove(c.Context, name, c.Bool("force"))
					if fault.Of(err) == fault.NoDaemon {
						return err
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			}),
	}
}

func guestSetCommand() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "set limits of a guest's boundary", ArgsUsage: "NAME FILE=VALUE...",
		Description: "Writes the boundary's control files, which the guest cannot. Where the kernel refuses a smaller " +
			"limit because a cgroup below\n" +
			"has a larger one (cgroup v1), those are lowered first. Prints each file that was changed.\n\n" +
			"   vcgroupfs guest set web memory.max=512M pids.max=256",
		Flags: []cli.Flag{jsonFlag(), socketFlag()},
		Action: guestAction(2, -1, "a guest and what to set, as in: web memory.max=512M",
			func(c *cli.Context, daemon *api.Client, args []string) error {
				if err := checkName(args[0]); err != nil {
					return err
				}
				limits, err := limitArgs(args[1:])
				if err != nil {
					return err
				}
				if err := api.CheckLimits(limits); err != nil {
					return fault.With(fault.Invalid, err)
				}
				changes, err := daemon.Set(c.Context, args[0], limits)
				if err != nil {
					return err
				}
				return printChanges(c, changes)
			}),
	}
}
