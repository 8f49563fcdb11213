// Package run starts a command in a guest of its own: its boundary in each hierarchy, its limits, its view, its
// namespaces, and their removal.
//
// # Words
//
// A lease is the part of the host that "run" makes for one guest: cgroups, and a file below /run that names them and is
// locked for the life of its maker. The first process of a guest starts as "guest-init": it sets its namespaces up and
// then becomes the command.
//
// # What always holds
//
// Every cgroup, mount and file is removed on every way out; the next run finds those of a killed server by its file,
// and removes them. The guest begins only when all of it is set up, and ends when its server does.
package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// RunConfig configures "run".
type RunConfig struct {
	Name       string // "" for a generated one
	Policy     *policy.Policy
	Limits     []spec.Limit
	Layout     hierarchy.Layout
	Userns     bool
	Privileged bool
	NoStack    bool // the kernel's cgroups are not mounted below the view
	NoNotify   bool // the guest's filter has no listener
	Proc       bool // opens of files in /proc that tell of cgroups are answered as the view shows them
	Command    []string
	Transport  conn.Transport
	Types      views.Typer // nil: only the guest's filter has statfs of the view answered
	Log        *logrus.Entry

	ids *guestIDs // with Userns
}

// Run runs a command in a guest of its own, and returns its exit status. The error reports a guest that could not be
// set up, or a command that could not be executed: a fault with the kind for the exit code.
func Run(cfg RunConfig) (status int, err error) {
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	h, err := host.Open()
	if err != nil {
		return 0, fault.With(fault.Unsupported, err)
	}
	defer h.Close()
	if cfg.Userns {
		if cfg.ids, err = allocateIDs(); err != nil {
			return 0, fault.With(fault.Unsupported, err)
		}
		defer cfg.ids.release()
	}
	if err := cleanUp(h, cfg.Log); err != nil {
		return 0, err
	}
	shown, err := views.Select(h, cfg.Policy, cfg.Layout)
	if err != nil {
		return 0, err
	}
	all := views.Hierarchies(shown)
	cfg.Policy = views.PolicyFor(cfg.Policy, cfg.Layout, all)
	hierarchies, err := withLimits(h, shown, cfg.Limits)
	if err != nil {
		return 0, err
	}
	lease, err := makeLease(h, cfg.Name, hierarchies, cfg.Policy, cfg.Log)
	if err != nil {
		return 0, err
	}
	defer lease.release()
	early, late := splitLimits(cfg.Limits)
	if err := apply(h, lease.path, early); err != nil {
		return 0, err
	}
	view, mount, err := openView(h, cfg, lease.path, shown)
	if err != nil {
		return 0, err
	}
	defer view.Close()
	parts := partsOf(views.Hierarchies(h.Hierarchies()), all, view.View.Layout(), cfg.Policy, lease.path)
	n, err := newNotifier(cfg, view, parts)
	if err != nil {
		return 0, err
	}
	defer n.close()
	cgroups, err := attach.CgroupsText(h, cfg.Policy, view.View.Layout())
	if err != nil {
		return 0, fmt.Errorf("cannot make the guest's %s: %w", attach.CgroupsPath, err)
	}
	setup := initSetup{Command: cfg.Command, Userns: cfg.Userns, Privileged: cfg.Privileged, NoNotify: cfg.NoNotify,
		Proc: cfg.Proc, Cgroups: cgroups}
	if setup.Dir, err = os.Getwd(); err != nil {
		setup.Dir = "/"
	}
	if !cfg.NoStack && !cfg.Userns {
		// The guest's root could unmount the view, and read the files that the policy hides.
		setup.Below = kernelMounts(shown, view.View.Layout())
	}
	show := func() bool { return cfg.Types != nil && cfg.Types.Show(int(mount.Fd()), fstype.ViewOf(view.View)) }
	limit := func() error { return apply(h, lease.path, late) }
	return runCommand(cfg, lease, n, orders{setup, show, limit}, signals)
}

// orders are the first process's configuration, and the actions once it has begun (show) and just before it becomes the
// command (limit).
type orders struct {
	setup initSetup
	show  func() bool
	limit func() error
}

// withLimits returns the shown hierarchies, and those of the limits.
func withLimits(h *host.Host, shown []*host.Hierarchy, limits []spec.Limit) ([]*host.Hierarchy, error) {
	hierarchies := slices.Clone(shown)
	for _, l := range limits {
		t, err := hierarchyOf(h, l.File)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(hierarchies, t) {
			hierarchies = append(hierarchies, t)
		}
	}
	return hierarchies, nil
}

