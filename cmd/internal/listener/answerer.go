package listener

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// answerer is the state of the answerer process.
type answerer struct {
	log    *logrus.Entry
	link   *holder.Answerer
	arena  *state.Arena
	calls  *state.Calls
	guests *guests
	peers  *api.HostPeers
	shared chan struct{} // slots for calls of all guests
	home   away

	keeping  chan struct{} // one slot; a guest's file system blocks a thread
	passing  atomic.Bool   // pass every call on
	orphan   atomic.Bool   // the holder has ended
	draining atomic.Bool   // the next answerer takes over
	refusals refusals

	mu      sync.Mutex
	used    [state.MaxListeners + 1]bool // guarded by mu; keys
	entries map[uint64]*entry            // guarded by mu
	files   map[uint64]interrupter       // guarded by mu; files and connections with a pending read
	sockets []net.Listener               // guarded by mu
	changed chan struct{}                // one slot; an entry has ended
}

// interrupter is a file or connection with a read that a deadline ends.
type interrupter interface{ SetReadDeadline(t time.Time) error }

// settings are the daemon's settings for an answerer (daemon.Settings).
type settings struct {
	MaxGuests   int `json:"maxGuests"`
	MaxBlocking int `json:"maxBlocking"`
}

// Run runs an answerer. It returns nil when another answerer takes over, or when the last container has ended after the
// holder, and an error if it cannot serve.
func Run(log *logrus.Entry) error {
	link, kept, err := holder.ConnectAnswerer()
	if err != nil {
		return err
	}
	var limits settings
	if err := json.Unmarshal(link.Settings, &limits); err != nil {
		return fmt.Errorf("cannot read the settings that the holder passes on: %w", err)
	}
	h, err := host.Open()
	if err != nil {
		return fault.With(fault.Unsupported, err)
	}
	a := &answerer{
		log: log, link: link, arena: link.Arena, calls: link.Calls, guests: newGuests(link.Arena, h),
		shared: make(chan struct{}, limits.MaxBlocking), home: away{host: h, log: log},
		entries: map[uint64]*entry{}, files: map[uint64]interrupter{}, changed: make(chan struct{}, 1),
		keeping: make(chan struct{}, 1),
	}
	if a.peers, err = api.NewHostPeers(a.guests.inGuest); err != nil {
		return err
	}
	debug.SetMaxThreads(limits.MaxBlocking + 2*limits.MaxGuests + maxReading + 128)
	if err := a.calls.Life().Hold(); err != nil {
		log.WithError(err).Warn("the holder will hear of this process's death only when all of it is gone")
	}
	for _, s := range a.arena.Sights(nil) {
		// resume counts them again.
		atomic.StoreUint64(&a.arena.Glance(s).Answers().Listeners, 0)
	}
	for _, x := range kept {
		a.resume(x)
	}
	if err := a.listen(); err != nil {
		return err
	}
	go link.Serves()
	drained, ended := make(chan struct{}), make(chan error, 1)
	drain := sync.OnceFunc(func() {
		a.drain()
		close(drained)
	})
	go func() { ended <- link.Follow(drain, a.leave) }()
	go a.renew(drain)
	select {
	case <-drained:
		return nil
	case err = <-ended:
	}
	a.orphan.Store(true)
	if a.draining.Load() {
		<-drained
		return nil
	}
	a.alone(err)
	return nil
}

// listen starts to accept runtimes.
func (a *answerer) listen() error {
	for _, s := range []struct {
		file   *os.File
		accept func(*net.UnixListener)
	}{{a.link.OCI, a.acceptOCI}, {a.link.LXC, a.acceptLXC}} {
		l, err := net.FileListener(s.file)
		s.file.Close()
		if err != nil {
			return err
		}
		// The socket file is the holder's.
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		a.sockets = append(a.sockets, l)
		go s.accept(l.(*net.UnixListener))
	}
	return nil
}

func (a *answerer) stopListening() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.sockets {
		l.Close()
	}
}

// resume resumes a listener or connection of an earlier answerer.
func (a *answerer) resume(x holder.Listener) {
	w := parseWord(x.Word)
	e := a.enlist(x.Key, w)
	if e == nil {
		a.log.Errorf("the holder kept something twice, or under the key %d", x.Key)
		unix.Close(x.FD)
		return
	}
	switch w.kind {
	case kindListener:
		go e.serve(x.FD)
	case kindConn:
		go a.resumeConn(e, x.FD)
	case kindLXC:
		go e.serveLXC(x.FD)
	default:
		a.log.Errorf("the holder kept %q, which this program does not know", x.Word)
		unix.Close(x.FD)
		a.forget(e)
	}
}

