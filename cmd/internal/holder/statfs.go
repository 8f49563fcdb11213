package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

// Types says whether BPF answers statfs of views.
type Types struct {
	Loaded bool   `json:"loaded"`
	Reason string `json:"reason,omitempty"` // why not
}

// statfs holds the programs that answer statfs.
type statfs struct {
	programs *fstype.Programs // nil for none
	report   Types            // for workers
}

const switchedOff = "it is switched off (serve --no-bpf)"

// loadWait is how long workers wait for the programs. It takes the kernel a tenth of a second.
const loadWait = 15 * time.Second

var errSlow = fmt.Errorf("the kernel has not loaded the programs within %v", loadWait)

func isTypeName(name string) bool { return fstype.IsKept(name) }

// loadTypes adopts the programs that the service manager kept, or loads them while the first worker starts.
func (h *Holder) loadTypes(kept map[string]int) {
	if h.config.NoBPF {
		h.statfs.report = Types{Reason: switchedOff}
		for _, fd := range kept {
			unix.Close(fd)
		}
		h.unstoreAll(kept)
		return
	}
	if len(kept) > 0 {
		p, err := fstype.Take(kept)
		if err == nil {
			h.statfs = statfs{p, Types{Loaded: true}}
			return
		}
		h.log.WithError(err).Warn("statfs of views says FUSE for a moment: the holder loads the programs that answer it anew")
		h.unstoreAll(kept)
	}
	h.supervisor.loading = true
	go func() {
		p, err := fstype.Load()
		h.post(func() { h.typesLoaded(p, err) })
	}()
	time.AfterFunc(loadWait, func() { h.post(func() { h.typesLoaded(nil, errSlow) }) })
}

// unstoreAll has the service manager close descriptors by their names.
func (h *Holder) unstoreAll(names map[string]int) {
	for name := range names {
		h.manager.unstore(name)
	}
}

// typesLoaded keeps the programs, or why there are none.
func (h *Holder) typesLoaded(p *fstype.Programs, err error) {
	if err == errSlow && !h.supervisor.loading {
		return
	}
	h.statfs = statfs{p, Types{Loaded: err == nil}}
	var refused *fstype.Refused
	switch {
	case err == nil:
		for name, fd := range p.Kept() {
			h.manager.storeFD(name, fd)
		}
	case errors.As(err, &refused):
		h.statfs.report.Reason = refused.Reason
	default:
		h.statfs.report.Reason = err.Error()
	}
	if err != nil {
		h.log.Warnf("statfs of views says FUSE: %s", h.statfs.report.Reason)
	}
	h.handle(event{kind: programsLoaded})
}

// endTypes detaches the programs.
func (h *Holder) endTypes() {
	if h.statfs.programs == nil {
		return
	}
	h.unstoreAll(h.statfs.programs.Kept())
	h.statfs.programs.Close()
	h.statfs.programs = nil
}

// showView has statfs of a view answered, and sends the worker the outcome. The view is open in the message, so its
// device number cannot be reused meanwhile.
func (h *Holder) showView(l *link, m message) {
	defer closeAll(m.fds)
	for i, it := range m.items {
		answer := message{kind: msgShown, items: []item{it}}
		if err := h.statfs.show(m, i); err != nil {
			answer.text = []byte(err.Error())
		}
		_ = l.send(answer) // a worker that is gone does not wait
	}
}

func (s *statfs) show(m message, i int) error {
	var view fstype.View
	switch {
	case s.programs == nil:
		return errors.New(s.report.Reason)
	case i >= len(m.fds):
		return errors.New("cannot have statfs answer for a view that is not sent with the message")
	}
	if err := json.Unmarshal(m.text, &view); err != nil {
		return fmt.Errorf("cannot decode the description of a view: %w", err)
	}
	return s.programs.Show(m.fds[i], view)
}
