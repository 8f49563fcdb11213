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

// Descriptors of a guard.
const (
	guardLife  = 3 // of a pipe that ends with "run"
	guardGuest = 4 // pidfd of the guest's first process
	// 5 is the file of the guest's ids, if it has any: locked as long as it is open here or in "run".
)

// Guard ends a guest whose "run" was killed, and returns the exit status. The kernel does so itself (PR_SET_PDEATHSIG)
// until the guest's first process changes its ids, or executes a file that does (prctl(2)). After that the guest's
// processes would go on with a view that nothing serves. The guard holds the guest's ids until the first process is
// gone, the last one of its pid namespace (zap_pid_ns_processes).
func Guard() int {
	fds := []unix.PollFd{{Fd: guardLife, Events: unix.POLLIN}, {Fd: guardGuest, Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil, n > 0 && fds[1].Revents == 0:
			// The pipe has ended, and the guest has not.
			if unix.PidfdSendSignal(guardGuest, unix.SIGKILL, nil, 0) != nil || err != nil {
				return fault.ExitFailure
			}
			// Only the end of the guest is left to wait for.
			fds[0].Fd = -1
		default:
			return fault.ExitOK
		}
	}
}

// guard is the guard of a guest, on the side of "run".
type guard struct {
	cmd  *exec.Cmd
	life *os.File // open as long as the guest may live
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
	// guardLife, guardGuest.
	g.cmd.ExtraFiles = []*os.File{life.r, process}
	if own != nil {
		g.cmd.ExtraFiles = append(g.cmd.ExtraFiles, own.file)
	}
	// A signal to the caller's group or terminal must not end the guard.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := g.cmd.Start(); err != nil {
		life.w.Close()
		return nil, fmt.Errorf("cannot guard the command: %w", err)
	}
	return g, nil
}

// end ends the guest if it still lives, and waits for the guard.
func (g *guard) end() {
	g.life.Close()
	_ = g.cmd.Wait()
}
