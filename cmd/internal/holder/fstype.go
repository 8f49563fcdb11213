package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

// Types says whether statfs of views is answered by BPF.
type Types struct {
	Loaded bool   `json:"loaded"`
	Reason string `json:"reason,omitempty"` // why not
}

const switchedOff = "it is switched off (serve --no-bpf)"

// loadTypes goes on with the programs that the service manager has kept, or loads them while the first worker starts.
func (h *Holder) loadTypes() {
	kept := h.keptTypes
	h.keptTypes = nil
	if h.config.NoBPF {
		h.types = Types{Reason: switchedOff}
		for _, fd := range kept {
			unix.Close(fd)
		}
		h.dropTypes(kept)
		return
	}
	if len(kept) > 0 {
		p, err := fstype.Take(kept)
		if err == nil {
			h.programs, h.types = p, Types{Loaded: true}
			return
		}
		h.log.WithError(err).Warn("statfs of views says FUSE for a moment: the programs that answer it are loaded anew")
		h.dropTypes(kept)
	}
	h.loading = true
	go func() {
		p, err := fstype.Load()
		h.events <- event{what: typesLoaded, programs: p, err: err}
	}()
	time.AfterFunc(loadWait, func() { h.events <- event{what: typesLoaded, err: errSlow} })
}

// loadWait is how long guests wait for programs. It takes the kernel a tenth of a second.
const loadWait = 15 * time.Second

var errSlow = fmt.Errorf("the kernel has not loaded the programs within %v", loadWait)

// dropTypes has the service manager keep them no longer.
func (h *Holder) dropTypes(kept map[string]int) {
	for name := range kept {
		h.manager.unstore(name)
	}
}

// typesAre is told what came of loading.
func (h *Holder) typesAre(p *fstype.Programs, err error) {
	if err == errSlow && !h.loading {
		return
	}
	h.loading, h.beatAt = false, time.Now()
	h.programs, h.types = p, Types{Loaded: err == nil}
	var refused *fstype.Refused
	switch {
	case err == nil:
		for name, fd := range p.Kept() {
			h.manager.storeFD(name, fd)
		}
	case errors.As(err, &refused):
		h.types.Reason = refused.Reason
	default:
		h.types.Reason = err.Error()
	}
	if err != nil {
		h.log.Warnf("statfs of views says FUSE: %s", h.types.Reason)
	}
	h.advance()
}

// endTypes takes the programs away.
func (h *Holder) endTypes() {
	if h.programs == nil {
		return
	}
	for name := range h.programs.Kept() {
		h.manager.unstore(name)
	}
	h.programs.Close()
	h.programs = nil
}

// show has statfs of a view answered. The view is open in the message, so that its device is no other's.
func (h *Holder) show(w *worker, m message) {
	defer closeAll(m.fds)
	for i, it := range m.items {
		answer := message{kind: msgShown, items: []item{it}}
		if err := h.showOne(m, i); err != nil {
			answer.text = []byte(err.Error())
		}
		_ = w.link.send(answer) // a worker that is gone does not wait
	}
}

func (h *Holder) showOne(m message, i int) error {
	var view fstype.View
	switch {
	case h.programs == nil:
		return errors.New(h.types.Reason)
	case i >= len(m.fds):
		return errors.New("cannot have statfs answer for a view that is not sent with the message")
	}
	if err := json.Unmarshal(m.text, &view); err != nil {
		return fmt.Errorf("cannot read what a view is: %w", err)
	}
	return h.programs.Show(m.fds[i], view)
}

// showWait is how long a worker waits for the holder to have done it, which takes it some microseconds. The view is
// given to its guest afterwards in any case.
const showWait = 2 * time.Second

// shows are what a worker has asked the holder to show.
type shows struct {
	last    int
	waiting map[int]chan string
}

// Show has statfs of a view answered, by a descriptor of one of its nodes, which the holder has open too until it is
// done.
func (w *Worker) Show(view int, about fstype.View) error {
	if !w.types.Loaded {
		return fmt.Errorf("statfs of views says FUSE: %s", w.types.Reason)
	}
	text, err := json.Marshal(about)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.shows.last++
	n := w.shows.last
	answer := make(chan string, 1)
	w.shows.waiting[n] = answer
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.shows.waiting, n)
		w.mu.Unlock()
	}()
	m := message{kind: msgShow, items: []item{{n, 0}}, fds: []int{view}, text: text}
	if err := w.link.send(m); err != nil {
		return err
	}
	select {
	case text := <-answer:
		if text != "" {
			return errors.New(text)
		}
		return nil
	case <-time.After(showWait):
		return fmt.Errorf("cannot have statfs answer for a view: the holder does not answer within %v", showWait)
	}
}

// ShowOf is Show by a descriptor of another process, which must have it open until this returns.
func (w *Worker) ShowOf(pid, fd int, about fstype.View) error {
	name := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
	view, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(view)
	return w.Show(view, about)
}

// typesOf is what a holder says. One that says nothing must not be sent what it does not know: it would keep the
// descriptor.
func typesOf(said *Types) Types {
	if said == nil {
		return Types{Reason: "the holder is of an earlier version; stop and start vcgroupfs serve"}
	}
	return *said
}

// Types says whether Show can do it.
func (w *Worker) Types() Types { return w.types }

// shown is told what came of one.
func (w *Worker) shown(m message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range slices.Clone(m.items) {
		if answer := w.shows.waiting[it.region]; answer != nil {
			answer <- string(m.text) // has room: each is answered once
			delete(w.shows.waiting, it.region)
		}
	}
}
