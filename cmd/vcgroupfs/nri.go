package main

import (
	"os/signal"
	"path/filepath"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes/nri"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
)

func nriCommand() *cli.Command {
	return &cli.Command{
		Name:  "nri",
		Usage: "the NRI plugin: containerd and CRI-O give a view to the pods that ask for one",
		Description: "Runs in the foreground beside the daemon (vcgroupfs serve) and connects to the runtime's NRI socket, " +
			"again and again while the\n" +
			"runtime is away. SIGTERM and SIGINT end it. A container gets its view when an annotation of its pod says so:\n\n" +
			"   " + nri.ViewAnnotation + ": \"true\"                     all containers of the pod; so does " +
			nri.ViewAnnotation + "/pod\n" +
			"   " + nri.ViewAnnotation + "/container.NAME: \"true\"      that container; \"false\" leaves it out\n" +
			"   " + nri.ControllersAnnotation + ": \"memory,pids\"  narrows what is shown, within what --controllers and " +
			"--policy allow\n" +
			"   " + nri.TmpfsAnnotation + ": \"true\"               as --tmpfs, for a systemd older than 258 that is told no " +
			"type\n" +
			"   " + nri.StackAnnotation + ": \"false\"              as --no-stack; \"true\" as --stack\n\n" +
			"To such a container it adds the hooks of \"vcgroupfs hook oci\", which the OCI runtime runs on the host: paths " +
			"that are given here\n" +
			"are the host's. A container whose annotations are wrong fails. docs/kubernetes.md tells how to run it in a " +
			"cluster.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "nri-socket", Value: nri.DefaultSocket, Usage: "connect to the runtime at `PATH`"},
			&cli.StringFlag{Name: "plugin-name", Value: "vcgroupfs",
				Usage: "be `NAME` to the runtime, as in its required_plugins"},
			&cli.StringFlag{Name: "plugin-index", Value: "90",
				Usage: "be asked at the place `NN`, two digits, among the runtime's plugins"},
			&cli.StringFlag{Name: "controllers",
				Usage: "let containers be shown these only: `LIST` such as memory,pids (default: as the policy says)"},
			&cli.StringFlag{Name: "policy", Usage: "have the views follow the policy in `FILE`; also read here, at the start",
				TakesFile: true},
			&cli.StringFlag{Name: "program", Value: "/usr/bin/vcgroupfs",
				Usage: "have the hooks run `FILE`, this program on the host", TakesFile: true},
			&cli.StringFlag{Name: "notify",
				Usage: "have the daemon answer statfs and mount of the containers: their seccomp policies ask its socket at " +
					"`PATH` " +
					"(containerd 2.2, CRI-O 1.34)", DefaultText: "they do not"},
			socketFlag(),
		}, attachmentFlags()...),
		Action: runNRI,
	}
}

func runNRI(c *cli.Context) error {
	if c.NArg() > 0 {
		return usageErrorf("nri takes no argument; vcgroupfs nri --help tells what there is")
	}
	for _, flag := range []string{"program", "policy", "socket", "notify"} {
		if path := c.String(flag); !filepath.IsAbs(path) && (path != "" || flag == "program" || flag == "socket") {
			return usageErrorf("--%s %q: hooks do not run in this directory: give an absolute path", flag, path)
		}
	}
	stack, err := stackOf(c)
	if err != nil {
		return err
	}
	plugin := &nri.Plugin{
		Name: c.String("plugin-name"), Index: c.String("plugin-index"), Program: c.String("program"),
		Socket:     c.String("socket"),
		PolicyFile: c.String("policy"), Controllers: spec.ControllerNames(c.String("controllers")), Stack: stack,
		Tmpfs: c.Bool("tmpfs"), Options: hookOptions(c),
		Notify: c.String("notify"), Log: logrus.NewEntry(logrus.StandardLogger()),
	}
	if plugin.Policy, err = loadPolicy(plugin.PolicyFile); err != nil {
		return err
	}
	if c.IsSet("controllers") {
		if len(plugin.Controllers) == 0 {
			return usageErrorf("no controller in --controllers; as in: --controllers memory,pids")
		}
		if plugin.Policy, err = plugin.Policy.WithControllers(plugin.Controllers); err != nil {
			return fault.With(fault.Invalid, err)
		}
	}
	neverWait(c)
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGTERM, unix.SIGINT)
	defer stop()
	return plugin.Run(ctx, c.String("nri-socket"))
}
