// Package holder keeps guests alive over the death of whoever serves them.
//
// # Words
//
// The holder is what "vcgroupfs serve" starts as: a small process that serves nothing. The worker is its child and serves
// every guest. The holder keeps what the kernel would otherwise end with the worker: each guest's connection (/dev/fuse),
// host descriptors that cannot be opened again with what they know, the listening socket, and the arena (package state). The
// answerer is another child, which answers system calls of containers (answerer.go); it has what is needed for that kept, too.
//
// # What always holds
//
//   - The holder touches no guest's request, no view and no cgroup, so nothing that a guest does can stop it.
//   - What a worker has sent is kept, also when it died right after.
//   - There is one worker that serves. A worker that dies, or whose heartbeat stops, is replaced at once. During an upgrade
//     a second one is prepared, and serves when the first has ended.
//   - If no worker comes back within Config.GiveUp, the holder ends the guests' connections: their callers get
//     ECONNABORTED, and nobody waits for ever.
//
// One goroutine decides (run); the others only tell it.
package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// Config is what a holder is told. Guests' numbers bound the arena, which every worker shares.
type Config struct {
	Socket   string          // path of the control socket
	Group    int             // gid whose members may connect to it, -1 for none
	Metrics  string          // loopback address on which metrics are served, "" for none
	Notify   string          // path of the socket for listeners, "" for none
	Regions  int             // of the arena, one for each view
	Handles  int             // of a region, one for each open file or directory
	Watchdog time.Duration   // after which a worker whose heartbeat stopped is killed
	GiveUp   time.Duration   // how long guests wait for a worker
	Program  string          // path of the file that an upgrade starts when it names none
	NoBPF    bool            // BPF does not answer statfs of views
	Settings json.RawMessage // of worker and answerer; passed on, never decoded
}

// Holder is the process that keeps things. Make it with New, then Run.
type Holder struct {
	config    Config
	log       *logrus.Entry
	arena     *state.Arena
	socket    *os.File
	metrics   *os.File // nil for none
	manager   manager  // systemd
	since     time.Time
	program   *os.File // what a worker is started from; nil for this program
	previous  *os.File // the same before an upgrade that is not through yet
	lock      *os.File
	kept      map[int]map[uint64]int
	programs  *fstype.Programs // that answer statfs of views; nil for none
	types     Types
	keptTypes map[string]int    // programs that the service manager kept, until they are taken over
	loading   bool              // programs are being loaded
	words     map[uint64]string // about the listeners that are kept, by key

	notify         notifySockets
	calls          *state.Calls // nil where there is no socket
	answerer       *answerer    // nil while there is none
	answererDeaths int          // of those in a row that did not serve
	left           bool         // the answerer goes on without us

	events   chan event
	ready    func()  // what to do when guests are served for the first time; nil when that is done
	current  *worker // that serves or is to; nil while there is none
	next     *worker // prepared by an upgrade; nil for none
	upgrade  string  // its program
	restarts uint64
	dying    []int     // pids of workers that are dead but for threads in the kernel
	deaths   int       // workers in a row that died before they served
	died     time.Time // when the last one stopped serving; zero while one serves
	reason   string    // why
	crashed  bool
	stopping bool
	beat     uint64    // the heartbeat when it was last looked at
	beatAt   time.Time // when it last changed
}

// worker is a process that serves, or will.
type worker struct {
	cmd      *exec.Cmd
	link     *link
	file     *os.File // of the program that an upgrade goes on with, until it serves
	prepared bool
	started  bool
	ready    bool
	draining bool
	over     atomic.Bool // nobody waits for its death any more
	lingers  bool        // it is dead but for threads that wait in the kernel
	ended    bool        // the process
	closed   bool        // the link, and everything sent over it was read
	err      error       // of Wait
}

// event is something that the deciding goroutine is told.
type event struct {
	worker *worker
	what   int
	msg    message
	err    error

	programs *fstype.Programs // of typesLoaded
	do       func()           // instead of all else
}

const (
	workerSaid = iota
	workerClosed
	workerEnded
	workerLate    // to be prepared
	workerDying   // its first thread has ended
	workerLingers // and the last has not, some time later
	typesLoaded   // or err
)

