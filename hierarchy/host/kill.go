package host

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// killPatience is the time for processes to exit: on a host with some hundred tasks per processor it takes seconds.
const killPatience = 5 * time.Second

// Kill kills every process at and below the cgroup at a path, also frozen ones, except the caller's. On v1 it waits
// for their exit. Not an error if there is no such cgroup; EBUSY if new processes appear as fast as they are killed,
// or some remain after killPatience.
func (hier *Hierarchy) Kill(dir string) error {
	fd, err := hier.open(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return pathError("kill", dir, hier.killAll(fd))
}

// Kill is Hierarchy.Kill at and below the boundary. ENODEV when the boundary is closed.
func (b *Boundary) Kill() error {
	root, err := b.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	return pathError("kill", b.Path(), b.hier.killAll(root.fd))
}

// killAll kills the processes at and below a directory. cgroup.kill (Linux 5.14) kills all at once, the caller
// included.
func (hier *Hierarchy) killAll(dir int) error {
	if hier.Version == hierarchy.V2 && !hier.holdsCaller(dir) && writeBelow(dir, "cgroup.kill", []byte("1")) == nil {
		return nil
	}
	wait := time.Millisecond
	// Repeatedly: processes may fork while they are read.
	for until := time.Now().Add(killPatience); ; wait = min(2*wait, 50*time.Millisecond) {
		n, err := hier.killBelow(dir)
		if err != nil || n == 0 {
			return err
		}
		if time.Now().After(until) {
			return unix.EBUSY
		}
		time.Sleep(wait)
	}
}

// holdsCaller reports that the calling process is at or below a directory, or that this is unknown.
func (hier *Hierarchy) holdsCaller(dir int) bool {
	here, err := relative(hier.root, dir)
	if err != nil {
		return true
	}
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return true
	}
	at, ok := membershipOf(raw, hier.Hierarchy)
	if !ok {
		return true
	}
	_, below := pathBelow("/"+here, at)
	return below
}

// killBelow kills the processes at and below a directory, and returns their number.
func (hier *Hierarchy) killBelow(dir int) (int, error) {
	raw, err := readBelow(dir, "cgroup.procs")
	// Threaded: its processes belong to the domain above.
	if errors.Is(err, unix.EOPNOTSUPP) {
		raw, err = nil, nil
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(string(raw)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || pid <= 0 || pid == os.Getpid() {
			continue
		}
		if hier.kill(dir, pid) {
			n++
		}
	}
	if hier.Holds("freezer") {
		// A frozen v1 task does not see the signal.
		writeBelow(dir, "freezer.state", []byte("THAWED"))
	}
	entries, err := listFD(dir)
	if err != nil {
		return n, err
	}
	for _, e := range entries {
		if !e.IsDir {
			continue
		}
		child, err := openBelow(dir, e.Name, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		more, err := hier.killBelow(child)
		unix.Close(child)
		if err != nil {
			return n, err
		}
		n += more
	}
	return n, nil
}

// kill kills a process in a directory's cgroup. The number may have been reused since it was read, so kill holds the
// task and checks it again.
func (hier *Hierarchy) kill(dir, pid int) bool {
	task, err := holdTask(pid, false)
	if err != nil {
		return false
	}
	defer task.Close()
	raw, err := readAt(task.proc, "cgroup")
	if err != nil {
		return false
	}
	at, ok := membershipOf(raw, hier.Hierarchy)
	here, err := relative(hier.root, dir)
	if !ok || err != nil || strings.Trim(at, "/") != here {
		return false
	}
	if task.pidfd >= 0 {
		return unix.PidfdSendSignal(task.pidfd, unix.SIGKILL, nil, 0) == nil
	}
	return unix.Kill(pid, unix.SIGKILL) == nil
}
