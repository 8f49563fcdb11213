package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/daemon"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/early"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/listener"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/logs"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
)

// defaultGuests is the default directory of declared guests; it need not exist.
const defaultGuests = "/etc/vcgroupfs/guests.d"

func serveCommand() *cli.Command {
	_, containers := runtimes.DefaultContainers()
	return &cli.Command{
		Name:  "serve",
		Usage: "serve many guests: the daemon",
		Description: "Serves every guest's view from one process, in the foreground, and takes orders on a socket " +
			"(vcgroupfs guest --help).\n" +
			"It says on standard output when it does; --ready-fd is for programs that wait for that, NOTIFY_SOCKET for a " +
			"service manager.\n\n" +
			"A second, small process keeps what guests need while the one that serves is replaced: that one can be killed, " +
			"crash or\n" +
			"be upgraded, and guests notice a pause of some milliseconds. (Before Linux 6.9 requests that are in flight at " +
			"that\n" +
			"moment fail with ECONNABORTED.)\n\n" +
			"Guests are added by hand or declared: a file NAME.yaml in the directory of guests makes the guest NAME, and its\n" +
			"removal takes that away. The keys are boundary or pid, rootfs, target, controllers, policy (a file), owner, " +
			"layout, limits:\n\n" +
			"   boundary: /machines/web\n" +
			"   rootfs: /srv/web/rootfs\n" +
			"   target: /sys/fs/cgroup\n" +
			"   controllers: [memory, pids]\n" +
			"   limits: {pids.max: \"64\"}\n\n" +
			"With --self a container needs no guest of its own to be added: whatever runtime binds the one directory self " +
			"into it, at\n" +
			"/sys/fs/cgroup, gives it its view there, which is made when the container first looks. Self itself is an empty " +
			"directory,\n" +
			"and stays one for who is in no container. Which cgroups are containers' is said by patterns of their paths, " +
			"counted from\n" +
			"the root of each hierarchy, each * within one component and {id} for the 64 digits of a container's id; the " +
			"outermost\n" +
			"cgroup that matches is the boundary. Hierarchies in which the container has no such cgroup are not shown.\n\n" +
			"   vcgroupfs serve --self --self-controllers memory,pids\n" +
			"   docker run -v /run/vcgroupfs/serve/self:/sys/fs/cgroup --memory 256m IMAGE\n\n" +
			"A container whose seccomp profile names the socket notify beside this one (listenerPath; LXC: notify-lxc) has " +
			"its statfs and\n" +
			"mount answered for its view: docs/runtimes.md and /usr/share/vcgroupfs/seccomp have the profiles.\n\n" +
			"SIGTERM takes all guests away and ends it. SIGHUP, or serve --upgrade from elsewhere, goes on with the program's " +
			"new\n" +
			"file; if that cannot serve, the old one stays.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "socket", Value: api.DefaultSocket, Usage: "take orders on the unix socket `PATH`",
				EnvVars: []string{"VCGROUPFS_SOCKET"}},
			&cli.StringFlag{Name: "group", Usage: "let members of `GROUP` look at guests; only root may change anything"},
			&cli.StringFlag{Name: "guests", Value: defaultGuests, Usage: "follow the guests declared in `DIR`"},
			&cli.StringFlag{Name: "metrics",
				Usage: "serve /metrics and /healthz on a loopback `ADDRESS` too, such as 127.0.0.1:9750"},
			&cli.IntFlag{Name: "max-guests", Value: 1024, Usage: "serve at most `N` guests"},
			&cli.IntFlag{Name: "max-open", Value: 4096, Usage: "let a guest have `N` files and directories open (then ENFILE)"},
			&cli.IntFlag{Name: "max-watches", Value: 64,
				Usage: "watch `N` directories of a guest in each hierarchy for what the host changes"},
			&cli.IntFlag{Name: "max-blocking", Value: 128, Usage: "let `N` host calls block at once, over all guests"},
			&cli.IntFlag{Name: "max-cpu", Value: 25,
				Usage: "let mkdir, rmdir and what else may block for a guest take `N` percent of a processor in the long run; 0: " +
					"no bound"},
			&cli.IntFlag{Name: "max-rate", Usage: "serve at most `N` requests of a guest in a second; 0: as many as come"},
			&cli.BoolFlag{Name: "self", Usage: "mount self, the directory by which a container comes to its view"},
			&cli.StringFlag{Name: "self-at", Usage: "mount it at `DIR` (default: self beside the socket)"},
			&cli.StringSliceFlag{Name: "container",
				Usage: "take a cgroup whose path matches `PATTERN` for a container's, as in /machines/*, instead of what " +
					"runtimes make by themselves; more than once for several",
				DefaultText: "those of " + strings.Join(containers, ", ")},
			&cli.StringFlag{Name: "self-policy", Usage: "read the policy of those containers from `FILE`", TakesFile: true},
			&cli.StringFlag{Name: "self-controllers", Usage: "show them these only: `LIST` such as memory,pids,name=systemd"},
			noBPFFlag(),
			readyFlag("when guests are served and orders are taken"),
			&cli.StringFlag{Name: "notify",
				Usage: "take seccomp listeners of containers on the unix socket `PATH`, and LXC's calls on PATH-lxc; \"\": " +
					"nowhere",
				DefaultText: "notify beside the socket"},
			&cli.DurationFlag{Name: "watchdog", Value: 5 * time.Second, Usage: "replace a worker that shows no life for `TIME`"},
			&cli.DurationFlag{Name: "give-up", Value: 30 * time.Second,
				Usage: "end the guests' connections when no worker came back for `TIME`"},
			&cli.BoolFlag{Name: "upgrade", Usage: "have the daemon that runs go on with another program, and wait for it"},
			&cli.StringFlag{Name: "program",
				Usage: "with --upgrade: the program's `FILE` (default: the one that the daemon was started as)"},
		},
		Action: serve,
	}
}