// self is this program, also after its file was replaced.
const self = "/proc/self/exe"

// New makes what the workers share. A socket on which somebody listens is an error; one that a dead daemon left is replaced.
func New(config Config, log *logrus.Entry) (h *Holder, err error) {
	raiseLimits()
	h = &Holder{config: config, log: log, since: time.Now(), kept: map[int]map[uint64]int{}, words: map[uint64]string{},
		events: make(chan event, 64), keptTypes: map[string]int{}}
	h.manager = findManager(log, func() {
		time.AfterFunc(managerRetry, func() { h.events <- event{do: h.manager.retry} })
	})
	if err := h.takeOver(); err != nil {
		return nil, err
	}
	if h.arena == nil {
		if h.arena, err = state.New(config.Regions, config.Handles); err != nil {
			return nil, err
		}
		h.manager.store("arena", h.arena.File())
	}
	if h.lock, err = lock(config.Socket); err != nil {
		return nil, err
	}
	made := h
	defer func() {
		if err != nil {
			made.removeSocket()
		}
	}()
	if h.socket, err = listen(config.Socket, config.Group); err != nil {
		return nil, err
	}
	if err = h.listenForListeners(); err != nil {
		return nil, err
	}
	if config.Metrics != "" {
		if h.metrics, err = listenLoopback(config.Metrics); err != nil {
			return nil, err
		}
	}
	h.loadTypes()
	return h, nil
}

// maxFiles is how many descriptors holder and worker may have: the kernel's own bound on what anybody may ask for
// (fs.nr_open) unless somebody changed that.
const maxFiles = 1 << 20

// raiseLimits lets this process and the workers have many descriptors. Where it may not, it goes on with fewer.
func raiseLimits() {
	limit := syscall.Rlimit{Cur: maxFiles, Max: maxFiles}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		return
	}
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

// takeOver takes what the service manager kept for a holder before this one.
func (h *Holder) takeOver() error {
	for name, fd := range h.manager.kept() {
		region, isDevice := strings.CutPrefix(name, deviceName)
		n, err := strconv.Atoi(region)
		switch {
		case name == "arena":
			if h.arena, err = state.Map(os.NewFile(uintptr(fd), "arena")); err != nil {
				return err
			}
			h.died, h.reason = time.Now(), "the holder was replaced"
		case isDevice && err == nil:
			h.keep(item{n, DeviceKey}, fd)
		case fstype.IsKept(name):
			h.keptTypes[name] = fd
		case name == "calls":
			if h.calls, err = state.MapCalls(os.NewFile(uintptr(fd), "calls")); err != nil {
				h.log.WithError(err).Error("calls that wait for an answer wait for ever")
			}
		case h.takeListener(name, fd):
		default:
			unix.Close(fd)
		}
	}
	if h.arena == nil && len(h.kept) > 0 { // connections without what is known of them
		h.log.Warn("the service manager kept guests' connections, but not what is known of them: they end")
		h.abort()
	}
	return nil
}

// Run starts a worker, and another for each that dies, until SIGTERM or SIGINT ends all. It calls ready, which must not wait, when the
// first one serves. The error says why it gave up.
func (h *Holder) Run(ready func()) error {
	h.ready = ready
	defer h.removeSocket()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	tick := time.NewTicker(max(h.config.Watchdog/8, 10*time.Millisecond))
	defer tick.Stop()
	if h.died.IsZero() {
		h.died = time.Now()
	}
	h.begin()
	h.awaitRuntime()
	for {
		select {
		case e := <-h.events:
			h.handle(e)
		case s := <-signals:
			h.signalled(s)
		case <-tick.C:
			h.look()
		}
		if h.stopping && h.current == nil && h.next == nil {
			h.endViews()
			h.endTypes()
			return nil
		}
		if h.givenUp() {
			h.abandon()
			return fmt.Errorf("cannot keep a worker alive: the last one ended with %s; the guests' connections are ended", h.reason)
		}
		if h.current == nil && !h.stopping && h.died.Add(h.pause()).Before(time.Now()) {
			h.begin()
		}
	}
}

