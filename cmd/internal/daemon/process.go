package daemon

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// followProcess takes a guest away as soon as its process ends. Where the kernel has no pidfd that can be waited for (before
// Linux 5.10) the sweep sees to it.
func (d *Daemon) followProcess(g *guest) {
	if g.record.Spec.Pid == 0 {
		return
	}
	fd, err := unix.PidfdOpen(g.record.Spec.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	raw, err := f.SyscallConn()
	if err != nil || ended(g.record) { // the number is another's already
		f.Close()
		return
	}
	g.process = f
	go func() {
		if raw.Read(hasEnded) == nil && !d.isClosing() { // else the next worker sees to it
			d.take(g, api.EventGone, processEnded)
		}
	}()
}

// unfollow is called with mu held.
func (g *guest) unfollow() {
	if g.process != nil {
		g.process.Close()
	}
}

const processEnded = "its process ended"

// hasEnded says whether the process of a pidfd has ended: then it can be read from (pidfd_poll).
func hasEnded(fd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// ended says whether the process of a guest has ended: its number is nobody's, another's, or a zombie's.
func ended(r record) bool {
	start, err := host.StartOf(r.Spec.Pid)
	return err != nil || start != r.PidStart
}
