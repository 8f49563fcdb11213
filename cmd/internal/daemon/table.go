package daemon

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// table has the guests by name. A guest is in it from before its set-up until after its removal.
type table struct {
	most int // immutable; guests

	mu      sync.Mutex
	guests  map[string]*guest // guarded by mu
	closing bool              // guarded by mu: no new guests

	inside map[*host.Hierarchy]map[uint64]int // guarded by mu; boundaries of served guests, by kernfs id
}

func newTable(most int) *table {
	return &table{most: most, guests: map[string]*guest{}, inside: map[*host.Hierarchy]map[uint64]int{}}
}

// reserve enters a new guest, locked, or finds the existing one with the same spec: then mine is false. fault.Conflict
// for another spec or a used target, fault.Busy at the limit or while the daemon ends.
func (t *table) reserve(g *guest) (found *guest, mine bool, err error) {
	r := &g.record
	for {
		old, err := t.enter(g)
		if err != nil {
			return nil, false, err
		}
		if old == nil {
			return g, true, nil
		}
		// Waits for a set-up or removal under way.
		old.mu.Lock()
		gone := old.gone
		old.mu.Unlock()
		if gone {
			continue
		}
		if !reflect.DeepEqual(old.record.Spec, r.Spec) || old.record.Rule != r.Rule {
			return nil, false, fault.New(fault.Conflict,
				"cannot add guest %s: there is one of that name with another configuration, made by %s; "+
					"remove it first (vcgroupfs guest rm %s)", r.Name, old.record.maker(), r.Name)
		}
		return old, false, nil
	}
}

// enter puts a new guest into the table and locks it, unless there is one of its name, which it returns.
func (t *table) enter(g *guest) (old *guest, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := g.record.Name
	if old := t.guests[name]; old != nil {
		return old, nil
	}
	if t.closing {
		return nil, fault.New(fault.Busy, "cannot add guest %s: the daemon is ending", name)
	}
	if len(t.guests) >= t.most {
		return nil, fault.New(fault.Busy,
			"cannot add guest %s: there are %d, as many as serve --max-guests allows", name, len(t.guests))
	}
	for _, other := range t.guests {
		if other.at.Target == g.at.Target {
			return nil, fault.New(fault.Conflict, "cannot add guest %s: the view of guest %s is mounted at %s", name,
				other.record.Name, g.at.Target)
		}
	}
	g.mu.Lock()
	t.guests[name] = g
	return nil, nil
}

// put enters a resumed guest.
func (t *table) put(g *guest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.guests[g.record.Name] = g
}

// forget removes a guest from the table.
func (t *table) forget(g *guest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.guests[g.record.Name] == g {
		delete(t.guests, g.record.Name)
	}
}

// close refuses new guests from now on.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing = true
}

// isClosing reports that another worker takes over the guests, or that all of them are being removed. It holds before
// any view is suspended.
func (t *table) isClosing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closing
}

// named returns the guest of a name, nil if there is none.
func (t *table) named(name string) *guest {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.guests[name]
}

// count returns the number of guests.
func (t *table) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.guests)
}

// serve marks a guest as served.
func (t *table) serve(g *guest, s *views.Served) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range s.Boundaries {
		of := t.inside[b.Hierarchy()]
		if of == nil {
			of = map[uint64]int{}
			t.inside[b.Hierarchy()] = of
		}
		of[b.ID()]++
	}
	g.serving.Store(s)
}

// unserve marks a guest as served no more, and returns what served it; nil if nothing did.
func (t *table) unserve(g *guest) *views.Served {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := g.serving.Swap(nil)
	if s == nil {
		return nil
	}
	for _, b := range s.Boundaries {
		of := t.inside[b.Hierarchy()]
		if of[b.ID()]--; of[b.ID()] == 0 {
			delete(of, b.ID())
		}
		if len(of) == 0 {
			delete(t.inside, b.Hierarchy())
		}
	}
	return s
}

// hierarchies lists the hierarchies in which guests that are served have boundaries.
func (t *table) hierarchies() []*host.Hierarchy {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.inside))
}

// hasAny reports that some of the cgroups is the boundary of a guest that is served.
func (t *table) hasAny(in host.Ancestry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for hier, ids := range in {
		if slices.ContainsFunc(ids, func(id uint64) bool { return t.inside[hier][id] > 0 }) {
			return true
		}
	}
	return false
}

// all lists the guests.
func (t *table) all() []*guest {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*guest, 0, len(t.guests))
	for _, g := range t.guests {
		all = append(all, g)
	}
	return all
}

// sorted lists the served guests by name.
func (t *table) sorted() []*guest {
	all := slices.DeleteFunc(t.all(), func(g *guest) bool { return g.served() == nil })
	slices.SortFunc(all, func(a, b *guest) int { return strings.Compare(a.record.Name, b.record.Name) })
	return all
}

func notFound(name string) error {
	return fault.New(fault.NotFound, "there is no guest %s; vcgroupfs guest ls lists them", name)
}

// find finds a served guest. fault.NotFound.
func (t *table) find(name string) (*guest, error) {
	g := t.named(name)
	if g == nil || g.served() == nil {
		return nil, notFound(name)
	}
	return g, nil
}

// with calls f with a guest's boundaries, and keeps the guest from being removed meanwhile. fault.NotFound, or the
// error of f.
func (t *table) with(name string, f func(g *guest, boundaries []*host.Boundary) error) error {
	g, err := t.find(name)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.boundaries()
	if b == nil {
		return notFound(name)
	}
	return f(g, b)
}
