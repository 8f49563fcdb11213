package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

const (
	// controllersAnnotation narrows the controllers that a container is shown.
	controllersAnnotation = "dev.vcgroupfs.controllers"
	// hookTimeout bounds the wait for the daemon, which may be restarting.
	hookTimeout = 30 * time.Second
	// maxHookInput bounds a runtime's description of a container.
	maxHookInput = 4 << 20
)

func hookCommand() *cli.Command {
	return &cli.Command{
		Name:  "hook",
		Usage: "what container runtimes call to give a container its view",
		Description: "Runtimes run these with the container's state; docs/runtimes.md has the configuration for each. The daemon (vcgroupfs serve)\n" +
			"must run. A hook that fails makes the container fail: it never starts without its view. Cgroups that the runtime has given to the\n" +
			"root of the container's user namespace are the host's root's from then on.",
		Action: group,
		Subcommands: []*cli.Command{
			{
				Name: "oci", Usage: "for runc, crun and what uses them: createRuntime and poststop",
				Description: "Reads the state of the container from standard input (OCI runtime specification, \"Hooks\"). As createRuntime it adds a guest\n" +
					"of the container's name, whose boundary is the container's cgroup, and attaches the view in the container, over what the\n" +
					"runtime mounted there. As poststop it removes the guest. The annotation " + controllersAnnotation + " of a container\n" +
					"narrows what it is shown, within what --controllers and --policy allow.\n\n" +
					"   \"hooks\": {\n" +
					"     \"createRuntime\": [{\"path\": \"/usr/bin/vcgroupfs\", \"args\": [\"vcgroupfs\", \"hook\", \"oci\", \"--controllers\", \"memory,pids\"]}],\n" +
					"     \"poststop\": [{\"path\": \"/usr/bin/vcgroupfs\", \"args\": [\"vcgroupfs\", \"hook\", \"oci\"]}]\n" +
					"   }",
				Flags: hookFlags(), Action: hookAction(ociHook),
			},
			{
				Name: "lxc", Usage: "for LXC and Incus: lxc.hook.start-host and lxc.hook.post-stop",
				Description: "Takes the container from LXC's environment. As start-host it adds a guest whose boundary is the container's cgroup and attaches\n" +
					"the view in the container; as post-stop it removes the guest.\n\n" +
					"   lxc.hook.version = 1\n" +
					"   lxc.hook.start-host = /usr/bin/vcgroupfs hook lxc --controllers memory,pids\n" +
					"   lxc.hook.post-stop = /usr/bin/vcgroupfs hook lxc",
				Flags: hookFlags(), Action: hookAction(lxcHook),
			},
		},
	}
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

// container is a runtime's description of a container.
type container struct {
	id          string
	pid         int // of its first process; 0 once that has ended
	rootfs      string
	annotations map[string]string
	of          string // distinguishes it from others of the same name: its bundle, or its configuration's file
}

// hookAction gives a container its view, or removes it.
func hookAction(read func() (container, error)) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() > 0 {
			return usagef("%s takes no argument but options: %q", strings.TrimPrefix(c.Command.HelpName, "vcgroupfs "),
				c.Args().First())
		}
		box, err := read()
		if err != nil {
			return err
		}
		daemon := api.NewClient(c.String("socket")).As(api.Maker{By: c.String(madeByFlag), Of: box.of})
		defer daemon.Close()
		ctx, cancel := context.WithTimeout(c.Context, hookTimeout)
		defer cancel()
		name := spec.NameOf(box.id)
		if box.pid == 0 {
			return removeContainer(ctx, daemon, name, c.App.ErrWriter)
		}
		p, text, err := readPolicy(c.String("policy"))
		if err != nil {
			return err
		}
		g := api.GuestSpec{Layout: layoutOf(c), Controllers: spec.ControllerNames(c.String("controllers")), Policy: text,
			Pid: box.pid}
		if g.Into, err = intoOf(c, box.rootfs); err != nil {
			return err
		}
		if g.Controllers, err = spec.Narrow(g.Controllers, controllersAnnotation,
			box.annotations[controllersAnnotation]); err != nil {
			return err
		}
		if g.Controllers, err = ownControllers(box, g.Controllers, p); err != nil {
			return err
		}
		// A runtime makes the container's cgroup, and moves its first process there, before it calls the hook. Without a
		// cgroup namespace to mark the boundary, the process's present cgroup is the boundary.
		_, err = host.CgroupNamespaceOf(box.pid)
		if g.CurrentCgroup = errors.Is(err, host.ErrOwnNamespace); err != nil && !g.CurrentCgroup {
			return fmt.Errorf("cannot look at process %d of container %s: %w", box.pid, box.id, err)
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
// policy permits, the ones in whose hierarchy the runtime has made the container a cgroup of its own. In other
// hierarchies the container is in the runtime's cgroup, like this process; that cgroup is no boundary.
func ownControllers(box container, given []string, p *policy.Policy) (own []string, err error) {
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
		its, err := t.PathOf(box.pid)
		if err != nil {
			return nil, fmt.Errorf("cannot find container %s in the hierarchy %s: %w", box.id, t, err)
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
			if p.Permits(name) {
				own = append(own, name)
			}
		}
	}
	for _, name := range given {
		if slices.Contains(shared, name) {
			return nil, fmt.Errorf(
				"cannot show controller %q to container %s: the runtime has made it no cgroup in that hierarchy", name, box.id)
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf(
			"cannot show container %s anything: the runtime has made it no cgroup in a hierarchy that may be shown", box.id)
	}
	if len(given) > 0 {
		// The daemon refuses a name that the host does not have.
		return given, nil
	}
	return own, nil
}

// ociState is the state that a runtime passes to its hooks (config.md and runtime.md of the OCI runtime specification
// 1.0).
type ociState struct {
	ID          string            `json:"id"`
	Status      string            `json:"status"`
	Pid         int               `json:"pid"`
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations"`
}

func ociHook() (container, error) {
	raw, err := io.ReadAll(io.LimitReader(os.Stdin, maxHookInput))
	if err != nil {
		return container{}, fmt.Errorf("cannot read the container's state: %w", err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return container{}, usagef(
			"standard input should have the container's state, and it is empty: a runtime gives it to its hooks")
	}
	var s ociState
	if err := json.Unmarshal(raw, &s); err != nil {
		return container{}, usagef(
			"cannot read the container's state from standard input: %v; a runtime gives it to its hooks", err)
	}
	return s.container(os.ReadFile)
}

func (s ociState) container(readFile func(string) ([]byte, error)) (container, error) {
	box := container{id: s.ID, pid: s.Pid, annotations: s.Annotations}
	if s.Bundle != "" {
		// crun passes another spelling to poststop than to createRuntime.
		box.of = filepath.Clean(s.Bundle)
	}
	switch {
	case s.ID == "":
		return box, usagef("the container's state has no id")
	case s.Status == "stopped" && s.Pid > 0 && !endedIn(s.Pid, stoppedWait):
		return box, fmt.Errorf("the state says that container %s is stopped, but its process %d lives", s.ID, s.Pid)
	case s.Status == "stopped":
		box.pid = 0
		return box, nil
	case s.Status != "creating" && s.Status != "created":
		return box, usagef("container %s is %q: this hook is for createRuntime and poststop", s.ID, s.Status)
	case s.Pid <= 0:
		return box, usagef("the state of container %s has no pid: this hook is for createRuntime and poststop", s.ID)
	case !filepath.IsAbs(s.Bundle):
		return box, usagef("the bundle of container %s is %q, no absolute path", s.ID, s.Bundle)
	}
	raw, err := readFile(filepath.Join(s.Bundle, "config.json"))
	if err != nil {
		return box, fmt.Errorf("cannot read the configuration of container %s: %w", s.ID, err)
	}
	var config struct {
		Root struct {
			Path string `json:"path"`
		} `json:"root"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return box, fmt.Errorf("cannot read the configuration of container %s: %w", s.ID, err)
	}
	if config.Root.Path == "" {
		return box, fmt.Errorf("the configuration of container %s has no root.path", s.ID)
	}
	box.rootfs = config.Root.Path
	if !filepath.IsAbs(box.rootfs) {
		box.rootfs = filepath.Join(s.Bundle, box.rootfs)
	}
	box.rootfs = filepath.Clean(box.rootfs)
	return box, nil
}

// stoppedWait bounds the end of a process that the runtime reports as stopped: it was just killed.
const stoppedWait = 5 * time.Second

// endedIn reports that a process ends in time: its number is free or a zombie's.
func endedIn(pid int, wait time.Duration) bool {
	for until := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		if _, err := host.StartOf(pid); err != nil {
			return true
		}
		if time.Now().After(until) {
			return false
		}
	}
}

// lxcHook reads LXC's description of a container (lxc.container.conf(5), "CONTAINER HOOKS ENVIRONMENT VARIABLES").
func lxcHook() (container, error) {
	box := container{id: os.Getenv("LXC_NAME"), of: os.Getenv("LXC_CONFIG_FILE")}
	if box.id == "" {
		return box, usagef(
			"LXC_NAME is not set: this is run by LXC, as lxc.hook.start-host and lxc.hook.post-stop with lxc.hook.version = 1")
	}
	switch kind := os.Getenv("LXC_HOOK_TYPE"); kind {
	case "post-stop":
		return box, nil
	case "start-host":
	default:
		return box, usagef("LXC_HOOK_TYPE is %q: this hook is for start-host and post-stop, with lxc.hook.version = 1", kind)
	}
	pid, err := strconv.Atoi(os.Getenv("LXC_PID"))
	if err != nil || pid <= 0 {
		return box, usagef("LXC_PID is %q, the number of no process", os.Getenv("LXC_PID"))
	}
	box.pid = pid
	return box, nil
}
