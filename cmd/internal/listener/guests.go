package listener

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// record is the part of a guest's record (package daemon) that the answerer uses. The worker keeps the record in the
// arena.
type record struct {
	Name string `json:"name"`
	Spec struct {
		Pid         int      `json:"pid"`
		Target      string   `json:"target"`
		Rootfs      string   `json:"rootfs"`
		Policy      string   `json:"policy"`
		Layout      string   `json:"layout"`
		Controllers []string `json:"controllers"`
	} `json:"spec"`
	Boundaries []struct {
		Tree string `json:"tree"`
		ID   uint64 `json:"id"`
		Path string `json:"path"`
	} `json:"boundaries"`
	PidStart uint64 `json:"pidStart"`
	Self     bool   `json:"self"`
}

// Bounds of a guest.
const (
	maxOfGuest = 48                     // calls under way at once
	stuckAfter = 200 * time.Millisecond // since a slot was last given back: then the calls in all slots hang
)

// guest is a guest of the worker.
type guest struct {
	sight      state.Sight  // immutable
	record     record       // immutable
	view       *notify.View // nil before it is found; guests.find returns only guests with a view, which they keep
	boundaries []*host.Boundary
	policy     *policy.Policy // immutable

	places chan struct{} // calls under way
	only   chan struct{} // one slot, reserved for this guest
	given  atomic.Int64  // time of the last slot given back, in nanoseconds
}

// enter takes one of the guest's slots. It waits for one, unless the calls in them hang.
func (g *guest) enter() bool {
	select {
	case g.places <- struct{}{}:
		return true
	default:
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		timer := time.NewTimer(stuckAfter / 4)
		select {
		case g.places <- struct{}{}:
			timer.Stop()
			return true
		case <-timer.C:
		}
		if time.Since(time.Unix(0, g.given.Load())) > stuckAfter {
			return false
		}
	}
	return false
}

func (g *guest) give() {
	g.given.Store(time.Now().UnixNano())
	<-g.places
}

// contains reports that a process in those cgroups is inside the guest's boundary in each hierarchy.
func (g *guest) contains(in host.Ancestry) bool {
	outside := func(b *host.Boundary) bool { return !in.Has(b) }
	return len(g.boundaries) > 0 && !slices.ContainsFunc(g.boundaries, outside)
}

// depth orders guests that contain the same process: the larger one is the inner.
func (g *guest) depth() int {
	n := 0
	for _, b := range g.record.Boundaries {
		n = max(n, len(b.Path))
	}
	return n
}

// guests are the guests of the arena.
type guests struct {
	arena *state.Arena
	host  *host.Host

	mu    sync.Mutex
	known map[state.Sight]*guest // guarded by mu
}

func newGuests(a *state.Arena, h *host.Host) *guests {
	return &guests{arena: a, host: h, known: map[state.Sight]*guest{}}
}

// at returns the guests of some sights. Called with mu held.
func (gs *guests) at(sights []state.Sight) (all []*guest) {
	now := map[state.Sight]bool{}
	for _, s := range sights {
		now[s] = true
		g := gs.known[s]
		if g == nil {
			if g = gs.read(s); g == nil {
				continue
			}
			gs.known[s] = g
		}
		if g.view == nil {
			g.view = g.openView()
		}
		all = append(all, g)
	}
	for s, g := range gs.known {
		if !now[s] && !gs.arena.Sees(s) {
			delete(gs.known, s)
			g.close()
		}
	}
	return all
}

// read makes a guest from its record; nil if the guest has ended meanwhile, or is self.
func (gs *guests) read(s state.Sight) *guest {
	g := &guest{sight: s, places: make(chan struct{}, maxOfGuest), only: make(chan struct{}, 1)}
	g.given.Store(time.Now().UnixNano())
	err := json.Unmarshal(gs.arena.Glance(s).Config(), &g.record)
	if err != nil || !gs.arena.Sees(s) || g.record.Self {
		return nil
	}
	if g.policy, err = spec.PolicyOf(g.record.Spec.Policy, g.record.Spec.Controllers); err != nil {
		// The worker does not serve it either.
		return nil
	}
	for _, id := range g.record.Boundaries {
		for _, t := range gs.host.Hierarchies() {
			if t.String() != id.Tree {
				continue
			}
			if b, err := t.BoundaryByID(id.ID, id.Path); err == nil {
				g.boundaries = append(g.boundaries, b)
			}
		}
	}
	return g
}

// openView finds the view at the daemon's mount point.
func (g *guest) openView() *notify.View {
	at := target.Target{Rootfs: g.record.Spec.Rootfs, Path: g.record.Spec.Target}
	if at.Rootfs == "" {
		// The path to the daemon's own directory may contain links. The device of the mount found is compared.
		at = target.Beside(at.Path)
	}
	fd, err := target.Mount{Device: g.sight.Device}.At(at)
	if err != nil {
		return nil
	}
	v := &notify.View{Root: fd, Mounts: -1, Device: g.sight.Device}
	var all []hierarchy.Hierarchy
	for _, b := range g.boundaries {
		all = append(all, b.Hierarchy().Hierarchy)
	}
	layout, _ := hierarchy.ParseLayout(cmp.Or(g.record.Spec.Layout, hierarchy.LayoutAuto.String()))
	layout = layout.Resolve(all)
	p := g.policy
	if slices.ContainsFunc(all, layout.Translates) {
		p = p.Legacy()
	}
	for _, b := range g.boundaries {
		of := b.Hierarchy().Hierarchy
		for _, one := range layout.Shown(of, all, p.Controllers()) {
			v.Parts = append(v.Parts, notify.PartOf(one, of, b.Path(), p.Permits))
		}
	}
	return v
}

// tree makes a mount of the caller's part of the view.
func (g *guest) tree(c *notify.Caller, fstype, options string) (int, error) {
	v := *g.view
	v.Several = notify.AskType(v.Root) == unix.TMPFS_MAGIC
	return v.Tree(c, fstype, options)
}

func (g *guest) close() {
	for _, b := range g.boundaries {
		b.Close()
	}
	if g.view != nil {
		unix.Close(g.view.Root)
	}
}

// find returns the guest of a container: the one of its first process, confirmed by start time or name; by name alone
// if the pid is unknown; or else the innermost one with that process inside its boundary. nil for none.
func (gs *guests) find(w word, sights []state.Sight) (found *guest) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	all := slices.DeleteFunc(gs.at(sights), func(g *guest) bool { return g.view == nil })
	for _, g := range all {
		if g.record.Spec.Pid == w.pid && w.pid != 0 && (g.record.PidStart == w.start || g.record.Name == w.name) {
			return g
		}
	}
	if w.pid == 0 {
		i := slices.IndexFunc(all, func(g *guest) bool { return g.record.Name == w.name && w.name != "" })
		if i < 0 {
			return nil
		}
		return all[i]
	}
	if start, err := host.StartOf(w.pid); err != nil || start != w.start {
		return nil
	}
	in, err := host.AncestryIn(gs.host.Hierarchies(), w.pid)
	if err != nil {
		return nil
	}
	for _, g := range all {
		if (found == nil || g.depth() > found.depth()) && g.contains(in) {
			found = g
		}
	}
	return found
}

// inGuest reports that a process is inside a guest's boundary, or that this cannot be told.
func (gs *guests) inGuest(pid int) bool {
	in, err := host.AncestryIn(gs.host.Hierarchies(), pid)
	if err != nil {
		return true
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return slices.ContainsFunc(gs.at(gs.arena.Sights(nil)), func(g *guest) bool {
		return slices.ContainsFunc(g.boundaries, in.Has)
	})
}
