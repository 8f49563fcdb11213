package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

// showWait is how long a worker waits for the holder to have statfs answered, which takes it some microseconds. The
// worker mounts the view for its guest afterwards in any case.
const showWait = 2 * time.Second

// shows are the requests of a worker to have statfs answered that the holder has not answered.
type shows struct {
	last    int
	waiting map[int]chan string
}

// Show has statfs of a view answered. view is a descriptor of one of its nodes, which the holder has open too until it
// is done.
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

// Types says whether Show can have statfs answered.
func (w *Worker) Types() Types { return w.types }

// typesOf returns what a holder said. One that said nothing must not be sent a message that it does not know: it would
// keep the descriptor.
func typesOf(said *Types) Types {
	if said == nil {
		return Types{Reason: "the holder is of an earlier version; stop and start vcgroupfs serve"}
	}
	return *said
}

// shown passes an answer of the holder on to the Show that waits for it.
func (w *Worker) shown(m message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range m.items {
		if answer := w.shows.waiting[it.region]; answer != nil {
			answer <- string(m.text) // has room: each is answered once
			delete(w.shows.waiting, it.region)
		}
	}
}
