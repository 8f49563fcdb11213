package daemon

import (
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// entry makes a guest of a name with a target.
func entry(name, at string) *guest {
	return &guest{record: record{Name: name, Spec: api.GuestSpec{Boundary: "/" + name, Target: at}},
		at: attach.Mountpoint{Target: target.Target{Path: at}}}
}

// TestReserve: who gets a name, and what the others are told.
func TestReserve(t *testing.T) {
	x := newTable(2)
	web := entry("web", "/web")
	g, mine, err := x.reserve(web)
	if g != web || !mine || err != nil || web.mu.TryLock() {
		t.Fatalf("%v, %v, %v: want the guest, locked", g, mine, err)
	}
	web.mu.Unlock()
	if g, mine, err := x.reserve(entry("web", "/web")); g != web || mine || err != nil {
		t.Errorf("the same again: %v, %v, %v", g, mine, err)
	}
	byRule := entry("web", "/web")
	byRule.record.Rule = "/docker/{id}"
	for _, c := range []struct {
		what string
		g    *guest
		kind fault.Kind
		says string
	}{
		{"another spec", entry("web", "/other"), fault.Conflict, "another configuration, made by hand; remove it first (vcgroupfs guest rm web)"},
		{"another rule", byRule, fault.Conflict, "another configuration"},
		{"a used target", entry("db", "/web"), fault.Conflict, "cannot add guest db: the view of guest web is mounted at /web"},
	} {
		g, mine, err := x.reserve(c.g)
		wantFault(t, c.what, err, c.says)
		if g != nil || mine || fault.Of(err) != c.kind {
			t.Errorf("%s: %v, %v, kind %d", c.what, g, mine, fault.Of(err))
		}
	}
	db := entry("db", "/db")
	if _, mine, err := x.reserve(db); !mine || err != nil {
		t.Fatal(mine, err)
	}
	db.mu.Unlock()
	_, _, err = x.reserve(entry("more", "/more"))
	wantFault(t, "a third", err, "there are 2, as many as serve --max-guests allows")
	x.forget(entry("db", "/db"))
	if x.named("db") != db {
		t.Error("another guest of the name was forgotten")
	}
	x.forget(db)
	if x.named("db") != nil || len(x.all()) != 1 {
		t.Error("the guest was not forgotten")
	}
	if x.isClosing() {
		t.Error("closing at once")
	}
	x.close()
	_, _, err = x.reserve(entry("late", "/late"))
	wantFault(t, "while closing", err, "the daemon is ending")
	if g, _, err := x.reserve(entry("web", "/web")); g != web || err != nil || !x.isClosing() {
		t.Errorf("one that exists, while closing: %v, %v", g, err)
	}
}

// TestReserveWaits: a name whose guest is being removed is free once that is done, and is given to one only.
func TestReserveWaits(t *testing.T) {
	x := newTable(2)
	old := entry("web", "/web")
	if _, _, err := x.reserve(old); err != nil {
		t.Fatal(err)
	}
	const callers = 8
	results := make(chan bool, callers)
	for range callers {
		go func() {
			g, mine, err := x.reserve(entry("web", "/web"))
			if err != nil || g == old {
				t.Errorf("%v, %v", g, err)
			}
			if mine {
				g.mu.Unlock()
			}
			results <- mine
		}()
	}
	select {
	case <-results:
		t.Error("did not wait for the removal")
	default:
	}
	old.gone = true
	x.forget(old)
	old.mu.Unlock()
	made := 0
	for range callers {
		if <-results {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d callers have made the guest", made)
	}
}

// TestServedGuests: a guest is found by name and listed once it is served, and no more when it is not.
func TestServedGuests(t *testing.T) {
	x := newTable(9)
	served := &views.Served{Boundaries: []*host.Boundary{}}
	for _, name := range []string{"c", "a", "b"} {
		g := entry(name, "/"+name)
		x.put(g)
		if name != "b" {
			x.serve(g, served)
		}
	}
	var names []string
	for _, g := range x.sorted() {
		names = append(names, g.record.Name)
	}
	if strings.Join(names, " ") != "a c" {
		t.Error(names)
	}
	reached := ""
	do := func(g *guest, b []*host.Boundary) error {
		reached = g.record.Name
		if b == nil || g.mu.TryLock() {
			t.Error("not held, or without boundaries")
		}
		return errTest
	}
	if err := x.with("a", do); err != errTest || reached != "a" {
		t.Error(err, reached)
	}
	for _, name := range []string{"b", "none"} {
		err := x.with(name, do)
		wantFault(t, name, err, "there is no guest "+name)
		if fault.Of(err) != fault.NotFound {
			t.Error(fault.Of(err))
		}
		if _, err := x.find(name); fault.Of(err) != fault.NotFound {
			t.Error(err)
		}
	}
	// Removed between the search and the lock.
	g := x.named("a")
	g.mu.Lock()
	ended := make(chan error)
	go func() { ended <- x.with("a", do) }()
	x.unserve(g)
	g.mu.Unlock()
	if err := <-ended; err != errTest && fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
}
