package daemon

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// table has the guests by name. A guest is in it from before its set-up until after its removal.
type table struct {
	most int // immutable; guests

	mu      sync.Mutex
	guests  map[string]*guest // guarded by mu
	closing bool              // guarded by mu: no new guests
}

func newTable(most int) *table { return &table{most: most, guests: map[string]*guest{}} }

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