// enlist makes an entry under a key, or under a free one for 0. nil if the key is taken or none is free.
func (a *answerer) enlist(key uint64, w word) *entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	if key == 0 {
		for key = 1; key <= state.MaxListeners && a.used[key]; key++ {
		}
	}
	if key > state.MaxListeners || a.used[key] {
		return nil
	}
	a.used[key] = true
	return a.entry(key, w)
}

// entry makes an entry, replacing the one with its key. Called with mu held.
func (a *answerer) entry(key uint64, w word) *entry {
	e := &entry{of: a, key: key, word: w, log: a.log.WithField("container", w.name)}
	a.entries[key] = e
	return e
}

// become replaces an entry by one with another word under the same key.
func (a *answerer) become(e *entry, w word) *entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.entry(e.key, w)
}

// opened registers the file or connection of an entry's pending read.
func (a *answerer) opened(e *entry, f interrupter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[e.key] = f
	if a.draining.Load() {
		f.SetReadDeadline(time.Unix(1, 0))
	}
}

// forget removes an entry that has ended.
func (a *answerer) forget(e *entry) {
	if a.draining.Load() {
		// The next answerer has the kept descriptor.
		return
	}
	if g := e.guest.Load(); g != nil && a.arena.Sees(g.sight) {
		atomic.AddUint64(&a.arena.Glance(g.sight).Answers().Listeners, ^uint64(0))
	}
	a.link.Drop(e.key)
	a.calls.Forget(e.key)
	a.mu.Lock()
	delete(a.entries, e.key)
	delete(a.files, e.key)
	a.used[e.key] = false
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func (a *answerer) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.entries)
}

// drainWait bounds the time that calls under way delay an upgrade. The next answerer handles those that take longer.
const drainWait = 2 * time.Second

// drain stops serving, for another answerer to take over.
func (a *answerer) drain() {
	a.draining.Store(true)
	a.stopListening()
	a.mu.Lock()
	all := make([]*entry, 0, len(a.entries))
	for _, e := range a.entries {
		all = append(all, e)
	}
	for _, f := range a.files {
		f.SetReadDeadline(time.Unix(1, 0))
	}
	a.mu.Unlock()
	for end := time.Now().Add(drainWait); time.Now().Before(end); time.Sleep(time.Millisecond) {
		busy := false
		for _, e := range all {
			busy = busy || e.running.Load() > 0
		}
		if !busy {
			return
		}
	}
}

// stuck reports that a guest's file system blocks a thread of this process, which may keep the guest from ending.
func (a *answerer) stuck() {
	select {
	case a.keeping <- struct{}{}:
	default:
	}
}

// renewEvery is the shortest time between replacements of this process because of guests.
const renewEvery = 10 * time.Second

// renew lets another answerer take over if threads of this one are blocked: only the end of this process ends them.
// Without a holder there is no other answerer.
func (a *answerer) renew(drain func()) {
	began := time.Now()
	for range a.keeping {
		time.Sleep(time.Until(began.Add(renewEvery)))
		if a.passing.Load() || a.orphan.Load() {
			return
		}
		a.log.Warn(
			"a file system in a container does not answer and keeps a thread: another process goes on with the calls of " +
				"containers")
		drain()
	}
}

// leave separates this process from the holder, which removes all guests. Every call is passed on from then on.
func (a *answerer) leave() {
	a.passing.Store(true)
	a.stopListening()
	if a.count() > 0 {
		a.home.leave()
	}
	if err := a.link.Left(); err != nil {
		a.log.WithError(err).Debug("the holder has ended already")
	}
}

// alone serves after the end of the holder, until the last container has ended.
func (a *answerer) alone(why error) {
	a.stopListening()
	if !a.passing.Load() && a.count() > 0 {
		a.log.WithError(why).Error(
			"the holder has ended: calls of containers are answered while the worker serves, then passed on")
	}
	if a.count() > 0 {
		hush()
	}
	for a.count() > 0 {
		<-a.changed
	}
	a.home.comeBack()
}

// hush redirects the inherited standard files to /dev/null: another process may wait for their end of file.
func hush() {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	for old := range 3 {
		_ = unix.Dup3(fd, old, 0)
	}
	unix.Close(fd)
}

// enter takes a slot for a call of a guest: one of the guest's, and a shared one unless the guest's reserved one is
// free.
func (a *answerer) enter(g *guest) (leave func(), ok bool) {
	if !g.enter() {
		return nil, false
	}
	select {
	case g.only <- struct{}{}:
		return func() { <-g.only; g.give() }, true
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case a.shared <- struct{}{}:
		return func() { <-a.shared; g.give() }, true
	case g.only <- struct{}{}:
		return func() { <-g.only; g.give() }, true
	case <-timer.C:
		g.give()
		return nil, false
	}
}

var errFull = errors.New("there are as many listeners as there may be")
