package holder

import (
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/alarm"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/memory"
)

// leastTick is the shortest tick. Eight ticks are the time after which a worker without a heartbeat is killed.
const leastTick = 10 * time.Millisecond

// Run spawns a worker, and another for each that dies, until SIGTERM or SIGINT ends all. It calls announce, which must
// not block, when the first one serves. The error says why it gave up.
func (h *Holder) Run(announce func()) error {
	h.announce = announce
	defer h.removeSockets()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	h.clock.tick = max(h.config.Watchdog/8, leastTick)
	timer, err := alarm.New()
	if err != nil {
		return err
	}
	defer timer.Close()
	due := make(chan struct{}, 1)
	go ring(timer, due)
	h.handle(event{kind: began})
	h.awaitRuntime()
	for h.supervisor.mode != ended {
		if err := timer.Set(h.untilLook(), 0); err != nil {
			return err
		}
		select {
		case f := <-h.posts:
			f()
		case s := <-signals:
			if s == unix.SIGHUP {
				h.handle(event{kind: upgradeWanted})
			} else {
				h.handle(event{kind: stopWanted, text: s.String()})
			}
		case <-due:
			h.handle(event{kind: timePassed})
		}
	}
	if h.supervisor.failure != "" {
		return errors.New(h.supervisor.failure)
	}
	return nil
}

// ring fills a slot whenever an alarm rings, until that is closed.
func ring(timer *alarm.Alarm, due chan<- struct{}) {
	for {
		if _, err := timer.Wait(); err != nil {
			return
		}
		select {
		case due <- struct{}{}:
		default:
		}
	}
}

// untilLook returns the time until the holder looks again if nothing happens before.
func (h *Holder) untilLook() time.Duration {
	next := h.clock.real(h.supervisor.looks(h.clock.tick))
	if due := h.manager.due(); !due.IsZero() && due.Before(next) {
		next = due
	}
	h.clock.wait = max(time.Until(next), 0)
	return h.clock.wait
}

// post has the deciding goroutine call f.
func (h *Holder) post(f func()) { h.posts <- f }

// handle steps, and applies the actions. Called by the deciding goroutine.
func (h *Holder) handle(e event) {
	for events := []event{e}; len(events) > 0; events = events[1:] {
		beat, age := h.arena.Heartbeat()
		real := time.Now()
		now := reading{now: h.clock.now(real), heartbeat: beat, beatAt: h.clock.own(real.Add(-age))}
		if h.notify.lxc != nil {
			now.listeners = h.store.listenerCount()
		}
		var actions []action
		h.supervisor, actions = step(h.supervisor, now, events[0])
		for _, a := range actions {
			events = append(events, h.apply(a)...)
		}
	}
}

// apply carries out an action, and returns the outcome as events.
func (h *Holder) apply(a action) []event {
	switch a.verb {
	case spawnWorker, spawnAnswerer:
		return h.spawnChild(a)
	case closeProgram:
		if f := h.programs[a.program]; f != nil {
			f.Close()
			delete(h.programs, a.program)
		}
	case notifyReady:
		h.manager.ready()
	case notifyReload:
		h.manager.reloading()
	case notifyStop:
		h.manager.stopping()
	case notifyAlive:
		h.manager.alive()
	case announce:
		h.announce()
		// What the start needed.
		go memory.Release()
	case logText:
		h.log.Log(a.level, a.text)
	case endViews:
		h.store.dropListeners()
		h.store.forgetGuests()
		h.endViews()
		h.endTypes()
	case forgetArena:
		h.manager.unstore(arenaName)
		h.manager.unstore(callsName)
	default:
		if p := h.processes[a.child]; p != nil {
			h.applyTo(p, a)
		}
	}
	return nil
}

// applyTo carries out an action that concerns a process. A process that cannot be told is killed.
func (h *Holder) applyTo(p *process, a action) {
	var err error
	switch a.verb {
	case killChild:
		p.kill()
	case resumeWorker:
		err = h.resumeWorker(p)
	case resumeAnswerer:
		err = h.resumeAnswerer(p)
	case drainWorker, drainAnswerer:
		err = p.link.send(message{kind: msgDrain})
	case stopWorker, dismissAnswerer:
		err = p.link.send(message{kind: msgStop})
	case reportUpgrade:
		_ = p.link.send(message{kind: msgResult, text: []byte(a.text)}) // on failure the client sees the old worker stay
	}
	if err != nil {
		h.log.WithError(err).Errorf("cannot %s (process %d): the holder kills it", a.verb, p.cmd.Process.Pid)
		p.kill()
	}
}

// resumeWorker sends a worker the kept descriptors. Its lifeline breaks at once when it dies from then on.
func (h *Holder) resumeWorker(p *process) error {
	lifeline := h.arena.Worker()
	lifeline.Renew()
	go h.watchLifeline(p, lifeline)
	items, fds := h.store.guests()
	if err := p.link.sendHeld(items, fds); err != nil {
		return err
	}
	text, err := json.Marshal(h.startOf())
	if err != nil {
		return err
	}
	return p.link.send(message{kind: msgStart, text: text})
}

// startOf returns the Start of the next worker.
func (h *Holder) startOf() Start {
	s := h.supervisor
	start := Start{
		Settings: h.config.Settings, Holder: os.Getpid(), Since: h.since, Types: &h.statfs.report,
		Restarts: s.restarts, Reason: s.reason, Crashed: s.crashed, Died: s.outage, Watchdog: s.watchdog,
	}
	for _, c := range s.lingering {
		start.Dying = append(start.Dying, c.pid)
	}
	return start
}

// resumeAnswerer sends an answerer the listeners that are kept.
func (h *Holder) resumeAnswerer(p *process) error {
	for _, l := range h.store.listeners() {
		if err := p.link.sendListener(l); err != nil {
			return err
		}
	}
	return p.link.send(message{kind: msgStart, text: h.config.Settings})
}

// handleWorkerMessage is called for each message of a worker, to the last one that it sent before it died.
func (h *Holder) handleWorkerMessage(p *process, m message) {
	if h.supervisor.mode >= abandoning {
		closeAll(m.fds)
		return
	}
	switch m.kind {
	case msgHold:
		for i, fd := range m.fds {
			h.store.hold(m.items[i], fd)
		}
	case msgDrop:
		for _, i := range m.items {
			h.store.drop(i)
		}
	case msgForget:
		for _, i := range m.items {
			h.store.forget(i.region)
		}
	case msgPrepared:
		h.handle(event{kind: childPrepared, child: p.id})
	case msgReady:
		h.handle(event{kind: childServes, child: p.id})
	case msgUpgrade:
		h.handle(event{kind: upgradeWanted, text: string(m.text)})
	case msgShow:
		h.showView(p.link, m)
	default: // of a later version
		closeAll(m.fds)
	}
}

// handleAnswererMessage is called for each message of an answerer.
func (h *Holder) handleAnswererMessage(p *process, m message) {
	switch m.kind {
	case msgHold:
		for i, fd := range m.fds {
			l := Listener{m.items[i].key, fd, string(m.text)}
			h.store.holdListener(l)
			if a := h.supervisor.answerer; a.id != p.id && a.phase >= serving { // p was thought dead
				_ = h.processes[a.id].link.sendListener(l)
			}
		}
	case msgDrop:
		for _, i := range m.items {
			h.store.dropListener(i.key)
		}
	case msgPrepared:
		h.handle(event{kind: childPrepared, child: p.id})
	case msgReady:
		h.handle(event{kind: childServes, child: p.id})
	case msgLeft:
		h.handle(event{kind: answererLeft})
	default:
		closeAll(m.fds)
	}
}
