package holder

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
)

// endViews aborts the connections and unmounts the views of the guests that no worker removed. It reads the regions'
// headers alone.
func (h *Holder) endViews() {
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
		h.log.Errorf("%s is ended: no worker removed it", label)
	}
}

// abortConnection ends a guest's connection by its number, which is the minor of its file system's device: also where a
// dead worker's thread still has it open.
func abortConnection(device uint64) {
	path := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(device))
	_ = os.WriteFile(path, []byte("1"), 0) // missing when fusectl is not mounted, or the connection has ended
}