// removeSocket takes away what lock and listen made. The lock is still held, so nobody else's goes.
func (h *Holder) removeSocket() {
	h.removeNotify()
	os.Remove(h.config.Socket)
	os.Remove(h.config.Socket + ".lock")
}

// pause is how long to wait before another worker is started: not at all, unless workers die before they serve.
func (h *Holder) pause() time.Duration {
	if h.deaths == 0 {
		return 0
	}
	return min(time.Duration(h.deaths)*20*time.Millisecond, time.Second)
}

// begin starts the worker that is to serve.
func (h *Holder) begin() {
	w, err := h.spawn(h.program)
	if err != nil {
		h.deaths++
		h.reason = err.Error()
		h.log.WithError(err).Error("cannot start a worker")
		time.AfterFunc(h.pause(), func() { h.events <- event{} })
		return
	}
	h.current = w
	h.beat, h.beatAt = h.arena.Heartbeat(), time.Now()
}

// spawn starts a worker.
func (h *Holder) spawn(program *os.File) (*worker, error) {
	mine, theirs, err := newLinks()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	w := &worker{link: mine}
	path := self
	if program != nil {
		path = "/proc/self/fd/" + strconv.Itoa(int(program.Fd())) // found before descriptors are closed
	}
	w.cmd = exec.Command(path, WorkerCommand)
	w.cmd.Args[0] = "vcgroupfs"
	w.cmd.Stderr = os.Stderr
	w.cmd.Env = os.Environ()
	w.cmd.ExtraFiles = []*os.File{theirs, h.arena.File(), h.socket, h.lock} // workerLink, workerArena, workerSocket, workerLock
	if h.metrics != nil {
		w.cmd.ExtraFiles = append(w.cmd.ExtraFiles, h.metrics)
		w.cmd.Env = append(w.cmd.Env, metricsVariable+"=1")
	}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is for the holder, who stops the worker in order
	if err := w.cmd.Start(); err != nil {
		mine.close()
		return nil, err
	}
	go h.listenTo(w)
	go func() {
		err := w.cmd.Wait()
		h.events <- event{worker: w, what: workerEnded, err: err}
	}()
	return w, nil
}

// listenTo passes on what a worker says, to the last word that it said before it died.
func (h *Holder) listenTo(w *worker) {
	buf, oob := room()
	for {
		m, err := w.link.receive(buf, oob)
		if err != nil {
			h.events <- event{worker: w, what: workerClosed}
			return
		}
		h.events <- event{worker: w, what: workerSaid, msg: m}
	}
}

func (h *Holder) handle(e event) {
	w := e.worker
	if e.what == typesLoaded && w == nil && (e.programs != nil || e.err != nil) {
		h.typesAre(e.programs, e.err)
		return
	}
	if e.do != nil {
		e.do()
	}
	if w == nil {
		return
	}
	switch e.what {
	case workerSaid:
		h.said(w, e.msg)
		return
	case workerLate:
		if w == h.next && !w.prepared {
			w.cmd.Process.Kill()
		}
		return
	case workerDying:
		time.AfterFunc(lingerWait, func() { h.events <- event{worker: w, what: workerLingers} })
		return
	case workerLingers:
		if w == h.current && !(w.ended && w.closed) {
			w.lingers = true
			h.dying = append(h.dying, w.cmd.Process.Pid)
			h.log.Warnf("the worker (process %d) is dead, but for a thread that waits in the kernel", w.cmd.Process.Pid)
			h.gone(w)
		}
		return
	case workerClosed:
		w.closed = true
		if !w.ended && !w.draining {
			w.cmd.Process.Kill() // it serves guests whom nobody would keep
		}
	case workerEnded:
		w.ended, w.err = true, e.err
		h.dying = slices.DeleteFunc(h.dying, func(pid int) bool { return pid == w.cmd.Process.Pid })
		w.over.Store(true)
	}
	if w.ended && w.closed {
		w.link.close()
		h.gone(w)
	}
}

