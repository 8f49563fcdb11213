// Package daemon is the worker of "vcgroupfs serve": it serves every guest's view and answers the control interface.
//
// # Words
//
// A guest's record is its configuration in the arena; its region is its part of the arena. A declared guest is
// described by a file in the guests' directory. Self is the directory by which an unknown container gets its view
// (package fs/self); a box is the worker's memory of a container that has touched self.
//
// # What always holds
//
//   - A guest is in the arena before any part of it is on the host, and leaves the arena after every part is gone.
//     So the next worker finds every guest, and removes the unfinished ones.
//   - A set-up that fails undoes itself. Changes of one guest come one after another.
//   - A guest's view survives the end of the worker, by whatever means the worker ends.
//
// Lock order: Daemon.selfMu, guest.mu, then Daemon.mu. boxes.mu is a leaf. Daemon.mu is never held across a call that
// can block.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// Daemon is a worker. It is an api.Backend.
type Daemon struct {
	version  string
	settings Settings
	start    holder.Start
	since    time.Time
	log      *logrus.Entry
	worker   *holder.Worker
	arena    *state.Arena
	host     *host.Host
	slots    *conn.Slots
	hub      *api.Hub
	auditor  *api.Auditor
	metrics  *api.Metrics
	declared *declarations // nil for none
	settled  chan struct{} // closed when no earlier worker makes a host call any more
	sweepNow chan struct{} // one slot
	garbage  garbage       // used by the sweeping goroutine only
	swept    atomic.Int64  // time of the last sweep's begin, in ns since 1970
	orphan   atomic.Bool   // the holder has ended

	selfMu    sync.Mutex // held while self is set up or removed
	self      *selfDir   // guarded by selfMu; nil for none
	selfRetry time.Time  // guarded by selfMu; time of the next try after a failure

	stopAPI func()        // returns once the API has stopped
	ended   chan struct{} // closed when the worker must end
	endOnce sync.Once

	mu       sync.Mutex
	guests   map[string]*guest         // guarded by mu
	policies map[string]*policy.Policy // guarded by mu; by their text and controllers
	closing  bool                      // guarded by mu: refuses new guests
}

// settleWait bounds the wait for a dying worker. A worker that stays longer waits for a guest's file system, or for
// this worker.
const settleWait = 5 * time.Second

// awaitDying closes settled once the earlier workers have ended.
func (d *Daemon) awaitDying() {
	d.settled = make(chan struct{})
	var all sync.WaitGroup
	for _, pid := range d.start.Dying {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			// It has ended.
			continue
		}
		all.Go(func() {
			defer unix.Close(fd)
			for began := time.Now(); !hasEnded(uintptr(fd)) && time.Since(began) < settleWait; {
				time.Sleep(time.Millisecond)
			}
		})
	}
	go func() {
		all.Wait()
		close(d.settled)
	}()
}

// settle waits until no dying worker can still change the host.
func (d *Daemon) settle() { <-d.settled }

// heartbeat is the pause between two beats of a worker.
const heartbeat = 100 * time.Millisecond

// Run runs a worker. It returns nil when another worker takes over or after the removal of all guests, and an error if
// it cannot serve.
func Run(version string, log *logrus.Entry) error {
	w, err := holder.Connect()
	if err != nil {
		return fault.With(fault.Unsupported, err)
	}
	h, err := host.Open()
	if err != nil {
		return fault.With(fault.Unsupported, err)
	}
	start, held, err := w.Prepare()
	if err != nil {
		return err
	}
	var settings Settings
	if err := json.Unmarshal(start.Settings, &settings); err != nil {
		return fmt.Errorf("cannot read the settings that the holder passes on: %w", err)
	}
	if err := w.Arena.Worker().Hold(); err != nil {
		log.WithError(err).Warn("the holder will hear of this worker's death only when all of it is gone")
	}
	d := &Daemon{
		version: version, settings: settings, start: start, since: time.Now(), log: log, worker: w, arena: w.Arena, host: h,
		slots: conn.NewSlots(settings.MaxBlocking), hub: &api.Hub{}, ended: make(chan struct{}),
		sweepNow: make(chan struct{}, 1), guests: map[string]*guest{}, policies: map[string]*policy.Policy{},
	}
	d.bound()
	d.metrics = api.NewMetrics(version, d.totals)
	d.auditor = api.NewAuditor(api.AuditConfig{Log: log, Hub: d.hub, Metrics: d.metrics})
	d.awaitDying()
	go d.beat()
	d.declared = &declarations{d: d, dir: d.settings.Guests, files: map[string]fileMark{}, retry: map[string]time.Time{},
		again: map[string]bool{}}
	d.resume(held)
	d.clearViews()
	d.followSelf()
	if err := w.Ready(); err != nil {
		return err
	}
	d.swept.Store(time.Now().UnixNano())
	if err := d.serveAPI(); err != nil {
		return err
	}
	go d.sweep()
	go func() {
		err := w.Follow(d.drain, d.stop)
		d.orphan.Store(true)
		log.WithError(err).Error(
			"the holder has ended: guests are served until this worker ends; start vcgroupfs serve anew when they may be interrupted")
	}()
	go d.showAll()
	<-d.ended
	return nil
}

