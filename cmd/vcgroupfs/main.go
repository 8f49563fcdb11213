// Command vcgroupfs mounts into each guest a synthetic cgroup tree that is rooted at the guest's boundary.
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

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/logs"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/run"
)

// version is set when the program is built.
var version = "unknown"

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
	logrus.Exit(execute(args, os.Stdout, os.Stderr)) // os.Exit, after the last words of neverWait
}

// roles are what this program starts itself as, by the argument; each ends with the status to exit with.
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

// execute runs a command line and answers with the exit code.
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

// How long a process that ends waits for the reader of its log. Guests wait for the worker after this one meanwhile.
const (
	lastWords       = time.Second
	workerLastWords = 20 * time.Millisecond
)

// neverWait has a command that serves somebody write its log without waiting for whoever reads that, its last word too.
func neverWait(c *cli.Context) {
	if c.App.ErrWriter == io.Writer(os.Stderr) {
		c.App.ErrWriter = logs.ToStderr(lastWords)
	}
}

// exitStatus is the status of a guest's command, to end with in silence.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// What --log-level and --log-format are without the flags.
const (
	logLevelVariable  = "VCGROUPFS_LOG_LEVEL"
	logFormatVariable = "VCGROUPFS_LOG_FORMAT"
)

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "vcgroupfs",
		Usage:     "a cgroup tree for each container",
		UsageText: "vcgroupfs [--log-level LEVEL] [--log-format text|json] COMMAND [OPTION...] [ARGUMENT...]",
		Description: "A guest (a container, a build sandbox, a tenant) gets a view: its own boundary cgroup as the root, only the\n" +
			"permitted controllers, the boundary's limits read-only, everything else live on the host's real cgroups.\n\n" +
			"   vcgroupfs run --controllers memory,pids --limit pids.max=64 -- sh\n" +
			"   vcgroupfs mount --boundary /machines/web --rootfs /srv/web/rootfs /sys/fs/cgroup\n\n" +
			"Exit codes: 0 success, 1 failure, 2 wrong command line, 3 wrong policy, 4 the host cannot, 5 no daemon,\n" +
			"6 no such guest; run: its command's, 125 when the guest could not be set up, 126 and 127 as a shell, 128+N for signal N.",
		Version:              version,
		HideVersion:          true,
		HideHelpCommand:      true, // helpCommand is ours
		EnableBashCompletion: true,
		Writer:               stdout,
		ErrWriter:            stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // execute sees to it
		OnUsageError:         usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "log-level", Value: "warning", Usage: "what to log: error, warning, info or debug", EnvVars: []string{logLevelVariable}},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json", EnvVars: []string{logFormatVariable}},
			&cli.BoolFlag{Name: "version", Usage: "print the version"},
			cli.HelpFlag, // which the library leaves out where there is a command of that name
		},
		Before:   setUpLog,
		Action:   noCommand,
		Commands: []*cli.Command{runCommand(), notifyExecCommand(), mountCommand(), serveCommand(), guestCommand(), hookCommand(), nriCommand(), doctorCommand(), hierarchiesCommand(), policyCommand(), versionCommand(), completionCommand(), manCommand(), helpCommand()},
	}
	prepare(app.Commands)
	return app
}

func setUpLog(c *cli.Context) error {
	level, err := logrus.ParseLevel(c.String("log-level"))
	if err != nil {
		return usagef("cannot use --log-level %q: allowed: error, warning, info, debug", c.String("log-level"))
	}
	logrus.SetLevel(level)
	logrus.SetOutput(c.App.ErrWriter)
	switch c.String("log-format") {
	case "text":
		logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true})
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	default:
		return usagef("cannot use --log-format %q: allowed: text, json", c.String("log-format"))
	}
	return nil
}

// noCommand answers a command line without a command, or with one that there is not.
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
	name := c.Command.HelpName // with those above it
	if word, undefined := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); undefined {
		word = strings.TrimPrefix(word, "-")
		like := suggestion(word, flagNames(c.Command.Flags))
		err = fmt.Errorf("there is no option --%s%s", word, strings.Replace(like, "mean ", "mean --", 1))
	}
	err = usagef("%v; %s --help tells what there is", err, name)
	if c.Command.Name == "run" || c.Command.Name == "notify-exec" {
		err = runError(err)
	}
	return err
}

func usagef(format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...)
}

// checkRoot says what to do when the caller cannot do what the command needs.
func checkRoot(what string) error {
	if os.Geteuid() != 0 {
		return fault.New(fault.Unsupported, "cannot %s: it makes cgroups and mounts; run it as root", what)
	}
	return nil
}
