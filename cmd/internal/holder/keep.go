package holder

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
)

// deviceName begins the names of guests' connections in the service manager's store.
const deviceName = "device-"

// keep keeps a descriptor instead of what was kept under its name.
func (h *Holder) keep(i item, fd int) {
	of := h.kept[i.region]
	if of == nil {
		of = map[uint64]int{}
		h.kept[i.region] = of
	}
	if old, ok := of[i.key]; ok {
		unix.Close(old)
	}
	of[i.key] = fd
	if i.key == DeviceKey {
		h.manager.storeFD(deviceName+strconv.Itoa(i.region), fd)
	}
}

func (h *Holder) drop(i item) {
	of := h.kept[i.region]
	if fd, ok := of[i.key]; ok {
		unix.Close(fd)
		delete(of, i.key)
	}
}

// forget closes all that is kept of a guest.
func (h *Holder) forget(region int) {
	for _, fd := range h.kept[region] {
		unix.Close(fd)
	}
	if _, ok := h.kept[region][DeviceKey]; ok {
		h.manager.unstore(deviceName + strconv.Itoa(region))
	}
	delete(h.kept, region)
}

// abort closes all that is kept: connections that nobody serves end.
func (h *Holder) abort() {
	for region := range h.kept {
		if region != ListenersRegion { // these are of containers, which live on
			h.forget(region)
		}
	}
}

// givenUp says whether guests have waited long enough for a worker.
func (h *Holder) givenUp() bool {
	return !h.stopping && !h.died.IsZero() && time.Since(h.died) > h.config.GiveUp
}

// abandon ends the guests' connections and takes the dead views away.
func (h *Holder) abandon() {
	for _, w := range []*worker{h.current, h.next} {
		if w != nil {
			w.cmd.Process.Kill()
			for late := time.After(abandonWait); !w.ended || !w.closed; {
				select {
				case e := <-h.events:
					h.absorb(e)
					continue
				case <-late:
				}
				break
			}
		}
	}
	h.endViews()
	h.endTypes()
	h.manager.unstore("arena")
	h.manager.unstore("calls")
}

// endViews ends the connections that are kept and unmounts the views that are left: those of guests that no worker took away.
func (h *Holder) endViews() {
	h.leaveAnswerer()
	h.abort()
	for _, r := range h.arena.Regions() {
		if device := r.Device(); device != 0 {
			abortConnection(device)
		}
		label := r.Label()
		if label == "" {
			label = fmt.Sprintf("the view of region %d", r.Index())
		}
		id, unique := r.Mount()
		if err := (target.Mount{Device: r.Device(), ID: id, Unique: unique}).Unmount(target.Target{}); err != nil {
			h.log.WithError(err).Errorf("cannot unmount %s", label)
		}
		h.log.Errorf("%s is ended: no worker took it away", label)
	}
}

// abandonWait is how long killed workers may take to be gone.
const abandonWait = 2 * time.Second

// abortConnection ends a guest's connection by its number, which is the minor of its file system's device: also where a dead
// worker's thread still has it open.
func abortConnection(device uint64) {
	path := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(device))
	_ = os.WriteFile(path, []byte("1"), 0) // not there when fusectl is not mounted, or the connection has ended
}

// absorb takes what workers still say when nothing is to come of it.
func (h *Holder) absorb(e event) {
	switch {
	case e.programs != nil:
		e.programs.Close()
	case e.do != nil:
		e.do()
	case e.worker == nil:
	case e.what == workerSaid:
		closeAll(e.msg.fds)
	case e.what == workerClosed:
		e.worker.closed = true
	case e.what == workerEnded:
		e.worker.ended = true
	}
}

// Close gives back what New made, for a holder that never ran.
func (h *Holder) Close() {
	h.manager.flush()
	for _, f := range []*os.File{h.socket, h.metrics, h.lock, h.program, h.notify.oci, h.notify.lxc} {
		if f != nil {
			f.Close()
		}
	}
	if h.arena != nil {
		h.arena.Close()
	}
	if h.programs != nil {
		h.programs.Close()
	}
	if h.calls != nil {
		h.calls.Close()
	}
}