// bound keeps the worker to its settings, whatever guests do.
func (d *Daemon) bound() {
	// Two processors more than the machine has: one waits for events while guests keep all others busy.
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	// The most threads that block: each guest has one slot beyond the shared ones, and one thread may be stuck in its
	// mounts. Go's own threads come on top.
	debug.SetMaxThreads(d.settings.MaxBlocking + 2*d.settings.MaxGuests + 2*maxSelfWork + 128)
	d.host.SetMaxWatches(max(d.settings.MaxWatches*64, 65536))
	d.shareFiles()
}

func (d *Daemon) beat() {
	for {
		d.arena.Beat()
		select {
		case <-d.ended:
			return
		case <-time.After(heartbeat):
		}
	}
}

// end makes Run return.
func (d *Daemon) end() { d.endOnce.Do(func() { close(d.ended) }) }

// serveAPI starts to answer the control socket.
func (d *Daemon) serveAPI() error {
	socket, err := net.FileListener(d.worker.Socket)
	if err != nil {
		return err
	}
	// The socket file is the holder's.
	socket.(*net.UnixListener).SetUnlinkOnClose(false)
	var loopback net.Listener
	if d.worker.Metrics != nil {
		if loopback, err = net.FileListener(d.worker.Metrics); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	d.stopAPI = func() {
		cancel()
		<-stopped
	}
	cfg := api.Config{Backend: d, Metrics: d.metrics.Handler(), Healthy: d.healthy, Observers: max(d.settings.Group, 0),
		Log: d.log}
	go func() {
		if err := api.Serve(ctx, cfg, socket, loopback); err != nil && !errors.Is(err, http.ErrServerClosed) {
			d.log.WithError(err).Error("the control socket is served no more")
			// The next worker may do better.
			logrus.Exit(fault.ExitFailure)
		}
		close(stopped)
	}()
	return nil
}

// drain stops serving, for another worker to take over. The kernel sends that worker the requests that this one does
// not answer in time.
func (d *Daemon) drain() {
	// The API stops first: guests are still served meanwhile.
	d.stopAPI()
	d.close()
	ctx, cancel := context.WithTimeout(context.Background(), drainWait)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { d.suspendSelf(ctx) })
	for _, g := range d.all() {
		all.Add(1)
		go func() {
			defer all.Done()
			if s := g.served(); s != nil {
				if err := s.View.Suspend(ctx); err != nil {
					g.log.WithError(err).Info("a request is not answered yet; the next worker sees to it")
				}
			}
		}()
	}
	all.Wait()
	d.end()
}

// drainWait bounds the time that blocking requests delay an upgrade.
const drainWait = 2 * time.Second

// stop removes all guests.
func (d *Daemon) stop() {
	d.stopAPI()
	d.close()
	d.stopSelf()
	var all sync.WaitGroup
	for _, g := range d.all() {
		all.Add(1)
		go func() {
			defer all.Done()
			d.take(g, "", "")
		}()
	}
	all.Wait()
	d.auditor.Close()
	d.end()
}

// close refuses new guests from now on.
func (d *Daemon) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closing = true
}

// isClosing reports that another worker takes over the guests, or that all of them are being removed. It holds before
// any view is suspended.
func (d *Daemon) isClosing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closing
}

// all lists the guests.
func (d *Daemon) all() []*guest {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*guest, 0, len(d.guests))
	for _, g := range d.guests {
		all = append(all, g)
	}
	return all
}

// panicked ends the worker, because a panicking handler may leave any state behind. By then the request is answered
// EIO; the next worker serves all others.
func (d *Daemon) panicked() {
	time.AfterFunc(10*time.Millisecond, func() { logrus.Exit(panicStatus) })
}

// panicStatus is the exit status of a panicking Go program.
const panicStatus = 2

// totals counts guests, cgroups and calls for the metrics.
func (d *Daemon) totals() api.Totals {
	t := api.Totals{Restarts: d.start.Restarts}
	for _, g := range d.all() {
		t.Guests++
		t.Cgroups += int64(g.cgroups())
		if g.served() != nil {
			n := g.calls()
			t.Listeners += n.Listeners
			t.Answered += n.Answered
			t.PassedOn += n.PassedOn
		}
	}
	return t
}
