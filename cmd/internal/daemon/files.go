package daemon

import (
	"golang.org/x/sys/unix"
)

// roomyFiles is how many descriptors a guest should find, on average, where there are as many guests as may be.
const roomyFiles = 64

// shareFiles divides the descriptors that the worker may have. Three eighths are for what guests have open, and a guest may have as many
// as are left of those: half where it is alone, so another always finds some. Each open has at most two, its own and the leaf's. An
// eighth is for directories that are kept open for speed. The rest is the worker's own: connections, boundaries, views.
func (d *Daemon) shareFiles() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		d.log.WithError(err).Warn("cannot tell how many descriptors there may be: guests are not kept from using all of them")
		return
	}
	files := int(min(limit.Cur, 1<<30))
	opens := files * 3 / 8
	d.arena.Bound(opens)
	d.host.SetMaxDirs(files / 8)
	if wanted := roomyFiles * d.settings.MaxGuests; files < wanted && d.start.Reason == "" { // the first worker says it
		d.log.Warnf("this process may have %d descriptors only: one guest may have %d files open, and fewer where others have many; "+
			"raise RLIMIT_NOFILE (LimitNOFILE= of the unit, ulimit -n) to %d or more, or lower --max-guests (%d)",
			files, min(opens/2, d.settings.MaxOpen), wanted, d.settings.MaxGuests)
	}
}