func serve(c *cli.Context) error {
	if c.NArg() > 0 {
		return usageErrorf("serve takes no argument; guests are added by vcgroupfs guest add")
	}
	if c.Bool("upgrade") {
		return upgrade(c)
	}
	if c.IsSet("program") {
		return usageErrorf("--program is for --upgrade")
	}
	settings, err := serveSettings(c)
	if err != nil {
		return err
	}
	config, err := holderConfig(c, settings)
	if err != nil {
		return err
	}
	if err := checkRoot("serve guests"); err != nil {
		return err
	}
	neverWait(c)
	ready, err := readyTeller(c, "guests are served; orders are taken at "+settings.Socket)
	if err != nil {
		return err
	}
	if err := passLog(c); err != nil {
		return err
	}
	h, err := holder.New(config, logrus.NewEntry(logrus.StandardLogger()))
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Run(ready)
}

// passLog has the holder's children log as the holder does. It uses the environment, which a worker of an older or
// newer program reads, too, with whatever arguments.
func passLog(c *cli.Context) error {
	return errors.Join(os.Setenv(logLevelVariable, c.String("log-level")),
		os.Setenv(logFormatVariable, c.String("log-format")))
}

// holderConfig reads the holder's configuration from the flags.
func holderConfig(c *cli.Context, s daemon.Settings) (h holder.Config, err error) {
	h = holder.Config{
		Socket: s.Socket, Group: s.Group, Metrics: c.String("metrics"), Notify: s.Notify, Regions: s.MaxGuests,
		Handles:  s.MaxOpen,
		Watchdog: c.Duration("watchdog"), GiveUp: c.Duration("give-up"), NoBPF: c.Bool("no-bpf"),
	}
	if s.Self != nil {
		// self has one, too.
		h.Regions++
	}
	if h.Watchdog < 500*time.Millisecond || h.GiveUp < time.Second {
		return h, usageErrorf("--watchdog and --give-up: allowed: at least 500ms and 1s")
	}
	if h.Program, err = os.Executable(); err != nil {
		return h, fmt.Errorf("cannot tell what program this is: %w", err)
	}
	h.Settings, err = json.Marshal(s)
	return h, err
}

// serveSettings reads the settings of worker and answerer from the flags.
func serveSettings(c *cli.Context) (s daemon.Settings, err error) {
	s = daemon.Settings{
		Group: -1, MaxGuests: c.Int("max-guests"), MaxOpen: c.Int("max-open"),
		MaxWatches: c.Int("max-watches"), MaxBlocking: c.Int("max-blocking"), MaxRate: c.Int("max-rate"),
		MaxCPU: c.Int("max-cpu"),
	}
	for _, n := range []struct {
		flag             string
		value, min, most int
	}{
		{"max-guests", s.MaxGuests, 1, 1 << 15}, {"max-open", s.MaxOpen, 1, 1 << 16},
		{"max-watches", s.MaxWatches, 1, 1 << 20},
		{"max-blocking", s.MaxBlocking, 1, 4096}, {"max-rate", s.MaxRate, 0, 1 << 30}, {"max-cpu", s.MaxCPU, 0, 1 << 20},
	} {
		if n.value < n.min || n.value > n.most {
			return s, usageErrorf("--%s %d: allowed: %d to %d", n.flag, n.value, n.min, n.most)
		}
	}
	if name := c.String("group"); name != "" {
		if s.Group, err = groupID(name); err != nil {
			return s, err
		}
	}
	if s.Socket, err = filepath.Abs(c.String("socket")); err != nil || len(s.Socket) > maxSocketPath {
		return s, usageErrorf("--socket %q: a socket's path has at most %d bytes", c.String("socket"), maxSocketPath)
	}
	if s.Guests, err = guestsDir(c); err != nil {
		return s, err
	}
	if s.Self, err = selfSettings(c, s.Socket); err != nil {
		return s, err
	}
	s.Notify, err = notifyPath(c, s.Socket)
	return s, err
}

