package fs

import (
	"sync/atomic"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// A view can be looked at by callers that are not its guest: whoever reaches its mount. What is bounded for the guest they
// could use up, so what they use is counted apart from a mark on. Below it nobody asks who calls, for that costs a look at
// /proc: what strangers take there the guest does not miss.

// strangersPart is the part of a guest's open descriptors up to which nobody asks, and the part that strangers may have
// beyond it: an eighth each, so three quarters are the guest's whatever they do.
const strangersPart = 8

// strangers counts the opens that are known to be strangers'.
type strangers struct{ open atomic.Int64 }

// stranger says whether a caller is outside the guest: outside its boundary in every hierarchy of the view.
func (v *View) stranger(tid uint32) bool {
	for _, hier := range v.hierarchies {
		if inside, err := hier.boundary.Contains(int(tid)); err == nil && inside {
			return false
		}
	}
	return true
}

// admits says whether a caller may open one more, and what the state is to know of the open: state.Stranger or 0.
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

// admitted takes back what admits counted, when the open ends.
func (v *View) admitted(flags uint32) {
	if flags&state.Stranger != 0 {
		v.others.open.Add(-1)
	}
}

// watchFor is watch for a caller: a stranger puts no end to another watch.
func (v *View) watchFor(hier *viewHierarchy, d *host.Dir, tid uint32) {
	if !hier.watcher.Crowded(d) || !v.stranger(tid) {
		v.watch(hier, d)
	}
}

// watchFileFor is watchFile for a caller, and has the next server watch the file as well.
func (v *View) watchFileFor(hier *viewHierarchy, d *host.Dir, name string, tid uint32) {
	id := v.fileNode(hier, d.ID(), name, 0)
	if (hier.watcher.Crowded(d) || v.state.CrowdedWatched(id)) && v.stranger(tid) {
		return
	}
	v.watchFile(hier, d, name)
	v.state.AddWatched(id)
}