// newNotifier makes the notifier for a guest with a view. It prepares mounts only for a guest that can mount.
func newNotifier(cfg RunConfig, s *views.Served, parts []notify.Part) (*notifier, error) {
	device, err := notify.DeviceOf(int(s.Mount.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot look at the view: %w", os.NewSyscallError("statx", err))
	}
	n := &notifier{
		root: s.Mount, log: cfg.Log,
		setup: supervisorSetup{Device: device, Several: s.View.Layout() != hierarchy.LayoutV2, Parts: parts,
			Proc: cfg.Proc, Level: cfg.Log.Logger.GetLevel()},
	}
	if (cfg.Userns || cfg.Privileged) && !cfg.NoNotify {
		n.kept, err = shelterView(int(s.Mount.Fd()))
		n.setup.Mounts = true
	}
	return n, err
}

// openView makes the view of "run", mounted nowhere yet, and begins to serve it.
func openView(
	h *host.Host, cfg RunConfig, boundary string, hierarchies []*host.Hierarchy,
) (*views.Served, *os.File, error) {
	var mount *os.File
	c := fs.Config{
		Host: h, Policy: cfg.Policy, Layout: cfg.Layout, Log: cfg.Log, Transport: cfg.Transport,
		MountRef: func() (int, func(), error) { return int(mount.Fd()), func() {}, nil },
	}
	if cfg.Userns {
		c.Owner = fs.Owner{UID: uint32(cfg.ids.from), GID: uint32(cfg.ids.from)}
	}
	s, err := views.NewView(c, hierarchies, func(*host.Hierarchy) (string, error) { return boundary, nil })
	if err != nil {
		return nil, nil, err
	}
	fd, err := s.View.Conn().Fsmount(0)
	if errors.Is(err, errors.ErrUnsupported) {
		err = fault.New(fault.Unsupported, "%w: this needs Linux 5.2 or later, and CAP_SYS_ADMIN", err)
	}
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	mount = os.NewFile(uintptr(fd), "view")
	s.Mount = mount
	s.Serve()
	return s, mount, nil
}

// runCommand starts the guest's first process, sends it the view and waits for its end.
func runCommand(cfg RunConfig, l *lease, n *notifier, o orders, signals chan os.Signal) (int, error) {
	ended := make(chan struct{})
	defer close(ended)
	first, err := startOnThread(cfg, n, signals, ended)
	if err != nil {
		return 0, err
	}
	defer first.close()
	defer first.seat.leave()
	watcher, err := startGuard(first.cmd.Process.Pid, cfg.ids)
	if err != nil {
		return first.abandon(err)
	}
	defer watcher.end()
	// The first process itself may need answers before it becomes the command.
	listens := make(chan error, 1)
	go func() { listens <- n.listen(first.listener) }()
	if err := first.becomes(l, o); err != nil {
		status, err := first.abandon(err)
		<-listens
		return status, err
	}
	switch err := <-listens; {
	case errors.Is(err, errNoListener):
		if cfg.Proc {
			cfg.Log.Warn("an outer filter has a listener already: files in /proc are the kernel's")
		}
	case err != nil:
		// The guest's calls would fail with ENOSYS.
		return first.abandon(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f := forwarder{pid: first.cmd.Process.Pid, seat: first.seat, log: cfg.Log}
	go f.run(ctx, signals)
	status, err := statusOf(first.cmd.Wait())
	if s := f.endedBy.Load(); s != 0 && status == fault.ExitSignalBase+int(unix.SIGKILL) {
		status = fault.ExitSignalBase + int(s)
	}
	return status, err
}

// firstProcess is the guest's first process, with the channels to it and from it.
type firstProcess struct {
	cmd      *exec.Cmd
	orders   *os.File // writing end: an initSetup
	result   *os.File // reading end: an initFailure, or the end when the command is executed
	listener *os.File // a socket for receiving the listener of its filter; may end without one
	seat     *seat    // nil if it shares its terminal
}

// startOnThread starts the first process from a thread of its own, which lives until the channel is closed: the guest
// dies with the thread (PR_SET_PDEATHSIG), and in a user namespace it begins with the thread's mounts.
func startOnThread(cfg RunConfig, n *notifier, signals chan<- os.Signal,
	ended <-chan struct{}) (first *firstProcess, err error) {
	started := make(chan struct{})
	go host.OnThread(func() error {
		if cfg.Userns {
			d := anew{sysWritable: cfg.Privileged, fuse: true, id: int(cfg.ids.from)}
			if err = makeStage(d); err != nil {
				err = fmt.Errorf("cannot make the mounts that the guest begins with: %w", err)
			}
		}
		if err == nil {
			first, err = startFirst(cfg, n)
		}
		if err == nil && first.cmd.SysProcAttr.Setpgid {
			if first.seat, err = giveSeat(first.cmd.Process.Pid, signals); err != nil {
				_, err = first.abandon(fmt.Errorf("cannot give the command the terminal: %w", err))
			}
		}
		close(started)
		<-ended
		return nil
	})
	<-started
	return first, err
}

// startFirst starts the first process with a mount of the view. It waits for its orders.
func startFirst(cfg RunConfig, n *notifier) (*firstProcess, error) {
	toChild, err := newPipe()
	if err != nil {
		return nil, err
	}
	defer toChild.r.Close()
	fromChild, err := newPipe()
	if err != nil {
		toChild.w.Close()
		return nil, err
	}
	defer fromChild.w.Close()
	first := &firstProcess{orders: toChild.w, result: fromChild.r}
	ours, theirs, err := socketPair()
	if err == nil {
		defer theirs.Close()
		first.listener = ours
		view := n.root
		if n.kept != nil {
			if view, err = n.kept.clone(n.root); err == nil {
				defer view.Close()
			}
		}
		if err == nil {
			first.cmd = initCommand(cfg, view, toChild.r, fromChild.w, theirs)
			err = startError(first.cmd.Start(), cfg.Userns)
		}
	}
	if err != nil {
		first.close()
		return nil, err
	}
	return first, nil
}

// becomes makes the first process the command, in the guest's cgroups.
func (f *firstProcess) becomes(l *lease, o orders) error {
	for _, t := range l.hierarchies {
		if err := t.Attach(l.path, f.cmd.Process.Pid); err != nil {
			return fmt.Errorf("cannot put the command into its cgroup in the hierarchy %s: %w", t, err)
		}
	}
	// The child, which waits for its orders, has meanwhile begun.
	o.setup.TypeGiven = o.show()
	if err := sendSetup(f.orders, o.setup); err != nil {
		return fmt.Errorf("cannot set the command up: %w", err)
	}
	said := make([]byte, 1)
	if n, _ := f.result.Read(said); n == 1 && said[0] == initReady {
		if err := o.limit(); errors.Is(err, unix.EBUSY) {
			// v1's memory controller.
			return fmt.Errorf("%w: %s", err, tooLittle)
		} else if err != nil {
			return err
		}
		// A process that has ended gets no message; it has reported why, or not.
		_, _ = f.orders.Write([]byte{initGo})
		said = said[:0]
	} else {
		said = said[:n]
	}
	f.orders.Close()
	more, err := io.ReadAll(f.result)
	if err != nil {
		return nil
	}
	return failureOf(append(said, more...))
}

// tooLittle is the remedy for limits under which no command begins: at the execve this program uses up to 4 MiB.
const tooLittle = "the limits leave less than a command needs to begin, which is some 4 MiB of memory"

// errKilled reports that the first process of a guest has ended without a message.
var errKilled = errors.New("the guest's first process was killed before: " + tooLittle)

// failureOf returns the error in the messages of the first process, nil if the command has begun.
func failureOf(said []byte) error {
	text, begun := strings.CutPrefix(string(said), string(initBegins))
	if text == "" && begun {
		return nil
	}
	if text == "" {
		return fmt.Errorf("cannot start the command: %w", errKilled)
	}
	var failure initFailure
	if json.Unmarshal([]byte(text), &failure) != nil {
		failure = initFailure{fault.RunFailed, text}
	}
	return fault.With(failure.Kind, errors.New(failure.Text))
}

// abandon kills the first process, and returns the error.
func (f *firstProcess) abandon(err error) (int, error) {
	f.cmd.Process.Kill()
	f.cmd.Wait()
	return 0, err
}

func (f *firstProcess) close() {
	for _, file := range []*os.File{f.orders, f.result, f.listener} {
		if file != nil {
			file.Close()
		}
	}
}

// initCommand returns the command of the guest's first process: this program, in new namespaces.
func initCommand(cfg RunConfig, mount, setup, result, listener *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", InitCommand)
	cmd.Args[0] = "vcgroupfs"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// initMount, initSetupFD, initResultFD, initListener.
	cmd.ExtraFiles = []*os.File{mount, setup, result, listener}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    interactive(),
	}
	if cfg.Userns {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = cfg.ids.mapping(), cfg.ids.mapping()
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
	return cmd
}

func startError(err error, userns bool) error {
	if err == nil {
		return nil
	}
	if userns && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EPERM)) {
		err = fmt.Errorf("%w: user namespaces may be switched off (sysctl user.max_user_namespaces)", err)
	}
	return fault.New(fault.Unsupported, "cannot start a process in new namespaces: %w", err)
}

// statusOf returns the exit status of a command: its own, or 128 and the number of the signal that ended it.
func statusOf(err error) (int, error) {
	var exit *exec.ExitError
	if err == nil {
		return fault.ExitOK, nil
	}
	if !errors.As(err, &exit) {
		return 0, err
	}
	ws := exit.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return fault.ExitSignalBase + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

type pipe struct{ r, w *os.File }

func newPipe() (pipe, error) {
	r, w, err := os.Pipe()
	return pipe{r, w}, err
}
