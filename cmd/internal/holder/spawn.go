package holder

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// process is the running side of a child. The supervisor has its phase.
type process struct {
	id     int
	cmd    *exec.Cmd
	link   *link
	handle func(*process, message) // called by the deciding goroutine

	reaped   atomic.Bool
	lifeline atomic.Pointer[state.Lifeline] // waited for; nil while none is
	closed   chan struct{}                  // closed when the link is, and everything sent over it was read
}

// self is this program, also after its file was replaced.
const self = "/proc/self/exe"

func (p *process) kill() { _ = p.cmd.Process.Kill() }

// spawnChild spawns the child of an action, and returns the outcome as an event.
func (h *Holder) spawnChild(a action) []event {
	spawn := h.spawnWorker
	if a.verb == spawnAnswerer {
		spawn = h.spawnAnswerer
	}
	p, err := spawn(a)
	if err != nil {
		return []event{{kind: spawnFailed, child: a.child, text: err.Error()}}
	}
	return []event{{kind: childSpawned, child: a.child, pid: p.cmd.Process.Pid}}
}

// spawnWorker spawns a worker of a program, whose file it opens if the action names it.
func (h *Holder) spawnWorker(a action) (*process, error) {
	if a.text != "" {
		file, err := os.Open(a.text)
		if err != nil {
			return nil, err
		}
		h.programs[a.program] = file
	}
	files := []*os.File{h.arena.File(), h.socket, h.lock} // workerArena, workerSocket, workerLock
	env := os.Environ()
	if h.metrics != nil {
		files = append(files, h.metrics) // workerMetrics
		env = append(env, metricsVariable+"=1")
	}
	return h.spawn(a, &process{handle: h.handleWorkerMessage}, WorkerCommand, files, env)
}

// spawnAnswerer spawns an answerer. The holder hears at once when it dies from then on.
func (h *Holder) spawnAnswerer(a action) (*process, error) {
	files := []*os.File{h.arena.File(), h.calls.File(), h.notify.oci, h.notify.lxc} // answererArena to answererLXC
	h.calls.Life().Renew()
	p, err := h.spawn(a, &process{handle: h.handleAnswererMessage}, AnswererCommand, files, os.Environ())
	if err == nil {
		go h.watchLifeline(p, h.calls.Life())
	}
	return p, err
}

// spawn starts a process with one end of a new link and the files.
func (h *Holder) spawn(a action, p *process, command string, files []*os.File, env []string) (*process, error) {
	mine, theirs, err := newLinks()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	path := self
	if f := h.programs[a.program]; f != nil {
		path = "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) // execve finds it before it closes descriptors
	}
	p.id, p.link, p.closed = a.child, mine, make(chan struct{})
	p.cmd = exec.Command(path, command)
	p.cmd.Args[0] = "vcgroupfs"
	p.cmd.Stderr = os.Stderr
	p.cmd.Env = env
	p.cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	// A process group of its own: a terminal's ^C goes to the holder alone, which ends its children in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		mine.close()
		return nil, err
	}
	h.processes[p.id] = p
	go h.receive(p)
	go h.reap(p)
	return p, nil
}

// receive posts each message of a process, to the last one that it sent before it died.
func (h *Holder) receive(p *process) {
	defer close(p.closed)
	buf, oob := receiveBuffers()
	for {
		m, err := p.link.receive(buf, oob)
		if err != nil {
			h.post(func() { h.handle(event{kind: linkClosed, child: p.id}) })
			return
		}
		h.post(func() { p.handle(p, m) })
	}
}

// reap posts the exit of a process, after everything that it sent.
func (h *Holder) reap(p *process) {
	_ = p.cmd.Wait() // its error repeats the status
	p.reaped.Store(true)
	for l := p.lifeline.Load(); l != nil; l = p.lifeline.Load() {
		l.Wake()
		time.Sleep(time.Millisecond)
	}
	<-p.closed
	h.post(func() {
		e := event{kind: childExited, child: p.id, text: "an unknown status", exit: exitedByItself}
		if p.cmd.ProcessState != nil {
			e.text, e.exit = outcome(p.cmd.ProcessState.Sys().(syscall.WaitStatus))
		}
		h.handle(e)
		p.link.close()
		delete(h.processes, p.id)
	})
}

// watchLifeline posts that a process is dead, which is before it is reaped if a thread of it waits in the kernel.
func (h *Holder) watchLifeline(p *process, l *state.Lifeline) {
	p.lifeline.Store(l)
	broken := l.Severed(p.reaped.Load)
	p.lifeline.Store(nil)
	if !broken {
		return
	}
	e := event{kind: lifelineBroke, child: p.id, text: "an unknown status", exit: exitedKilled}
	// The exit code of a thread is set before its lifeline breaks (do_exit of kernel/exit.c).
	if status, err := host.ExitStatus(p.cmd.Process.Pid); err == nil {
		e.text, e.exit = outcome(status)
	}
	h.post(func() { h.handle(e) })
}

// outcome says how a process exited.
func outcome(status syscall.WaitStatus) (string, exit) {
	switch {
	case !status.Signaled() && status.ExitStatus() == 0:
		return "status 0", exitedZero
	case !status.Signaled():
		return fmt.Sprintf("exit status %d", status.ExitStatus()), exitedByItself
	}
	text := "signal: " + status.Signal().String()
	switch status.Signal() {
	case unix.SIGKILL, unix.SIGTERM, unix.SIGINT:
		return text, exitedKilled
	}
	return text, exitedByItself
}

// awaitRuntime posts that a runtime has connected to a socket for listeners.
func (h *Holder) awaitRuntime() {
	if h.notify.oci == nil || h.notify.lxc == nil || h.supervisor.wanted {
		return
	}
	var fds []unix.PollFd
	for _, f := range []*os.File{h.notify.oci, h.notify.lxc} {
		fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
	}
	go func() {
		for {
			if n, err := unix.Poll(fds, -1); n > 0 || err != nil && err != unix.EINTR {
				break
			}
		}
		h.post(func() { h.handle(event{kind: runtimeCame}) })
	}()
}
