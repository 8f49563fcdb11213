// Package holder keeps guests alive over the death of the process that serves them.
//
// # Words
//
// The holder is what "vcgroupfs serve" starts as: a small process that serves nothing. The worker is its child and
// serves every guest. The holder keeps the descriptors that would otherwise end with the worker: each guest's
// connection (/dev/fuse), host descriptors that cannot be opened again without losing their position or event source,
// the listening socket, and the arena (package state). The answerer is another child, which answers system calls of
// containers (answer.go).
//
// # What always holds
//
//   - The holder touches no guest's request, no view and no cgroup, and decodes no guest's configuration, so nothing
//     that a guest does can stop it.
//   - What a worker has sent is kept, also when it died right after.
//   - There is one worker that serves. A worker that dies, or whose heartbeat stops, is replaced at once. During an
//     upgrade a second one is prepared, and serves when the first has exited.
//   - If no worker comes back within Config.GiveUp, the holder ends the guests' connections: their callers get
//     ECONNABORTED.
//
// # How it decides
//
// One goroutine runs everything (Run); the others only post to it. Each event goes to step, a function of the
// supervisor's state, which answers with the next state and the actions; apply does those. So all decisions are
// in step.go, replace.go, upgrade.go and answer.go, which touch no descriptor and no process, and is tested without
// any.
package holder

import (
	"encoding/json"
	"os"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// Config configures a holder.
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
	config  Config
	log     *logrus.Entry
	since   time.Time
	manager manager
	store   store
	statfs  statfs

	arena   *state.Arena
	calls   *state.Calls // nil where there is no socket for listeners
	lock    *os.File
	socket  *os.File
	metrics *os.File // nil for none
	notify  notifySockets

	supervisor supervisor
	clock      clock
	processes  map[int]*process // by the id of the supervisor's child
	programs   map[int]*os.File // by the supervisor's number
	posts      chan func()      // for the deciding goroutine
	announce   func()           // tells that guests are served for the first time
}

// New allocates what the workers share, or adopts it from the service manager. A socket on which another process
// listens is an error; one that a dead daemon left is replaced.
func New(config Config, log *logrus.Entry) (h *Holder, err error) {
	raiseLimits()
	h = &Holder{
		config: config, log: log, since: time.Now(),
		processes: map[int]*process{}, programs: map[int]*os.File{}, posts: make(chan func(), 64),
		supervisor: supervisor{watchdog: config.Watchdog, giveUp: config.GiveUp, own: config.Program},
	}
	h.manager = findManager(log, func() {
		time.AfterFunc(managerRetry, func() { h.post(h.manager.retry) })
	})
	h.store = newStore(&h.manager)
	types, err := h.adopt(h.manager.inherited())
	if err != nil {
		return nil, err
	}
	if h.arena == nil {
		if h.arena, err = state.New(config.Regions, config.Handles); err != nil {
			return nil, err
		}
		h.manager.store(arenaName, h.arena.File())
	}
	if err = h.listen(); err != nil {
		return nil, err
	}
	h.loadTypes(types)
	return h, nil
}

// Names of descriptors in the service manager's store. They are an ABI between two versions of the program.
const (
	arenaName = "arena"
	callsName = "calls"
)

// adopt keeps the descriptors that the service manager kept for the holder before this one, and returns the descriptors
// of the programs that answer statfs.
func (h *Holder) adopt(inherited map[string]int) (types map[string]int, err error) {
	types = map[string]int{}
	for name, fd := range inherited {
		switch {
		case name == arenaName:
			if h.arena, err = state.Map(os.NewFile(uintptr(fd), arenaName)); err != nil {
				return nil, err
			}
			h.supervisor.outage, h.supervisor.reason = time.Now(), "the holder was replaced"
		case name == callsName:
			file := os.NewFile(uintptr(fd), callsName)
			if h.calls, err = state.MapCalls(file); err != nil {
				file.Close()
				h.log.WithError(err).Error("calls that wait for an answer wait for ever")
			}
		case isTypeName(name):
			types[name] = fd
		case h.store.adopt(name, fd):
		default:
			syscall.Close(fd)
		}
	}
	if h.arena == nil && h.store.hasGuests() {
		h.log.Warn("the service manager kept guests' connections, but not the arena that describes them: they end")
		h.store.forgetGuests()
	}
	return types, nil
}

// maxFiles is how many descriptors holder and worker may have: the kernel's own bound on RLIMIT_NOFILE (fs.nr_open)
// unless an administrator changed it.
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

// Close closes what New opened. The memory of a holder that has spawned a child stays mapped: a goroutine may still
// wait on it for the end of that child.
func (h *Holder) Close() {
	h.manager.flush()
	for _, f := range []*os.File{h.socket, h.metrics, h.lock, h.notify.oci, h.notify.lxc} {
		if f != nil {
			f.Close()
		}
	}
	for _, f := range h.programs {
		f.Close()
	}
	if h.statfs.programs != nil {
		h.statfs.programs.Close()
	}
	if h.supervisor.lastID > 0 {
		return
	}
	if h.arena != nil {
		h.arena.Close()
	}
	if h.calls != nil {
		h.calls.Close()
	}
}
