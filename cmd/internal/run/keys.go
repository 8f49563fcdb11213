package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// KeysCommand is the argument that makes this program listen to a terminal's keys beside a guest. It is not for users.
const KeysCommand = "guest-keys"

// keysReady is the descriptor that receives a byte once the program listens.
const keysReady = 3

// keys are the signals that a terminal sends to its foreground process group.
var keys = []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTSTP, unix.SIGTTIN}

// stops are those of them whose default action stops a process.
var stops = map[os.Signal]bool{unix.SIGTSTP: true, unix.SIGTTIN: true}

// seat is the foreground of a terminal while a guest has it, in a process group of its own. A shell in the guest's pid
// namespace sees no number for a group from outside, and could give the terminal back to none. The guest's first
// process gets only those of the terminal's signals that it handles, so a process outside of its pid namespace is in
// that group, and passes them on to this one.
type seat struct {
	group int
	own   int // this process's group
}

// interactive reports that input, output and errors are one terminal, and that this process is in its foreground. With
// anything else, such as a pipe, other processes of the group may need the terminal.
func interactive() bool {
	if !isTerminal(0) || !foreground() {
		return false
	}
	var in unix.Stat_t
	if unix.Fstat(0, &in) != nil {
		return false
	}
	for fd := 1; fd <= 2; fd++ {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != in.Rdev {
			return false
		}
	}
	return true
}

// giveSeat gives the foreground to a group's leader. Its stop signals arrive in the channel from then on.
func giveSeat(pid int, signals chan<- os.Signal) (*seat, error) {
	s := &seat{group: pid, own: unix.Getpgrp()}
	cmd := exec.Command("/proc/self/exe", KeysCommand)
	cmd.Args[0] = "vcgroupfs"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: pid, Pdeathsig: unix.SIGKILL}
	ready, err := newPipe()
	if err != nil {
		return nil, err
	}
	defer ready.r.Close()
	// keysReady.
	cmd.ExtraFiles = []*os.File{ready.w}
	err = cmd.Start()
	ready.w.Close()
	if err != nil {
		return nil, err
	}
	// It ends with the thread that started it.
	go cmd.Wait()
	if _, err := ready.r.Read(make([]byte, 1)); err != nil {
		return nil, fmt.Errorf("what listens to its keys has ended: %w", err)
	}
	signal.Notify(signals, unix.SIGTSTP, unix.SIGTTIN)
	// SIGTTOU stops a process that gives the terminal away from the background.
	signal.Ignore(unix.SIGTTOU)
	return s, s.give(pid)
}

// give puts a group into the foreground.
func (s *seat) give(group int) error {
	return os.NewSyscallError("TIOCSPGRP", unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, group))
}

// leave takes the terminal back if its foreground group is gone.
func (s *seat) leave() {
	if s == nil {
		return
	}
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	if err == nil && group != s.own && errors.Is(unix.Kill(-group, 0), unix.ESRCH) {
		_ = s.give(s.own)
	}
}

// stop stops the guest and this process until the shell continues them, as a shell expects of its jobs. Without a shell
// it does nothing, since nobody would continue them.
func (s *seat) stop() {
	if !hasShell() {
		return
	}
	_ = unix.Kill(-s.group, unix.SIGSTOP)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The signal goes to this thread, so that it does nothing before the stop.
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
	if foreground() {
		_ = s.give(s.group)
	}
	_ = unix.Kill(-s.group, unix.SIGCONT)
}

// hasShell reports that the parent is in this session and another group: then this group is not orphaned.
func hasShell() bool {
	parent := unix.Getppid()
	theirs, err1 := unix.Getsid(parent)
	ours, err2 := unix.Getsid(0)
	group, err3 := unix.Getpgid(parent)
	return errors.Join(err1, err2, err3) == nil && theirs == ours && group != unix.Getpgrp()
}

// ListenToKeys passes a terminal's signals on to the process that started this one, until it is killed, and returns the
// exit status.
func ListenToKeys() int {
	parent := os.Getppid()
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, keys...)
	unix.Write(keysReady, []byte{0})
	unix.Close(keysReady)
	for s := range signals {
		_ = unix.Kill(parent, s.(syscall.Signal))
	}
	return 0
}
