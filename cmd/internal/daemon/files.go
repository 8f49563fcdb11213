package daemon

import (
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// roomyFiles is a guest's fair share of descriptors, on average over the maximum number of guests.
const roomyFiles = 64

// shareFiles divides the worker's descriptors. Three eighths serve the guests' open files, and a guest may use as many
// as are left of those: half if it is alone, so that another guest always finds some. Each open needs two at most, its
// own and the leaf's. An eighth serves directories kept open for speed. The rest serves the worker's connections,
// boundaries and views.
func (d *Daemon) shareFiles(h *host.Host) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		d.log.WithError(err).Warn("cannot tell how many descriptors there may be: guests are not kept from using all of them")
		return
	}
	files := int(min(limit.Cur, 1<<30))
	opens := files * 3 / 8
	d.worker.Arena.Bound(opens)
	h.SetMaxDirs(files / 8)
	// Only the first worker warns.
	if wanted := roomyFiles * d.settings.MaxGuests; files < wanted && d.start.Reason == "" {
		d.log.Warnf(
			"this process may have %d descriptors only: one guest may have %d files open, and fewer where others have many; "+
				"raise RLIMIT_NOFILE (LimitNOFILE= of the unit, ulimit -n) to %d or more, or lower --max-guests (%d)",
			files, min(opens/2, d.settings.MaxOpen), wanted, d.settings.MaxGuests)
	}
}
