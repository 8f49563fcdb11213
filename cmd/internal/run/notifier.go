package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/logs"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// SupervisorCommand is the argument that makes this program answer the calls of a guest's filter. It is not for users.
const SupervisorCommand = "guest-supervisor"

// Descriptors of a supervisor.
const (
	supervisorListener = 3
	supervisorArena    = 4
	supervisorRoot     = 5
	supervisorMounts   = 6
)

// supervisorStuck is a supervisor's exit status if a file system of the guest's own keeps one of its threads: another
// supervisor goes on.
const supervisorStuck = 75

// supervisorSetup configures a supervisor.
type supervisorSetup struct {
	Inside bool // the process is one of the guest's; the fields of the view are not set then
	Stay   bool // do not end for threads that are kept
	Level  logrus.Level
	JSON   bool // the log's format

	Device  uint64
	Several bool
	Parts   []notify.Part
	Mounts  bool // answers mount: there is a supervisorMounts
	Proc    bool // answers opens in /proc
}

// Supervise answers the calls of a guest until its last process has ended, and returns the exit status. It is a process
// of its own: it looks paths up in the view, and a process that waits for an answer of its own view cannot be killed.
func Supervise() int {
	ignoreSignals()
	logs.ToStderr(0)
	var s supervisorSetup
	err := json.NewDecoder(os.Stdin).Decode(&s)
	var slots []*notify.Request
	if err == nil {
		slots, err = notify.MapArena(os.NewFile(supervisorArena, "requests"))
	}
	var listener *os.File
	if err == nil {
		listener, err = notify.NewListener(supervisorListener)
	}
	if err == nil {
		logrus.SetLevel(s.Level)
		logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true})
		if s.JSON {
			logrus.SetFormatter(&logrus.JSONFormatter{})
		}
		x := notify.Supervisor{Guest: &notify.Own{}, Inside: s.Inside, Log: logrus.NewEntry(logrus.StandardLogger())}
		if !s.Stay {
			x.Stuck = endStuck
		}
		if !s.Inside {
			v := &notify.View{Root: supervisorRoot, Mounts: -1, Device: s.Device, Several: s.Several, Parts: s.Parts}
			if s.Mounts {
				v.Mounts = supervisorMounts
			}
			if x.Guest = v; s.Proc {
				x.Proc = v
			}
		}
		err = x.Serve(listener, slots)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "vcgroupfs: cannot answer the guest's calls: %v\n", err)
		return 1
	}
	return 0
}

// endStuck ends a supervisor. The process may linger: a request that the guest's file system has read, and does not
// answer, keeps even a killed thread (request_wait_answer, fs/fuse/dev.c). So endStuck first reports by standard output
// that the supervisor is finished.
func endStuck() {
	os.Stdout.Write([]byte{0})
	os.Exit(supervisorStuck)
}

// ignoreSignals keeps the process that answers a guest's calls alive when all processes are told to end.
func ignoreSignals() { signal.Ignore(forwarded...) }

// notifier has the calls of a guest's filter answered by a Supervise. It starts one at the first call, and another one
// if that ends before the guest.
type notifier struct {
	listener *os.File
	root     *os.File // of the view; nil with setup.Inside
	kept     *shelter // a namespace with a mount of the view; nil if no mounts are made
	setup    supervisorSetup
	log      *logrus.Entry
	done     chan struct{}

	started int          // supervisors so far; of the goroutine of run
	left    atomic.Int32 // stuck supervisors that have not ended
	mu      sync.Mutex
	process *os.Process // guarded by mu; the present supervisor, nil for none
	closed  bool        // guarded by mu
}

// Bounds on the restarts of a supervisor; beyond them the kernel gets the calls.
const (
	maxRestarts = 5
	restartTime = 10 * time.Second
)

// endTime is the wait for a stuck supervisor to end; maxLeft bounds the stuck ones. The last one then stays.
const (
	endTime = time.Second
	maxLeft = 4
)

// maxProc is the number of supervisors that answer opens in /proc, one after the other. Later ones pass them on.
const maxProc = 8

// partsOf returns the hierarchies of a guest's view, with the controllers that the guest may see. of are all of the
// host's.
func partsOf(
	of, shown []hierarchy.Hierarchy, layout hierarchy.Layout, p *policy.Policy, boundary string,
) (parts []notify.Part) {
	for _, t := range shown {
		all := layout.Shown(t, shown, p.Controllers())
		hierarchy.Number(all, of)
		for _, one := range all {
			parts = append(parts, notify.PartOf(one, t, boundary, p.Permits))
		}
	}
	return parts
}

// listen receives the listener of the guest's filter, and starts. errNoListener if the guest has none.
func (n *notifier) listen(socket *os.File) error {
	listener, err := receiveListener(socket)
	if err != nil {
		return err
	}
	return n.start(listener)
}