func (h *Holder) said(w *worker, m message) {
	switch m.kind {
	case msgHold:
		for i, fd := range m.fds {
			h.keep(m.items[i], fd)
		}
	case msgDrop:
		for _, i := range m.items {
			h.drop(i)
		}
	case msgForget:
		for _, i := range m.items {
			h.forget(i.region)
		}
	case msgPrepared:
		w.prepared = true
		h.advance()
	case msgReady:
		w.ready = true
		h.served(w)
	case msgUpgrade:
		h.beginUpgrade(string(m.text))
	case msgShow:
		h.show(w, m)
	default: // of a later version
		closeAll(m.fds)
	}
}

// advance starts a prepared worker when it is its turn, and has the old one drained when the next is prepared.
func (h *Holder) advance() {
	if w := h.current; w != nil && w.prepared && !w.started && !h.loading {
		if err := h.start(w); err != nil {
			h.log.WithError(err).Error("cannot tell a worker to start")
			w.cmd.Process.Kill()
		}
	}
	if w := h.next; w != nil && w.prepared && h.current != nil && !h.current.draining {
		h.drain()
	}
}

// start gives a worker what is kept.
func (h *Holder) start(w *worker) error {
	w.started = true
	h.beatAt = time.Now()
	h.arena.Worker().Renew()
	go func() {
		if h.arena.Worker().Severed(w.over.Load) {
			h.events <- event{worker: w, what: workerDying}
		}
	}()
	var items []item
	var fds []int
	for region, of := range h.kept {
		if region == ListenersRegion {
			continue // the answerer's
		}
		for key, fd := range of {
			items, fds = append(items, item{region, key}), append(fds, fd)
		}
	}
	if err := w.link.sendHeld(items, fds); err != nil {
		return err
	}
	text, err := json.Marshal(Start{
		Settings: h.config.Settings, Holder: os.Getpid(), Since: h.since, Restarts: h.restarts, Reason: h.reason, Crashed: h.crashed, Died: h.died,
		Types: &h.types, Dying: h.dying,
	})
	if err != nil {
		return err
	}
	return w.link.send(message{kind: msgStart, text: text})
}

// served is told that a worker serves.
func (h *Holder) served(w *worker) {
	if w != h.current {
		return
	}
	h.deaths, h.died, h.crashed = 0, time.Time{}, false
	h.manager.ready()
	if h.ready != nil {
		h.ready()
		h.ready = nil
	}
	if h.upgrade != "" {
		h.log.Infof("the worker of %s serves (process %d)", h.upgrade, w.cmd.Process.Pid)
		h.upgrade = ""
		if h.previous != nil {
			h.previous.Close()
			h.previous = nil
		}
		h.renewAnswerer()
	}
}

// lingerWait is how long a dead worker may take to be gone. Longer, and one of its threads may wait for what only the next
// worker can do, so that one starts. The thread may also still be in a call of the host's, on a busy machine: the next worker
// makes no change that was begun before until the dead one is gone (Start.Dying).
const lingerWait = 30 * time.Millisecond

// gone is told that a worker has ended and everything it said was heard.
func (h *Holder) gone(w *worker) {
	switch w {
	case h.next:
		h.next = nil
		h.refuseUpgrade(fmt.Sprintf("cannot go on with %s: its worker ended with %s before it was prepared; the old one stays", h.upgrade, outcome(w)))
		closeFile(w)
		return
	case h.current:
	default:
		return
	}
	h.current = nil
	if h.died.IsZero() {
		h.died = time.Now()
	}
	if h.stopping {
		if w.err != nil {
			h.log.Errorf("the worker (process %d) ended with %s while it was to take the guests away", w.cmd.Process.Pid, outcome(w))
		}
		return
	}
	if w.draining && h.next != nil {
		h.takeNext(w)
		return
	}
	h.reason = outcome(w)
	if !w.ready {
		h.deaths++
		if h.upgrade != "" { // the new program cannot do it: back to the one before
			h.back()
		}
	}
	h.restarts++
	h.crashed = !killed(w)
	h.log.Warnf("the worker (process %d) ended with %s; another one goes on", w.cmd.Process.Pid, h.reason)
	closeFile(w)
	if h.pause() == 0 {
		h.begin()
		return
	}
	time.AfterFunc(h.pause()+time.Millisecond, func() { h.events <- event{} })
}

