// Command vcgroupfs mounts a synthetic cgroup tree into each guest, with the guest's boundary as its root.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/early"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/logs"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/run"
)

func main() {
	if len(os.Args) == 2 && strings.TrimPrefix(os.Args[0], "@") == "vcgroupfs" {
		if role, ok := roles()[os.Args[1]]; ok {
			logrus.Exit(role())
		}
	}
	if len(os.Args) == 2 && os.Args[1] == holder.AnswererCommand && os.Args[0] == "vcgroupfs" {
		logrus.Exit(serveNotify())
	}
	args := os.Args
	if filepath.Base(args[0]) == mountHelper {
		args = helperArgs(args)
	}
	// logrus.Exit is os.Exit after the flush of neverWait.
	logrus.Exit(execute(args, os.Stdout, os.Stderr))
}

// roles are the internal commands that this program starts itself with, by the argument. Each returns the exit status.
func roles() map[string]func() int {
	return map[string]func() int{
		run.InitCommand:          run.Init,
		run.GuardCommand:         run.Guard,
		run.SupervisorCommand:    run.Supervise,
		run.KeysCommand:          run.ListenToKeys,
		run.KeeperStarterCommand: run.StartKeeper,
		run.KeeperCommand:        run.Keep,
		holder.WorkerCommand:     serveWorker,
		endTypeCommand:           func() int { return fault.ExitOK },
	}
}

// execute runs a command line and returns the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	args, answerable := completing(args)
	if !answerable {
		return fault.ExitOK
	}
	err := app.Run(ordered(app, args))
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	if err != nil {
		fmt.Fprintf(app.ErrWriter, "vcgroupfs: %v\n", err)
	}
	return fault.ExitCode(err)
}

// Bounds on the wait of an ending process for the reader of its log. Guests wait for the next worker meanwhile.
const (
	lastWords       = time.Second
	workerLastWords = 20 * time.Millisecond
)

// neverWait has a command that serves guests write its log without waiting for the reader, up to its last line.
func neverWait(c *cli.Context) {
	if c.App.ErrWriter == io.Writer(os.Stderr) {
		c.App.ErrWriter = logs.ToStderr(lastWords)
	}
}

// exitStatus is the status of a guest's command: the program exits with it, without a message.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Environment variables for --log-level and --log-format.
const (
	logLevelVariable  = "VCGROUPFS_LOG_LEVEL"
	logFormatVariable = "VCGROUPFS_LOG_FORMAT"
)

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "vcgroupfs",
		Usage:     "a cgroup tree for each container",
		UsageText: "vcgroupfs [--log-level LEVEL] [--log-format text|json] COMMAND [OPTION...] [ARGUMENT...]",
		Description: "A guest (a container, a build sandbox, a tenant) gets a view: its own boundary cgroup as the root, " +
			"only the\n" +
			"permitted controllers, the boundary's limits read-only, everything else live on the host's real cgroups.\n\n" +
			"   vcgroupfs run --controllers memory,pids --limit pids.max=64 -- sh\n" +
			"   vcgroupfs mount --boundary /machines/web --rootfs /srv/web/rootfs /sys/fs/cgroup\n\n" +
			"Exit codes: 0 success, 1 failure, 2 wrong command line, 3 wrong policy, 4 the host cannot, 5 no daemon,\n" +
			"6 no such guest; run: its command's, 125 when the guest could not be set up, 126 and 127 as a shell, 128+N for " +
			"signal N.",
		Version:     early.Version,
		HideVersion: true,
		// helpCommand replaces it.
		HideHelpCommand:      true,
		EnableBashCompletion: true,
		Writer:               stdout,
		ErrWriter:            stderr,
		// execute handles errors.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "log-level", Value: "warning", Usage: "what to log: error, warning, info or debug",
				EnvVars: []string{logLevelVariable}},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json", EnvVars: []string{logFormatVariable}},
			&cli.BoolFlag{Name: "version", Usage: "print the version"},
			// The library leaves it out if a command has that name.
			cli.HelpFlag,
		},
		Before: setUpLog,
		Action: noCommand,
		Commands: []*cli.Command{runCommand(), notifyExecCommand(), mountCommand(), serveCommand(), guestCommand(),
			hookCommand(), nriCommand(), doctorCommand(), hierarchiesCommand(), policyCommand(), versionCommand(),
			completionCommand(), manCommand(), helpCommand()},
	}
	prepare(app.Commands)
	return app
}

func setUpLog(c *cli.Context) error {
	level, err := logrus.ParseLevel(c.String("log-level"))
	if err != nil {
		return usageErrorf("cannot use --log-level %q: allowed: error, warning, info, debug", c.String("log-level"))
	}
	logrus.SetLevel(level)
	logrus.SetOutput(c.App.ErrWriter)
	switch c.String("log-format") {
	case "text":
		logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true})
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	default:
		return usageErrorf("cannot use --log-format %q: allowed: text, json", c.String("log-format"))
	}
	return nil
}

// noCommand handles a command line without a command, or with an unknown one.
func noCommand(c *cli.Context) error {
	if c.NArg() > 0 {
		return noSuchCommand("", c.Args().First(), c.App.Commands)
	}
	if c.Bool("version") {
		return printVersion(c)
	}
	if err := cli.ShowAppHelp(c); err != nil {
		return err
	}
	return exitStatus(fault.ExitUsage)
}

func usageError(c *cli.Context, err error, _ bool) error {
	// The name includes the commands above.
	name := c.Command.HelpName
	if word, undefined := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); undefined {
		word = strings.TrimPrefix(word, "-")
		like := suggestion(word, flagNames(c.Command.Flags))
		err = fmt.Errorf("there is no option --%s%s", word, strings.Replace(like, "mean ", "mean --", 1))
	}
	err = usageErrorf("%v; %s --help tells what there is", err, name)
	if c.Command.Name == "run" || c.Command.Name == "notify-exec" {
		err = runError(err)
	}
	return err
}

func usageErrorf(format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...)
}

// checkRoot checks that the caller is root. The error tells the remedy.
func checkRoot(what string) error {
	if os.Geteuid() != 0 {
		return fault.New(fault.Unsupported, "cannot %s: it makes cgroups and mounts; run it as root", what)
	}
	return nil
}