// start waits for the guest's calls and has them answered. It owns the listener from then on.
func (n *notifier) start(listener int) error {
	var err error
	if n.listener, err = notify.NewListener(listener); err != nil {
		unix.Close(listener)
		return err
	}
	arena, err := notify.NewArena((&notify.Supervisor{}).Slots())
	if err != nil {
		n.listener.Close()
		return err
	}
	slots, err := notify.MapArena(arena)
	if err != nil {
		arena.Close()
		n.listener.Close()
		return err
	}
	n.done = make(chan struct{})
	go func() {
		defer close(n.done)
		defer arena.Close()
		// The supervisor dies with this thread (PR_SET_PDEATHSIG).
		runtime.LockOSThread()
		n.run(arena, slots)
	}()
	return nil
}

// close ends the notifier. If the guest still runs, its calls fail with ENOSYS.
func (n *notifier) close() {
	defer n.kept.close()
	if n.done == nil {
		return
	}
	n.mu.Lock()
	n.closed = true
	if n.process != nil {
		n.process.Kill()
	}
	n.mu.Unlock()
	n.listener.Close()
	select {
	case <-n.done:
	case <-time.After(endTime):
		// A file system with a server outside of the guest keeps the supervisor.
	}
}

func (n *notifier) run(arena *os.File, slots []*notify.Request) {
	var failed []time.Time
	for {
		// A pending request, received and not answered by a dead supervisor, is no call to wait for.
		if !notify.Pending(slots) {
			if more, err := notify.Await(n.listener); err != nil || !more {
				return
			}
		}
		err := n.supervise(arena)
		if err == nil || n.isClosed() {
			return
		}
		var exit *exec.ExitError
		if err == errLeft || errors.As(err, &exit) && exit.ExitCode() == supervisorStuck {
			continue
		}
		now := time.Now()
		failed = append(failed, now)
		n.log.WithError(err).Debug("the process that answers the guest's calls has ended")
		if len(failed) > maxRestarts && now.Sub(failed[len(failed)-1-maxRestarts]) < restartTime {
			break
		}
	}
	n.log.Warn("the process that answers the guest's calls keeps ending: the kernel answers them")
	_ = notify.PassOn(n.listener, slots)
}

func (n *notifier) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// supervise starts the process and waits for its end.
func (n *notifier) supervise(arena *os.File) error {
	setup := n.setup
	setup.Stay = n.left.Load() >= maxLeft
	// Each supervisor bounds the files that the guest keeps of it.
	if n.started++; n.started > maxProc {
		setup.Proc = false
	}
	_, setup.JSON = logrus.StandardLogger().Formatter.(*logrus.JSONFormatter)
	said, err := json.Marshal(setup)
	if err != nil {
		return err
	}
	stuck, says, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", SupervisorCommand)
	cmd.Args[0] = "vcgroupfs"
	if n.setup.Inside {
		cmd.Args[0] = keeperName
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(said), says, os.Stderr
	cmd.ExtraFiles = []*os.File{n.listener, arena}
	if n.root != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, n.root)
	}
	if n.kept != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, n.kept.ns)
	}
	// In a group of its own, which no key of a terminal signals.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err = n.begin(cmd)
	says.Close()
	if err != nil {
		stuck.Close()
		return err
	}
	err = n.await(cmd, stuck)
	n.mu.Lock()
	n.process = nil
	n.mu.Unlock()
	return err
}

// begin starts a supervisor. os.ErrClosed after close.
func (n *notifier) begin(cmd *exec.Cmd) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return os.ErrClosed
	}
	err := cmd.Start()
	if err == nil {
		n.process = cmd.Process
	}
	return err
}

// errLeft reports a supervisor that is finished, and has not ended.
var errLeft = errors.New("it is kept by a file system of the guest's own")

// await waits for a supervisor's end, or for errLeft after its report that it is stuck. It closes the report's pipe.
func (n *notifier) await(cmd *exec.Cmd, stuck *os.File) error {
	ended, said := make(chan error, 1), make(chan struct{})
	go func() { ended <- cmd.Wait() }()
	go func() {
		defer stuck.Close()
		if got, _ := stuck.Read(make([]byte, 1)); got == 1 {
			close(said)
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-said:
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(endTime):
	}
	n.left.Add(1)
	go func() {
		<-ended
		n.left.Add(-1)
	}()
	return errLeft
}

// sendListener sends a descriptor by a socket.
func sendListener(socket, listener int) error {
	return os.NewSyscallError("sendmsg", unix.Sendmsg(socket, []byte{0}, unix.UnixRights(listener), nil, 0))
}

// receiveListener receives the descriptor of sendListener. errNoListener if the other side has ended without sending;
// errLostListener if the descriptor did not arrive.
func receiveListener(socket *os.File) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return -1, errNoListener
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, errLostListener
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errLostListener
	}
	return fds[0], nil
}

var (
	errNoListener = errors.New("the guest's filter has no listener")
	// The kernel drops a descriptor for which there is no room (scm_detach_fds).
	errLostListener = errors.New(
		"cannot take the listener of the guest's filter: this process may have no more descriptors (ulimit -n)")
)

// socketPair returns two ends of a socket that are closed on exec.
func socketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}
