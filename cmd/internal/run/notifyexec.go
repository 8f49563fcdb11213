package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
)

// The arguments that make this program what answers for a command of NotifyExec. They are not for users.
const (
	// KeeperStarterCommand starts a keeper and ends, so that the keeper is no child of the command.
	KeeperStarterCommand = "notify-keeper-starter"
	// KeeperCommand holds the listener.
	KeeperCommand = "notify-keeper"
)

// keeperName is what the keeper and what it starts are called: systemd as the first process kills all others when it ends, but for those
// whose name begins so (ignore_proc, src/shutdown/killall.c). Without them mount and statfs would fail.
const keeperName = "@vcgroupfs"

// keeperSocket is a descriptor of a keeper: a socket by which it gets the listener, and answers with a byte.
const keeperSocket = 3

// NotifyExec becomes a command, under a filter of which another process of this guest answers the calls. It returns only when it fails.
// The command keeps this process's number, parent and descriptors. Where a filter with a listener holds already, that one is relied on.
func NotifyExec(command []string, log *logrus.Entry) error {
	runtime.LockOSThread() // the filter is this thread's, and this thread becomes the command
	path, err := exec.LookPath(command[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return commandError(command[0], err)
	}
	keeper, err := startKeeper()
	if err != nil {
		return fmt.Errorf("cannot start what answers for the command: %w", err)
	}
	listener, err := filterAsGuest()
	switch {
	case errors.Is(err, unix.EBUSY):
		log.Debug("a filter with a listener holds here already: the calls are answered by whoever has that")
	case err != nil:
		return fmt.Errorf("%w; notify-exec needs seccomp user notification (Linux 5.5, permitted in this container)", err)
	default:
		if err := handOver(keeper, listener); err != nil {
			return err
		}
	}
	keeper.Close()
	return commandError(command[0], syscall.Exec(path, command, os.Environ()))
}

// filterAsGuest puts a filter on this thread, with no_new_privs if it may do it in no other way.
func filterAsGuest() (listener int, err error) {
	filter := notify.Filter(notify.Rules{Type: true, Mounts: true})
	listener, err = notify.Install(filter)
	if errors.Is(err, unix.EACCES) {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, os.NewSyscallError("prctl", err)
		}
		listener, err = notify.Install(filter)
	}
	return listener, err
}

// startKeeper starts a process, not a child of this one unless this is the first of its pid namespace, and gives the socket to it.
func startKeeper() (*os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", KeeperStarterCommand)
	cmd.Args[0] = keeperName
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Run(); err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

// handOver gives the keeper the listener, and waits until it has it.
func handOver(keeper *os.File, listener int) error {
	defer unix.Close(listener)
	err := sendListener(int(keeper.Fd()), listener)
	if err == nil {
		var n int
		if n, err = unix.Read(int(keeper.Fd()), make([]byte, 1)); err == nil && n != 1 {
			err = errors.New("it has ended")
		}
	}
	if err != nil {
		return fmt.Errorf("cannot reach what answers for the command: %w", err)
	}
	return nil
}

// StartKeeper starts a keeper and answers with the exit status.
func StartKeeper() int {
	cmd := exec.Command("/proc/self/exe", KeeperCommand)
	cmd.Args[0] = keeperName
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{os.NewFile(keeperSocket, "socket")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "vcgroupfs: %v\n", err)
		return fault.ExitFailure
	}
	return fault.ExitOK
}

// dropStderr lets go of the command's standard error: who reads that to its end waits for the command, not for the keeper.
func dropStderr() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return os.NewSyscallError("dup3", unix.Dup3(int(null.Fd()), 2, 0))
}

// Keep has the calls of a command's filter answered, until the last process under it has ended, and answers with the exit status. A
// process that is killed while it answers is followed by another.
func Keep() int {
	ignoreSignals()
	socket := os.NewFile(keeperSocket, "socket")
	listener, err := receiveListener(socket)
	if errors.Is(err, errNoListener) {
		return fault.ExitOK // there is to be none
	}
	n := &notifier{setup: supervisorSetup{Inside: true, Level: logrus.GetLevel()}, log: logrus.NewEntry(logrus.StandardLogger())}
	if err == nil {
		err = n.start(listener)
	}
	if err == nil {
		err = dropStderr()
	}
	if err == nil {
		_, err = socket.Write([]byte{0})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "vcgroupfs: cannot answer for the command: %v\n", err)
		return fault.ExitFailure
	}
	socket.Close()
	<-n.done
	return fault.ExitOK
}
