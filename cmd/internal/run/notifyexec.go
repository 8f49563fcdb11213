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

// Arguments that make this program answer for a command of NotifyExec. They are not for users.
const (
	// KeeperStarterCommand starts a keeper and ends, so that the keeper is no child of the command.
	KeeperStarterCommand = "notify-keeper-starter"
	// KeeperCommand holds the listener.
	KeeperCommand = "notify-keeper"
)

// keeperName is the name of the keeper and its children. systemd as the first process kills all others at its end,
// except those whose name begins with '@' (ignore_proc, src/shutdown/killall.c). Without them mount and statfs would
// fail.
const keeperName = "@vcgroupfs"

// keeperSocket is a descriptor of a keeper: a socket that sends the listener to it, and receives a byte in answer.
const keeperSocket = 3

// NotifyExec becomes a command, under a filter whose calls another process of this guest answers. It returns only on
// failure: fault.NoCommand, fault.NotExecutable, or the failed step. The command keeps this process's number, parent
// and descriptors. If a filter with a listener is already in force, NotifyExec relies on that one.
func NotifyExec(command []string, log *logrus.Entry) error {
	// The filter is this thread's, and this thread becomes the command.
	runtime.LockOSThread()
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

// filterAsGuest puts a filter on this thread, with no_new_privs if the kernel permits it in no other way.
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

// startKeeper starts a keeper and returns the socket to it. The keeper is no child of this process, unless this is the
// first of its pid namespace.
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

// handOver sends the listener to the keeper, and waits for its answer.
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

// StartKeeper starts a keeper and returns the exit status.
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

// dropStderr closes the command's standard error: a program that reads it to its end waits for the command, not for the
// keeper.
func dropStderr() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return os.NewSyscallError("dup3", unix.Dup3(int(null.Fd()), 2, 0))
}

// Keep has the calls of a command's filter answered until the last process under it has ended, and returns the exit
// status. It replaces a supervisor that is killed.
func Keep() int {
	ignoreSignals()
	socket := os.NewFile(keeperSocket, "socket")
	listener, err := receiveListener(socket)
	if errors.Is(err, errNoListener) {
		// The command has no listener.
		return fault.ExitOK
	}
	n := &notifier{setup: supervisorSetup{Inside: true, Level: logrus.GetLevel()},
		log: logrus.NewEntry(logrus.StandardLogger())}
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
