package holder

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// An upgrade has three steps: a worker of the new program is started and prepares; the old one drains, which is to answer
// what it has read, and ends; the new one is given what is kept, and serves. What goes wrong before the second step changes
// nothing.

const (
	prepareWait = 10 * time.Second // for a new worker to say that it is prepared
	drainWait   = 5 * time.Second  // for an old one to end; what it has not answered by then is sent again
)

// beginUpgrade starts a worker of another program, "" for the file that this one was started as.
func (h *Holder) beginUpgrade(program string) {
	if program == "" {
		program = h.config.Program
	}
	switch {
	case h.stopping:
		h.refuseUpgrade("cannot upgrade: vcgroupfs serve is ending")
		return
	case h.next != nil || h.upgrade != "":
		h.refuseUpgrade("cannot upgrade: another upgrade is under way")
		return
	case h.current == nil || !h.current.ready:
		h.refuseUpgrade("cannot upgrade: a worker is only just starting; try again")
		return
	case !filepath.IsAbs(program):
		h.refuseUpgrade(fmt.Sprintf("cannot upgrade to %q: give an absolute path", program))
		return
	}
	file, err := os.Open(program)
	var w *worker
	if err == nil {
		w, err = h.spawn(file)
	}
	if err != nil {
		if file != nil {
			file.Close() // it is no program, and nobody else knows of it
		}
		h.refuseUpgrade(fmt.Sprintf("cannot go on with %s: %v; the old worker stays", program, err))
		return
	}
	h.log.Infof("upgrading to %s", program)
	w.file = file
	h.next, h.upgrade = w, program
	h.manager.reloading()
	time.AfterFunc(prepareWait, func() { h.events <- event{worker: w, what: workerLate} })
}

// refuseUpgrade tells who asked for it that the old worker stays.
func (h *Holder) refuseUpgrade(why string) {
	h.log.Error(why)
	h.manager.ready()
	if h.next == nil {
		h.upgrade = ""
	}
	if h.current != nil {
		h.current.link.send(message{kind: msgResult, text: []byte(why)})
	}
}

// drain ends the old worker.
func (h *Holder) drain() {
	w := h.current
	w.draining = true
	h.died = time.Now()
	if w.link.send(message{kind: msgDrain}) != nil {
		w.cmd.Process.Kill()
	}
	time.AfterFunc(drainWait, func() { w.cmd.Process.Kill() })
}

// back goes on with the program before the upgrade, since the new one does not serve.
func (h *Holder) back() {
	h.log.Errorf("the worker of %s ended with %s before it served: going on with the program before", h.upgrade, h.reason)
	if h.program != nil {
		h.program.Close()
	}
	h.program, h.previous, h.upgrade = h.previous, nil, ""
}

// takeNext has the prepared worker serve: the old one has ended.
func (h *Holder) takeNext(old *worker) {
	closeFile(old)
	h.current, h.next = h.next, nil
	h.previous, h.program, h.current.file = h.program, h.current.file, nil
	h.reason, h.crashed = "upgrade", false
	h.beat, h.beatAt = h.arena.Heartbeat(), time.Now()
	h.advance()
}
