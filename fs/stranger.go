package fs

import (
	"sync/atomic"
	"time"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// A process outside the guest can use a view if it reaches the mount. It could use up the guest's bounds, so beyond
// a threshold its use is counted separately. Below the threshold no caller is checked, because that reads /proc, and
// strangers' use there costs the guest little.

// strangersPart divides a guest's bound of open descriptors. Callers are checked above one eighth, and strangers may
// have another eighth, so three quarters are always left to the guest.
const strangersPart = 8

// strangers counts the known opens of strangers, and remembers what the last caller was.
type strangers struct {
	open atomic.Int64
	last atomic.Pointer[checked]
}

// checked is what a caller was at a time.
type checked struct {
	tid      uint32
	at       time.Time
	stranger bool
}

// checkedFor is the time for which a caller counts as what it was: a walk through many cgroups is checked now and then.
const checkedFor = 10 * time.Millisecond

// stranger reports that a caller is outside the boundary in every hierarchy of the view, or was some milliseconds ago.
func (v *View) stranger(tid uint32) bool {
	if last := v.others.last.Load(); last != nil && last.tid == tid && time.Since(last.at) < checkedFor {
		return last.stranger
	}
	now := &checked{tid, time.Now(), v.isOutside(tid)}
	v.others.last.Store(now)
	return now.stranger
}

func (v *View) isOutside(tid uint32) bool {
	for _, b := range v.boundaries() {
		if inside, err := b.Contains(int(tid)); err == nil && inside {
			return false
		}
	}
	return true
}

// admits reports that a caller may have one more open, with the state's flag for it: state.Stranger or 0.
func (v *View) admits(tid uint32) (flag uint32, ok bool) {
	part := max(v.state.Arena().Handles()/strangersPart, 1)
	if v.state.Open() < part || !v.stranger(tid) {
		return 0, true
	}
	if v.others.open.Add(1) > int64(part) {
		v.others.open.Add(-1)
		return 0, false
	}
	return state.Stranger, true
}

// admitted undoes admits when the open ends.
func (v *View) admitted(flags uint32) {
	if flags&state.Stranger != 0 {
		v.others.open.Add(-1)
	}
}

// watchFor is watch on behalf of a caller: a stranger displaces no other watch.
func (v *View) watchFor(hier *viewHierarchy, d *host.Dir, tid uint32) {
	if !hier.watcher.Crowded(d) || !v.stranger(tid) {
		v.watch(hier, d)
	}
}

// watchFileFor is watchFile on behalf of a caller. The state keeps the file for the next server.
func (v *View) watchFileFor(hier *viewHierarchy, d *host.Dir, name string, tid uint32) {
	id := v.fileNode(hier, d.ID(), name, 0)
	if (hier.watcher.Crowded(d) || v.state.CrowdedWatched(id)) && v.stranger(tid) {
		return
	}
	v.watchFile(hier, d, name)
	v.state.AddWatched(id)
}
