// Package run starts a command in a guest of its own: its boundary in each hierarchy, its limits, its view, its
// namespaces, and their removal.
//
// # Words
//
// A lease is what "run" makes on the host for one guest: cgroups, and a file below /run that names them and is locked
// for the life of its maker. The first process of a guest starts as "guest-init": it sets its namespaces up and then
// becomes the command.
//
// # What always holds
//
// What was made is removed on every way out; what a killed server leaves is found by its file and removed by the next.
// The guest begins only when all of it is set up, and ends when its server does.
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
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// RunConfig says what "run" starts.
type RunConfig struct {
	Name       string // "" for one made up
	Policy     *policy.Policy
	Limits     []spec.Limit
	Layout     hierarchy.Layout
	Userns     bool
	Privileged bool
	NoStack    bool // nothing of the kernel's cgroups is mounted below the view
	NoNotify   bool // the guest's filter asks nobody
	Command    []string
	Types      views.Typer // nil: only the guest's filter has statfs of the view answered
	Log        *logrus.Entry

	ids *guestIDs // with Userns
}

// Run runs a command in a guest of its own, and answers with the status to exit with. An error says that the guest could
// not be set up, or that its command could not be executed.
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
		if cfg.ids, err = takeIDs(); err != nil {
			return 0, fault.With(fault.Unsupported, err)
		}
		defer cfg.ids.release()
	}
	CleanUp(h, cfg.Log)
	shown, err := views.Select(h, cfg.Policy)
	if err != nil {
		return 0, err
	}
	trees, err := withLimits(h, shown, cfg.Limits)
	if err != nil {
		return 0, err
	}
	lease, err := take(h, cfg.Name, trees, cfg.Policy, cfg.Log)
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
	n, err := newNotifier(cfg, view, partsOf(shown, cfg.Policy, lease.path))
	if err != nil {
		return 0, err
	}
	defer n.close()
	cgroups, err := attach.CgroupsText(h, cfg.Policy)
	if err != nil {
		return 0, fmt.Errorf("cannot make the guest's %s: %w", attach.CgroupsPath, err)
	}
	setup := initSetup{Command: cfg.Command, Userns: cfg.Userns, Privileged: cfg.Privileged, NoNotify: cfg.NoNotify, Cgroups: cgroups}
	if setup.Dir, err = os.Getwd(); err != nil {
		setup.Dir = "/"
	}
	if !cfg.NoStack && !cfg.Userns { // whose root could unmount the view, and read what the policy hides
		setup.Below = kernelMounts(shown, view.View.Layout())
	}
	show := func() bool { return cfg.Types != nil && cfg.Types.Show(int(mount.Fd()), fstype.ViewOf(view.View)) }
	limit := func() error { return apply(h, lease.path, late) }
	return runCommand(cfg, lease, n, orders{setup, show, limit}, signals)
}

// orders are what the guest's first process is told, and what is done when it has begun, and when it is about to become the command.
type orders struct {
	setup initSetup
	show  func() bool
	limit func() error
}

// withLimits are the hierarchies that are shown, and those that limits are in.
func withLimits(h *host.Host, shown []*host.Hierarchy, limits []spec.Limit) ([]*host.Hierarchy, error) {
	trees := slices.Clone(shown)
	for _, l := range limits {
		t, err := treeOf(h, l.File)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(trees, t) {
			trees = append(trees, t)
		}
	}
	return trees, nil
}

