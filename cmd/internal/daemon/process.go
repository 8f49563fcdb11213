package daemon

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// followProcess removes a guest as soon as its process ends. Before Linux 5.10, without PIDFD_NONBLOCK, the sweep
// notices instead.
func (x *removing) followProcess(g *guest) {
	if g.record.Spec.Pid == 0 {
		return
	}
	fd, err := unix.PidfdOpen(g.record.Spec.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	raw, err := f.SyscallConn()
	// The number is another process's already.
	if err != nil || ended(g.record) {
		f.Close()
		return
	}
	g.process = f
	go func() {
		if raw.Read(hasEnded) == nil {
			x.processEnded(g)
		}
	}()
}

// processEnded removes a guest whose process has ended, unless the next worker will.
func (x *removing) processEnded(g *guest) {
	if !x.table.isClosing() {
		x.remove(g, api.EventGone, processEnded)
	}
}

// unfollow stops following the process. Called with mu held.
func (g *guest) unfollow() {
	if g.process != nil {
		g.process.Close()
	}
}

const processEnded = "its process ended"

// hasEnded reports that the process of a pidfd has ended, which makes the pidfd readable (pidfd_poll).
func hasEnded(fd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// ended reports that a guest's process has ended: its number is free, reused or a zombie's.
func ended(r record) bool {
	start, err := host.StartOf(r.Spec.Pid)
	return err != nil || start != r.PidStart
}