func closeFile(w *worker) {
	if w.file != nil {
		w.file.Close()
	}
}

// outcome says how a worker ended.
func outcome(w *worker) string {
	if w.lingers {
		return "a signal that killed it"
	}
	if w.err == nil {
		return "status 0"
	}
	return w.err.Error()
}

// killed says whether somebody else ended a worker.
func killed(w *worker) bool {
	if w.lingers {
		return true
	}
	var exit *exec.ExitError
	if !errors.As(w.err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && (ws.Signal() == unix.SIGKILL || ws.Signal() == unix.SIGTERM || ws.Signal() == unix.SIGINT)
}

// look is the watchdog. A worker that does not get so far as to be started has as long for that as one that serves for a
// heartbeat: others after it may do better before guests have waited for too long.
func (h *Holder) look() {
	h.lookAtAnswerer()
	beat := h.arena.Heartbeat()
	if beat != h.beat || h.loading {
		h.beat, h.beatAt = beat, time.Now()
	}
	w := h.current
	if w == nil || h.stopping || time.Since(h.beatAt) < h.config.Watchdog {
		h.manager.alive()
		return
	}
	h.log.Errorf("the worker (process %d) has shown no life for %v: it is killed", w.cmd.Process.Pid, h.config.Watchdog)
	h.beatAt = time.Now()
	w.cmd.Process.Kill()
}

func (h *Holder) signalled(s os.Signal) {
	if s == unix.SIGHUP {
		h.beginUpgrade("")
		return
	}
	if h.stopping {
		return
	}
	h.stopping = true
	h.log.Infof("%v: taking all guests away", s)
	h.manager.stopping()
	if h.next != nil {
		h.next.cmd.Process.Kill()
	}
	w := h.current
	if w == nil {
		return
	}
	if w.link.send(message{kind: msgStop}) != nil {
		w.cmd.Process.Kill()
	}
	time.AfterFunc(stopWait, func() { w.cmd.Process.Kill() })
}

// stopWait is how long a worker may take to take all guests away.
const stopWait = 30 * time.Second

// lock keeps a second daemon from the same socket.
func lock(socket string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the socket: %w", err)
	}
	f, err := os.OpenFile(socket+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", socket, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot listen on %s: another vcgroupfs serve does, or a worker still serves the guests of one that was "+
			"killed (pgrep -f %s); end it, or choose another --socket", socket, WorkerCommand)
	}
	return f, nil
}

// makeRoom removes a socket that a dead daemon left: the lock is ours. Anything else stays, and is an error.
func makeRoom(path string) error {
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("cannot listen on %s: there is something else; choose another --socket or --notify", path)
	}
	os.Remove(path)
	return nil
}

func cannotListen(path string, err error) error {
	return fmt.Errorf("cannot listen on %s: %w", path, errors.Unwrap(err))
}

// listen makes the control socket. Only its owner, and the group if one is given, reach it.
func listen(path string, group int) (*os.File, error) {
	if err := makeRoom(path); err != nil {
		return nil, err
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, cannotListen(path, err)
	}
	defer l.Close()
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if group >= 0 {
		if err := errors.Join(os.Chown(path, -1, group), os.Chmod(path, 0o660)); err != nil {
			return nil, fmt.Errorf("cannot let the group %d reach the socket: %w", group, err)
		}
	}
	return plainFile(l.(*net.UnixListener).File())
}

// plainFile is a file whose mode handing it on does not change: os.File.Fd makes one that does not block block, for all who have
// the same open file, and a worker's accept would never be woken.
func plainFile(f *os.File, err error) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, false) // os.NewFile looks at this
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// listenLoopback listens for metrics. Only on this machine's own addresses: the figures tell of every guest.
func listenLoopback(addr string) (*os.File, error) {
	l, err := api.ListenLoopback(addr)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return plainFile(l.(*net.TCPListener).File())
}