// newNotifier is what will answer the calls of a guest that has a view. Only where the guest can mount are mounts made for it.
func newNotifier(cfg RunConfig, s *views.Served, parts []notify.Part) (*notifier, error) {
	device, err := notify.DeviceOf(int(s.Mount.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot look at the view: %w", os.NewSyscallError("statx", err))
	}
	n := &notifier{
		root: s.Mount, log: cfg.Log,
		setup: supervisorSetup{Device: device, Several: s.View.Layout() != hierarchy.LayoutV2, Parts: parts, Level: cfg.Log.Logger.GetLevel()},
	}
	if (cfg.Userns || cfg.Privileged) && !cfg.NoNotify {
		n.kept, err = shelterView(int(s.Mount.Fd()))
	}
	return n, err
}

// openView makes the view of "run", mounted nowhere yet, and begins to serve it.
func openView(h *host.Host, cfg RunConfig, boundary string, trees []*host.Hierarchy) (*views.Served, *os.File, error) {
	var mount *os.File
	c := fs.Config{
		Host: h, Policy: cfg.Policy, Layout: cfg.Layout, Log: cfg.Log,
		MountRef: func() (int, func(), error) { return int(mount.Fd()), func() {}, nil },
	}
	if cfg.Userns {
		c.Owner = fs.Owner{UID: uint32(cfg.ids.from), GID: uint32(cfg.ids.from)}
	}
	s, err := views.NewView(c, trees, func(*host.Hierarchy) (string, error) { return boundary, nil })
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

// runCommand starts the guest's first process, hands it the view and waits for its end.
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
	if err := first.becomes(l, o); err != nil {
		return first.abandon(err)
	}
	listener, err := receiveListener(first.listener)
	if err == nil {
		err = n.start(listener)
	}
	if err != nil && !errors.Is(err, errNoListener) { // its calls would be ENOSYS
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

// firstProcess is the guest's first process, and what is said to it and by it.
type firstProcess struct {
	cmd      *exec.Cmd
	orders   *os.File // takes an initSetup
	result   *os.File // gives an initFailure, or ends when the command is executed
	listener *os.File // a socket that gives the listener of its filter, or ends
	seat     *seat    // nil: it has no terminal to itself
}

// startOnThread starts it from a thread of its own, which lives until the channel is closed: the guest is to die with the thread
// (PR_SET_PDEATHSIG), and with a user namespace it begins with the thread's mounts.
func startOnThread(cfg RunConfig, n *notifier, signals chan<- os.Signal, ended <-chan struct{}) (first *firstProcess, err error) {
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
			if first.seat, err = takeSeat(first.cmd.Process.Pid, signals); err != nil {
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

// startFirst starts it with a mount of the view. It waits for its orders.
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

// becomes has it become the command, in the guest's cgroups.
func (f *firstProcess) becomes(l *lease, o orders) error {
	for _, t := range l.trees {
		if err := t.Attach(l.path, f.cmd.Process.Pid); err != nil {
			return fmt.Errorf("cannot put the command into its cgroup in the hierarchy %s: %w", t, err)
		}
	}
	o.setup.TypeGiven = o.show() // the child, which waits for its orders, has meanwhile begun
	if err := json.NewEncoder(f.orders).Encode(o.setup); err != nil {
		return fmt.Errorf("cannot set the command up: %w", err)
	}
	said := make([]byte, 1)
	if n, _ := f.result.Read(said); n == 1 && said[0] == initReady {
		if err := o.limit(); errors.Is(err, unix.EBUSY) { // v1, of memory
			return fmt.Errorf("%w: %s", err, tooLittle)
		} else if err != nil {
			return err
		}
		_, _ = f.orders.Write([]byte{initGo}) // to one that has ended nothing can be said: it has said why, or not
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

// tooLittle says what to do about limits with which no command begins: what this program has in use when it becomes one is up to 4 MiB.
const tooLittle = "the limits leave less than a command needs to begin, which is some 4 MiB of memory"

// errKilled says that the first process of a guest has ended without a word.
var errKilled = errors.New("the guest's first process was killed before: " + tooLittle)

// failureOf reads what the first process said: that it becomes the command, and why it could not.
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

// abandon ends it, for an error.
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

// initCommand is the guest's first process as it is started: this program, in new namespaces.
func initCommand(cfg RunConfig, mount, setup, result, listener *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", InitCommand)
	cmd.Args[0] = "vcgroupfs"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{mount, setup, result, listener} // initMount, initSetupFD, initResultFD, initListener
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

// statusOf is the exit status of a command: its own, or 128 and the number of the signal that ended it.
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
