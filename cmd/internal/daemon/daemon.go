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
// # Parts
//
// Daemon puts the parts together and answers the control interface. table has the guests; making adds and resumes them,
// removing ends them; attacher works in a guest's mount namespace and cgroups; telemetry tells the host of them;
// declarations and selfKeeper add guests by themselves, through the interface guests; lookout hears of what happens to
// guests, and sweeper looks after those. A part with state has its own lock, and no part uses another's fields.
//
// Lock order: selfKeeper.mu, guest.mu, then table.mu. policies.mu, boxes.mu, lookout.mu and dirWatch.mu are leaves.
// table.mu is never held across a call that can block.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/alarm"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Daemon is a worker. It is an api.Backend.
type Daemon struct {
	version  string         // immutable
	settings Settings       // immutable
	start    holder.Start   // immutable
	log      *logrus.Entry  // immutable
	worker   *holder.Worker // immutable
	paths    paths          // immutable

	// The parts; immutable.
	table    *table
	told     *telemetry
	making   *making
	removing *removing
	self     *selfKeeper
	sweeper  *sweeper
	lookout  *lookout

	orphan  atomic.Bool   // the holder has ended
	stopAPI func()        // returns once the API has stopped
	ended   chan struct{} // closed when the worker must end
	endOnce sync.Once
}

// A worker beats five times within the holder's bound, or ten times a second for an earlier holder, which does not tell
// its bound.
const (
	beatsInBound  = 5
	eagerBeatTime = 100 * time.Millisecond
)

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
	d := &Daemon{version: version, settings: settings, start: start, log: log, worker: w,
		paths: paths{filepath.Dir(settings.Socket)}, ended: make(chan struct{})}
	d.bound(h)
	d.assemble(h)
	go d.beat()
	d.resume(held)
	d.clearViews()
	d.self.follow()
	if err := w.Ready(); err != nil {
		return err
	}
	if err := d.serveAPI(); err != nil {
		return err
	}
	(&garbage{}).follow()
	go d.sweeper.run(d.ended)
	go func() {
		err := w.Follow(d.drain, d.stop)
		d.orphan.Store(true)
		log.WithError(err).Error(
			"the holder has ended: guests are served until this worker ends; start vcgroupfs serve anew when they may be " +
				"interrupted")
	}()
	go d.making.types.showAll(d.table.all())
	<-d.ended
	return nil
}

// assemble makes the parts.
func (d *Daemon) assemble(h *host.Host) {
	arena := d.worker.Arena
	d.table = newTable(min(arena.Guests(), d.settings.MaxGuests))
	d.told = newTelemetry(d.version, d.log, d.start.Reason, func() api.Totals {
		return totalsOf(d.table.all(), d.start.Restarts, d.healthy() == nil)
	})
	policies := newPolicies()
	attacher := &attacher{host: h, paths: d.paths}
	d.lookout = newLookout(d.log)
	keepers := func(region int) keeper { return holder.Keep{Worker: d.worker, Region: region} }
	d.removing = &removing{keepers: keepers, paths: d.paths, declarations: d.settings.Guests, table: d.table,
		told: d.told, attacher: attacher, lookout: d.lookout}
	d.making = &making{settings: d.settings, crashed: d.start.Crashed, host: h, arena: arena, keepers: keepers,
		slots: conn.NewSlots(d.settings.MaxBlocking), paths: d.paths, settle: settle(d.start.Dying), panicked: panicked,
		table: d.table, policies: policies, told: d.told, types: types{d.worker}, attacher: attacher, removing: d.removing,
		lookout: d.lookout}
	all := struct {
		*table
		*making
		*removing
	}{d.table, d.making, d.removing}
	d.self = &selfKeeper{cfg: selfConfig{settings: d.settings.Self, paths: d.paths, log: d.log, host: h, arena: arena,
		keepers: keepers, policies: policies, guests: all, crashed: d.start.Crashed, panicked: panicked,
		ended: d.lookout.soon}}
	d.sweeper = &sweeper{table: d.table, removing: d.removing, attacher: attacher, told: d.told, self: d.self,
		declared: newDeclarations(all, d.log, d.paths, d.settings.Guests, d.lookout.filesChanged), lookout: d.lookout}
}

// settleWait bounds the wait for a dying worker. A worker that stays longer waits for a guest's file system, or for
// this worker.
const settleWait = 5 * time.Second

// settle returns a function that waits until no dying worker can still change the host.
func settle(dying []int) func() {
	settled := make(chan struct{})
	var all sync.WaitGroup
	for _, pid := range dying {
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
		close(settled)
	}()
	return func() { <-settled }
}

// bound keeps the worker to its settings, whatever guests do.
func (d *Daemon) bound(h *host.Host) {
	// Two processors more than the machine has: one waits for events while guests keep all others busy.
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	// The most threads that block: each guest has one slot beyond the shared ones, and one thread may be stuck in its
	// mounts. Go's own threads come on top.
	debug.SetMaxThreads(d.settings.MaxBlocking + 2*d.settings.MaxGuests + 2*maxSelfWork + 128)
	h.SetMaxWatches(max(d.settings.MaxWatches*64, 65536))
	d.shareFiles(h)
}

func (d *Daemon) beat() {
	pause := eagerBeatTime
	if d.start.Watchdog > 0 {
		pause = d.start.Watchdog / beatsInBound
	}
	a, err := alarm.New()
	if err == nil {
		defer a.Close()
		err = a.Set(pause, pause)
	}
	for {
		d.worker.Arena.Beat()
		if err == nil {
			_, err = a.Wait()
		}
		if err != nil {
			time.Sleep(pause)
		}
		select {
		case <-d.ended:
			return
		default:
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
	cfg := api.Config{Backend: d, Metrics: d.told.metrics.Handler(), Healthy: d.healthy,
		Observers: max(d.settings.Group, 0), Log: d.log}
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
	d.table.close()
	ctx, cancel := context.WithTimeout(context.Background(), drainWait)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { d.self.suspend(ctx) })
	for _, g := range d.table.all() {
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
	d.table.close()
	d.self.stop()
	var all sync.WaitGroup
	for _, g := range d.table.all() {
		all.Add(1)
		go func() {
			defer all.Done()
			d.removing.remove(g, "", "")
		}()
	}
	all.Wait()
	d.told.auditor.Close()
	d.end()
}

// panicked ends the worker, because a panicking handler may leave any state behind. The next worker serves the
// requests that are not answered.
func panicked() { logrus.Exit(panicStatus) }

// panicStatus is the exit status of a panicking Go program.
const panicStatus = 2
