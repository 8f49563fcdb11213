package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// GuardCommand is the argument that makes this program the guard of a guest. It is not for users.
const GuardCommand = "guest-guard"

// Descriptors that a guard is given.
const (
	guardLife  = 3 // of a pipe that ends with "run"
	guardGuest = 4 // pidfd of the guest's first process
	// 5 is the file of the guest's ids, if it has any: locked as long as it is open here or in "run".
)

// Guard ends a guest whose "run" was killed. The kernel does so by itself (PR_SET_PDEATHSIG), until the guest's first process changes its
// ids or executes a file that does (prctl(2)): then nobody would serve its view, and its processes would go on. The guard
// holds the guest's ids until the first process is gone, the last of its pid namespace (zap_pid_ns_processes).
func Guard() int {
	fds := []unix.PollFd{{Fd: guardLife, Events: unix.POLLIN}, {Fd: guardGuest, Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil, n > 0 && fds[1].Revents == 0: // the pipe has ended, and the guest has not
			if unix.PidfdSendSignal(guardGuest, unix.SIGKILL, nil, 0) != nil || err != nil {
				return fault.ExitFailure
			}
			fds[0].Fd = -1 // left to wait for: the end of the guest
		default:
			return fault.ExitOK
		}
	}
}

// guard is the guard of a guest, as "run" has it.
type guard struct {
	cmd  *exec.Cmd
	life *os.File // held open as long as the guest may live
}

// startGuard starts the guard of a guest whose first process is a child of this one.
func startGuard(pid int, own *guestIDs) (*guard, error) {
	life, err := newPipe()
	if err != nil {
		return nil, err
	}
	defer life.r.Close()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		life.w.Close()
		return nil, fmt.Errorf("cannot guard the command: %w", os.NewSyscallError("pidfd_open", err))
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	defer process.Close()
	g := &guard{cmd: exec.Command("/proc/self/exe", GuardCommand), life: life.w}
	g.cmd.Args[0], g.cmd.Dir = "vcgroupfs", "/"
	g.cmd.ExtraFiles = []*os.File{life.r, process} // guardLife, guardGuest
	if own != nil {
		g.cmd.ExtraFiles = append(g.cmd.ExtraFiles, own.file)
	}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what ends the caller's group or terminal is not to end it
	if err := g.cmd.Start(); err != nil {
		life.w.Close()
		return nil, fmt.Errorf("cannot guard the command: %w", err)
	}
	return g, nil
}

// end is called when the guest has ended, or is to.
func (g *guard) end() {
	g.life.Close()
	_ = g.cmd.Wait()
}
