package main

import (
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/run"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "start a command in a guest of its own",
		ArgsUsage: "-- COMMAND [ARGUMENT...]",
		Description: "Makes a boundary /vcgroupfs/NAME in every hierarchy that holds a permitted controller, sets its " +
			"limits, and starts\n" +
			"COMMAND there in new mount, pid, cgroup and IPC namespaces, with the view at /sys/fs/cgroup and the capabilities " +
			"of a\n" +
			"container. Signals are passed on. When COMMAND ends, everything is removed; what a killed vcgroupfs left behind " +
			"is\n" +
			"removed by the next run.\n\n" +
			"COMMAND shares the host's files and network; all else that is mounted is as in a container, unless with " +
			"--privileged\n" +
			"alone (docs/run.md says what each form keeps apart). As the host's root it could edit those; with --userns its " +
			"root is\n" +
			"nobody on the host, and each running guest has 65536 ids of its own: of a line vcgroupfs:FIRST:COUNT in both " +
			"/etc/subuid\n" +
			"and /etc/subgid, or without one from 524288 on, none of those that these files or other containers have.\n\n" +
			"   vcgroupfs run --controllers memory,pids --limit pids.max=64 --limit memory.max=256M -- sh\n\n" +
			"To COMMAND statfs says of the view what it says of the kernel's own mounts, by BPF or by seccomp notification. " +
			"Where it\n" +
			"may mount, as root of a user namespace that it makes with --userns or with --privileged, mount -t cgroup and " +
			"cgroup2 give\n" +
			"it its view again, rooted at its cgroup namespace: unshare -Urm mount -t cgroup2 cgroup2 /mnt. clone3 is not " +
			"there, so\n" +
			"that programs use clone: a view's directories are none to start a process in.\n\n" +
			"Programs that first look in /proc for what there is (JDK 8, cgget) find the view's hierarchies there with " +
			"--proc: in a\n" +
			"guest with --layout v1 on a host with v2 they find nothing without it.\n\n" +
			"   vcgroupfs run --proc --layout v1 --controllers memory,pids -- cat /proc/self/cgroup\n\n" +
			"On cgroup v1 the names of limits are v1's: --limit memory.limit_in_bytes=256M.",
		Flags: append(policyFlags(),
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the guest and of its cgroup (default: run-PID)"},
			&cli.StringSliceFlag{Name: "limit",
				Usage: "write VALUE to the boundary's control file: `FILE=VALUE`; may be given again"},
			noStackFlag(),
			&cli.BoolFlag{Name: "userns",
				Usage: "a user namespace too: the guest's root is no user of the host, nor of another guest"},
			&cli.BoolFlag{Name: "privileged",
				Usage: "keep every capability; the view is then advisory, since its root can mount the real cgroups"},
			noBPFFlag(), transportFlag(),
			&cli.BoolFlag{Name: "proc",
				Usage: "show the view's hierarchies in /proc too: in cgroup, mountinfo and mounts of COMMAND's processes; " +
					"every open for reading then takes some microseconds longer"},
			&cli.BoolFlag{Name: "no-notify",
				Usage: "answer none of COMMAND's calls by seccomp notification: it can then have a filter with a listener of its " +
					"own"},
		),
		Action: runAction,
	}
}

func runAction(c *cli.Context) error {
	status, err := runGuest(c)
	if err != nil {
		return runError(err)
	}
	if status != fault.ExitOK {
		return exitStatus(status)
	}
	return nil
}

// runError turns errors other than the command's own into status 125: the command's status could be any other.
func runError(err error) error {
	if kind := fault.Of(err); kind == fault.NotExecutable || kind == fault.NoCommand {
		return err
	}
	return &fault.Error{Kind: fault.RunFailed, Err: err}
}

func runGuest(c *cli.Context) (int, error) {
	if c.NArg() == 0 {
		return 0, usageErrorf("no command to run; as in: vcgroupfs run -- sh")
	}
	if name := c.String("name"); name != "" {
		if err := spec.CheckName(name); err != nil {
			return 0, fault.With(fault.Invalid, err)
		}
	}
	cfg := run.RunConfig{
		Name: c.String("name"), Userns: c.Bool("userns"), Privileged: c.Bool("privileged"), NoNotify: c.Bool("no-notify"),
		NoStack: c.Bool("no-stack"), Proc: c.Bool("proc"), Command: c.Args().Slice(),
		Log: logrus.NewEntry(logrus.StandardLogger()),
	}
	if cfg.Proc && cfg.NoNotify {
		return 0, usageErrorf("--proc needs seccomp notification: leave out --no-notify")
	}
	for _, text := range c.StringSlice("limit") {
		l, err := spec.ParseLimit(text)
		if err != nil {
			return 0, fault.With(fault.Invalid, err)
		}
		cfg.Limits = append(cfg.Limits, l)
	}
	var err error
	if cfg.Layout, err = layoutFlag(c); err != nil {
		return 0, err
	}
	if cfg.Policy, err = policyFlag(c); err != nil {
		return 0, err
	}
	if cfg.Transport, err = transportOf(c); err != nil {
		return 0, err
	}
	if err := checkRoot("run a guest"); err != nil {
		return 0, err
	}
	if err := checkTransport(cfg.Transport); err != nil {
		return 0, err
	}
	neverWait(c)
	if !c.Bool("no-bpf") {
		types := newTyper(cfg.Log)
		defer types.close()
		cfg.Types = types
	}
	return run.Run(cfg)
}