// notifyPath returns the path of the socket for listeners, "" for none.
func notifyPath(c *cli.Context, socket string) (string, error) {
	path := filepath.Join(filepath.Dir(socket), "notify")
	if c.IsSet("notify") {
		path = c.String("notify")
	}
	if path == "" {
		return "", nil
	}
	path, err := filepath.Abs(path)
	if err != nil || len(path)+len(holder.LXCSuffix) > maxSocketPath || path == socket || path+holder.LXCSuffix == socket {
		return "", usageErrorf("--notify %q: a socket's path has at most %d bytes and is no other's; --notify '' takes none",
			path, maxSocketPath-len(holder.LXCSuffix))
	}
	return path, nil
}

// selfSettings reads the flags of self; nil without --self.
func selfSettings(c *cli.Context, socket string) (*daemon.Self, error) {
	if !c.Bool("self") {
		for _, flag := range []string{"self-at", "container", "self-policy", "self-controllers"} {
			if c.IsSet(flag) {
				return nil, usageErrorf("--%s is for --self", flag)
			}
		}
		return nil, nil
	}
	s := &daemon.Self{Path: filepath.Join(filepath.Dir(socket), "self"), Containers: c.StringSlice("container"),
		Controllers: spec.ControllerNames(c.String("self-controllers"))}
	if len(s.Containers) == 0 {
		s.Containers, _ = runtimes.DefaultContainers()
	}
	if _, err := runtimes.ParseContainers(s.Containers); err != nil {
		return nil, usageErrorf("--container: %v", err)
	}
	var err error
	if c.IsSet("self-at") {
		if s.Path, err = filepath.Abs(c.String("self-at")); err != nil || c.String("self-at") == "" || s.Path == "/" {
			return nil, usageErrorf("--self-at %q: give a directory", c.String("self-at"))
		}
	}
	if c.IsSet("self-controllers") && len(s.Controllers) == 0 {
		return nil, usageErrorf("no controller in --self-controllers; as in: --self-controllers memory,pids")
	}
	p, err := loadPolicy(c.String("self-policy"))
	if err != nil {
		return nil, err
	}
	if _, err := p.WithControllers(s.Controllers); len(s.Controllers) > 0 && err != nil {
		return nil, usageErrorf("--self-controllers: %v", err)
	}
	if c.IsSet("self-policy") {
		if s.Policy, err = filepath.Abs(c.String("self-policy")); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// maxSocketPath is the room in struct sockaddr_un, without its final NUL.
const maxSocketPath = 107

// guestsDir returns the directory of declared guests. A directory named by a flag must exist.
func guestsDir(c *cli.Context) (string, error) {
	dir := c.String("guests")
	if dir == "" {
		return "", nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist) && !c.IsSet("guests"):
		return dir, nil
	case err != nil:
		return "", usageErrorf("--guests %s: %v; make the directory first", dir, errors.Unwrap(err))
	case !st.IsDir():
		return "", usageErrorf("--guests %s: it is no directory", dir)
	}
	return dir, nil
}

func groupID(name string) (int, error) {
	if n, err := strconv.Atoi(name); err == nil && n >= 0 {
		return n, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, usageErrorf("--group %q: there is no such group", name)
	}
	return strconv.Atoi(g.Gid)
}

// upgradeWait bounds an upgrade.
const upgradeWait = 30 * time.Second

func upgrade(c *cli.Context) error {
	program := c.String("program")
	if program != "" {
		var err error
		if program, err = filepath.Abs(program); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(c.Context, upgradeWait)
	defer cancel()
	client := api.NewClient(c.String("socket"))
	defer client.Close()
	before, err := client.Info(ctx)
	if err == nil {
		err = client.Upgrade(ctx, program)
	}
	if err != nil {
		return err
	}
	for {
		now, err := client.Info(ctx)
		switch {
		case err == nil && now.Restarts > before.Restarts:
			return fmt.Errorf("the new worker ended before it served: version %s goes on (process %d); its log says why",
				now.Version, now.Pid)
		case err == nil && now.Pid != before.Pid:
			fmt.Fprintf(c.App.Writer, "version %s serves (process %d)\n", now.Version, now.Pid)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot see the new worker serve after %v: %w", upgradeWait, errors.Join(err, ctx.Err()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// serveWorker runs the daemon's worker, in a process that the holder starts.
func serveWorker() int {
	return serveChild(holder.WorkerCommand, func(log *logrus.Entry) error { return daemon.Run(early.Version, log) },
		"the worker ends")
}

// serveNotify runs the answerer of containers' system calls, in a process that the holder starts.
func serveNotify() int {
	return serveChild(holder.AnswererCommand, listener.Run,
		"system calls of containers are answered no more by this process")
}

func serveChild(command string, run func(log *logrus.Entry) error, ends string) int {
	app := newApp(os.Stdout, logs.ToStderr(workerLastWords))
	app.Commands = []*cli.Command{{Name: command, Action: func(c *cli.Context) error {
		return run(logrus.NewEntry(logrus.StandardLogger()))
	}}}
	if err := app.Run(os.Args); err != nil {
		logrus.WithError(err).Error(ends)
		return fault.ExitCode(err)
	}
	return fault.ExitOK
}
