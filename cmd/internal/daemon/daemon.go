// Package daemon is the worker of "vcgroupfs serve": every guest's view, and what the control interface asks for.
//
// # Words
//
// A guest's record is its configuration as the arena keeps it; the region is the guest's part of the arena. A declared guest
// is one that a file of the guests' directory describes. Self is the directory by which a container comes to its view without
// being known (package fs/self); a box is what is remembered of a container that has touched it.
//
// # What always holds
//
//   - A guest is in the arena before anything of it is on the host, and out of it after everything is gone: a worker that
//     takes over finds every guest, and takes back those that were not finished.
//   - A set-up that fails undoes itself, and changes of one guest come one after another.
//   - The end of the worker, by whatever means, is not the end of a guest's view.
//
// Lock order: Daemon.selfMu, guest.mu, then Daemon.mu. boxes.mu is a leaf, and Daemon.mu is never held across a call that can block.
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
	settled  chan struct{} // closed when no worker before this one makes a call of the host's any more
	sweepNow chan struct{} // one slot
	garbage  garbage       // of the sweeping goroutine alone
	swept    atomic.Int64  // when the sweep last began, in ns since 1970
	orphan   atomic.Bool   // the holder has ended

	selfMu    sync.Mutex // held while self is set up or taken away
	self      *selfDir   // guarded by selfMu; nil for none
	selfRetry time.Time  // guarded by selfMu; when to try again what failed

	stopAPI func()        // returns when it is stopped
	ended   chan struct{} // closed when the worker is to end
	endOnce sync.Once

	mu       sync.Mutex
	guests   map[string]*guest         // guarded by mu
	policies map[string]*policy.Policy // guarded by mu; by their text and controllers
	closing  bool                      // guarded by mu: no guest is made any more
}

// settleWait bounds the wait for a dead worker. One that stays for longer waits for a guest's file system, or for this worker.
const settleWait = 5 * time.Second

// awaitDying sees when the workers before this one are gone.
func (d *Daemon) awaitDying() {
	d.settled = make(chan struct{})
	var all sync.WaitGroup
	for _, pid := range d.start.Dying {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it is gone
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

// settle waits until what a dead worker had begun is made, or never will be.
func (d *Daemon) settle() { <-d.settled }

// heartbeat is how often a worker says that it lives.
const heartbeat = 100 * time.Millisecond

// Run is a worker's life. It returns when another worker is to go on (nil), when all guests are taken away (nil), or when it
// cannot serve.
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
		slots: conn.NewSlots(settings.MaxBlocking), hub: &api.Hub{}, ended: make(chan struct{}), sweepNow: make(chan struct{}, 1),
		guests: map[string]*guest{}, policies: map[string]*policy.Policy{},
	}
	d.bound()
	d.metrics = api.NewMetrics(version, d.totals)
	d.auditor = api.NewAuditor(api.AuditConfig{Log: log, Hub: d.hub, Metrics: d.metrics})
	d.awaitDying()
	go d.beat()
	d.declared = &declarations{d: d, dir: d.settings.Guests, files: map[string]fileMark{}, retry: map[string]time.Time{}, again: map[string]bool{}}
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
		log.WithError(err).Error("the holder has ended: guests are served until this worker ends; start vcgroupfs serve anew when they may be interrupted")
	}()
	go d.showAll()
	<-d.ended
	return nil
}

// bound keeps the worker to its settings, whatever guests do.
func (d *Daemon) bound() {
	// Two processors more than there are: one that waits for events while guests keep all others busy.
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	// Each guest has one place to block in beyond those that all share, and one in which a look at its mounts may be stuck, so that is
	// the most; Go's own threads come on top.
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

// end lets Run return.
func (d *Daemon) end() { d.endOnce.Do(func() { close(d.ended) }) }

// serveAPI begins to answer the control socket.
func (d *Daemon) serveAPI() error {
	socket, err := net.FileListener(d.worker.Socket)
	if err != nil {
		return err
	}
	socket.(*net.UnixListener).SetUnlinkOnClose(false) // it is the holder's
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
	cfg := api.Config{Backend: d, Metrics: d.metrics.Handler(), Healthy: d.healthy, Observers: max(d.settings.Group, 0), Log: d.log}
	go func() {
		if err := api.Serve(ctx, cfg, socket, loopback); err != nil && !errors.Is(err, http.ErrServerClosed) {
			d.log.WithError(err).Error("the control socket is served no more")
			logrus.Exit(fault.ExitFailure) // another worker does better
		}
		close(stopped)
	}()
	return nil
}

// drain stops serving: another worker goes on. What is not answered in time is sent to that one again.
func (d *Daemon) drain() {
	d.stopAPI() // first, for guests are still served meanwhile
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

// drainWait is how long requests that block keep an upgrade waiting.
const drainWait = 2 * time.Second

// stop takes all guests away.
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

// close lets no guest be made any more.
func (d *Daemon) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closing = true
}

// isClosing says whether guests are another worker's to see to, or are all taken away. It is so before any view is suspended.
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

// panicked ends the worker: a handler that panicked may have left anything behind. The request is answered EIO by then, and
// all others are served by the next worker.
func (d *Daemon) panicked() {
	time.AfterFunc(10*time.Millisecond, func() { logrus.Exit(panicStatus) })
}

// panicStatus is that of a Go program that panicked.
const panicStatus = 2

// totals are what the metrics are asked for.
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
