package run

import (
	"context"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// forwarded are the signals that are passed on to the command.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGWINCH,
	unix.SIGCONT,
}

// ends are those of them whose default action ends a process.
var ends = map[os.Signal]bool{
	unix.SIGHUP: true, unix.SIGINT: true, unix.SIGQUIT: true, unix.SIGTERM: true, unix.SIGUSR1: true, unix.SIGUSR2: true,
	unix.SIGALRM: true,
}

// forwarder passes signals on to the command.
type forwarder struct {
	pid     int
	seat    *seat // of the command; may be nil
	log     *logrus.Entry
	endedBy atomic.Int32 // the signal that a SIGKILL to the command replaced, 0 for none
}

// run passes signals on until ctx is done. The command is the first process of its pid namespace, to which the kernel
// delivers only handled signals (sig_task_ignored). For any other that would have ended it, run kills it.
func (f *forwarder) run(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			if f.seat != nil && stops[s] {
				if !handles(f.pid, s.(syscall.Signal)) {
					f.seat.stop()
				}
				continue
			}
			if err := f.deliver(s.(syscall.Signal)); err != nil {
				f.log.WithError(err).Debugf("cannot pass signal %v on", s)
			}
		}
	}
}

func (f *forwarder) deliver(s syscall.Signal) error {
	if ends[s] && !handles(f.pid, s) {
		f.endedBy.CompareAndSwap(0, int32(s))
		return unix.Kill(f.pid, unix.SIGKILL)
	}
	if (s == unix.SIGINT || s == unix.SIGQUIT) && (f.seat != nil || foreground()) {
		// The terminal has sent it to the command too.
		return nil
	}
	return unix.Kill(f.pid, s)
}

// foreground reports that this process is in the foreground of a terminal, whose keys signal all of its group.
func foreground() bool {
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// handles reports that a process catches or ignores a signal.
func handles(pid int, s syscall.Signal) bool {
	for _, key := range []string{"SigCgt:", "SigIgn:"} {
		if mask, err := host.StatusMask(pid, key); err != nil || mask&(1<<(s-1)) != 0 {
			return true
		}
	}
	return false
}
