package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func newArena(t *testing.T, guests, handles int) *Arena {
	t.Helper()
	a, err := New(guests, handles)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// next maps the arena as the server after this one does.
func next(t *testing.T, a *Arena) *Arena {
	t.Helper()
	fd, err := unix.FcntlInt(a.File().Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Map(os.NewFile(uintptr(fd), "arena"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func allocate(t *testing.T, a *Arena, config string) *Region {
	t.Helper()
	r, err := a.Allocate([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestNext: what is kept is found by the next server, and what was given back is not.
func TestNext(t *testing.T) {
	a := newArena(t, 3, 8)
	r := allocate(t, a, "one")
	gone := allocate(t, a, "two")
	r.MarkSetUp()
	r.SetInit([]byte("init"))
	r.SetPassthrough(true)
	r.SetIdle(5, Backing{Node: 1, File: 2, ID: 3})
	r.SetLastBacking(3)
	r.AddWatched(77)
	r.AddWatched(77)
	first, _ := r.Add(Handle{Node: 9, Unique: 4, Flags: Writes})
	second, _ := r.Add(Handle{Node: 10, Unique: 6})
	r.Remove(first)
	r.Update(second, func(h *Handle) { h.Kh = 11 })
	e := r.Begin(Entry{Unique: 20, Op: 9, A: 1})
	r.Begin(Entry{Unique: 22, Op: 9, B: 2})
	e.Finish(17)
	gone.Release()

	regions := next(t, a).Regions()
	if len(regions) != 1 {
		t.Fatalf("%d regions", len(regions))
	}
	n := regions[0]
	if !n.IsSetUp() || string(n.Config()) != "one" || string(n.Init()) != "init" || !n.Passthrough() || n.LastBacking() != 3 ||
		n.Idle(5) != (Backing{Node: 1, File: 2, ID: 3}) || n.Idle(4).ID != 0 || len(n.Watched()) != 1 || n.Watched()[0] != 77 {
		t.Error("something of the region is lost")
	}
	if got := n.Opens(); len(got) != 1 || got[0] != (Handle{FH: second, Node: 10, Unique: 6, Kh: 11}) || n.Open() != 1 {
		t.Errorf("open: %+v", got)
	}
	n.AddWatched(78) // takes no place that is taken
	if got := n.Watched(); len(got) != 2 || got[0] != 77 || got[1] != 78 {
		t.Errorf("watched: %v", got)
	}
	if fh, ok := n.OpenedBy(6); !ok || fh != second {
		t.Error("the open is not found by its request")
	}
	if _, ok := n.OpenedBy(4); ok {
		t.Error("a closed open is found by its request")
	}
	if fh, ok := n.Add(Handle{}); !ok || fh == first || fh == second {
		t.Errorf("the next handle is %d after %d and %d", fh, first, second)
	}
	if e := n.Find(20); e == nil || e.State != Done || e.Status != 17 || e.A != 1 || e.Op != 9 {
		t.Errorf("the finished entry: %+v", e)
	}
	if e := n.Find(22); e == nil || e.State != Begun || e.B != 2 {
		t.Errorf("the begun entry: %+v", e)
	}
	n.RetireBut(func(unique uint64) bool { return unique == 22 })
	kept := n.Find(22)
	n.Retire(22)
	n.Retire(22)
	if n.Find(20) != nil || kept == nil || n.Find(22) != nil {
		t.Error("entries are not retired as they should be")
	}
}

// TestLabel: the label outlives its server, leaves the configuration alone, and is not kept where it does not fit.
func TestLabel(t *testing.T) {
	a := newArena(t, 2, 1)
	r := allocate(t, a, "configuration")
	if got := r.Label(); got != "" {
		t.Errorf("before it is set: %q", got)
	}
	for _, label := range []string{"the view of guest web at /srv/web", "self"} {
		r.SetLabel(label)
		got := next(t, a).Regions()[0]
		if got.Label() != label || string(got.Config()) != "configuration" {
			t.Errorf("label %q, configuration %q", got.Label(), got.Config())
		}
	}
	full := allocate(t, a, strings.Repeat("c", MaxConfig-1))
	full.SetLabel("ab")
	if got := full.Label(); got != "" {
		t.Errorf("a label without room: %q", got)
	}
	full.head.configBytes, full.head.labelBytes = uint32(MaxConfig-1), 1<<20 // as only a faulty server leaves them
	if got := full.Label(); len(got) != 1 {
		t.Errorf("a label of %d bytes, with room for one", len(got))
	}
}

// TestHead: the head has the size that it had in programs before, and what attributes cost is known to the next server only
// when somebody has counted it, be it 0.
func TestHead(t *testing.T) {
	if headSize != 296 {
		t.Errorf("the head of a region has %d bytes; the configuration behind it, of older programs, begins at 296", headSize)
	}
	a := newArena(t, 1, 1)
	r := allocate(t, a, "")
	r.SetInit(bytes.Repeat([]byte{0xff}, maxInit))
	if n, known := r.Attrs(); n != 0 || known {
		t.Errorf("before it was counted: %d, %v", n, known)
	}
	for _, sum := range []uint64{0, 4096} {
		r.SetAttrs(sum)
		if n, known := next(t, a).Regions()[0].Attrs(); n != sum || !known {
			t.Errorf("kept %d, found %d, %v", sum, n, known)
		}
	}
}

// TestBounds: what does not fit is refused, and a place that was given back is there again.
func TestBounds(t *testing.T) {
	a := newArena(t, 1, 4)
	if _, err := a.Allocate(make([]byte, MaxConfig+1)); !errors.Is(err, unix.E2BIG) {
		t.Errorf("a configuration that is too long: %v", err)
	}
	r := allocate(t, a, "x")
	if _, err := a.Allocate(nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("one guest too many: %v", err)
	}
	var last uint64
	for range 4 {
		fh, ok := r.Add(Handle{Node: 1})
		if !ok {
			t.Fatal("no room")
		}
		last = fh
	}
	if _, ok := r.Add(Handle{}); ok {
		t.Error("one handle too many")
	}
	r.Remove(last)
	r.Remove(last)
	if fh, ok := r.Add(Handle{}); !ok || fh == last {
		t.Error("the place is not free again, or the handle is one that was")
	}
	r.Remove(last) // not the slot's any more
	if r.Open() != 4 {
		t.Errorf("%d open", r.Open())
	}
	for i := range maxEntries {
		if r.Begin(Entry{Unique: uint64(i + 1)}) == nil {
			t.Fatal("no room for an entry")
		}
	}
	if e := r.Begin(Entry{Unique: 1000}); e != nil {
		t.Error("one entry too many")
	} else {
		e.Finish(0) // harmless
	}
	for i := range uint64(maxWatched + 3) {
		r.AddWatched(i + 1)
	}
	if w := r.Watched(); len(w) != maxWatched || bytes.Contains([]byte{byte(w[0])}, []byte{1}) {
		t.Errorf("%d watched, the first is %d", len(w), w[0])
	}
	r.Release()
	if r := allocate(t, a, "y"); r.Open() != 0 || r.Find(1) != nil || r.Init() != nil {
		t.Error("a new guest has something of the one before")
	}
}

// TestSuspects: crashes are counted for each request.
func TestSuspects(t *testing.T) {
	r := allocate(t, newArena(t, 1, 1), "")
	for want := uint64(1); want < 4; want++ {
		if got := r.Suspect(8); got != want {
			t.Errorf("%d crashes, want %d", got, want)
		}
	}
	for u := range uint64(10) {
		r.Suspect(100 + u)
	}
	if r.Suspect(8) != 4 {
		t.Error("the worst one was forgotten")
	}
	r.Cleared(8)
	if r.Suspect(8) != 1 {
		t.Error("it was not cleared")
	}
}

// TestNames: numbers stay, and end.
func TestNames(t *testing.T) {
	a := newArena(t, 1, 1)
	name := func(i int) string {
		return string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))
	}
	for i := range maxNames + 10 {
		n := a.NameNumber(name(i))
		if i >= maxNames && n != 0 || i < maxNames && n != uint64(i+1) {
			t.Fatalf("name %d has number %d", i, n)
		}
	}
	b := next(t, a)
	if got, ok := b.Name(7); !ok || got != name(6) || b.NameNumber(name(3)) != 4 || len(b.Names()) != maxNames {
		t.Errorf("number 7 is %q for the next server", got)
	}
	if _, ok := b.Name(0); ok || a.NameNumber(string(make([]byte, 300))) != 0 {
		t.Error("number 0 is a name's, or one that is too long has a number")
	}
}

// TestMapRefuses: what is no arena, or another version's.
func TestMapRefuses(t *testing.T) {
	a := newArena(t, 2, 4)
	a.head().version++
	if fd, err := unix.Dup(int(a.File().Fd())); err != nil {
		t.Fatal(err)
	} else if _, err := Map(os.NewFile(uintptr(fd), "arena")); err == nil {
		t.Error("another version's layout is taken")
	}
	a.head().version--
	a.head().guests = 3
	fd, _ := unix.Dup(int(a.File().Fd()))
	if _, err := Map(os.NewFile(uintptr(fd), "arena")); err == nil {
		t.Error("sizes that do not fit are taken")
	}
	for _, size := range []int64{0, 10, regionsBase + 4096} {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		f.Truncate(size)
		if _, err := Map(f); err == nil {
			t.Errorf("a file of %d bytes is taken for an arena", size)
		}
		f.Close()
	}
}

// TestCalls: what a process has received is there for the next one.
func TestCalls(t *testing.T) {
	c, err := NewCalls()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, key := range []uint64{1, MaxListeners} {
		c.Of(key)[CallsOfListener-1].ID = 7 * key
	}
	fd, err := unix.FcntlInt(c.File().Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	next, err := MapCalls(os.NewFile(uintptr(fd), "calls"))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if a, b := next.Of(1)[CallsOfListener-1].ID, next.Of(MaxListeners)[CallsOfListener-1].ID; a != 7 || b != 7*MaxListeners {
		t.Errorf("the next process finds %d and %d", a, b)
	}
	next.Forget(1)
	if got := c.Of(1)[CallsOfListener-1].ID; got != 0 {
		t.Errorf("a listener that is forgotten has a call %d", got)
	}
	if _, err := MapCalls(newArena(t, 1, 1).File()); err == nil {
		t.Error("an arena passes for the memory of calls")
	}
}

// TestSights: who is no server of a guest sees it when it is set up, and no longer than it is there.
func TestSights(t *testing.T) {
	a := newArena(t, 3, 1)
	b := next(t, a)
	r, err := a.Allocate([]byte("of one"))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Sights(nil); len(got) != 0 {
		t.Errorf("a guest that is being made is seen: %v", got)
	}
	r.SetDevice(42)
	r.MarkSetUp()
	got := b.Sights(nil)
	if len(got) != 1 || got[0] != (Sight{0, 42}) || string(b.Glance(got[0]).Config()) != "of one" || !b.Sees(got[0]) {
		t.Fatalf("seen: %v", got)
	}
	atomic.AddUint64(&b.Glance(got[0]).Answers().Answered, 3)
	if n := r.LoadAnswers().Answered; n != 3 {
		t.Errorf("%d calls answered, want 3", n)
	}
	r.Release()
	if b.Sees(got[0]) || len(b.Sights(nil)) != 0 {
		t.Error("a guest that is gone is seen")
	}
}

// TestBound: guests may have as many opens as are left of all: one alone gets half, another one still finds as many as are left then, and
// what is closed, or released with its region, is there again. The next server counts what it finds.
func TestBound(t *testing.T) {
	const bound = 120
	a := newArena(t, 4, 200)
	var regions []*Region
	for range 4 {
		r, err := a.Allocate(nil)
		if err != nil {
			t.Fatal(err)
		}
		r.MarkSetUp()
		regions = append(regions, r)
	}
	a.Bound(bound)
	fill := func(r *Region) (last uint64) {
		for {
			fh, ok := r.Add(Handle{})
			if !ok {
				return last
			}
			last = fh
		}
	}
	last := fill(regions[0])
	if got := regions[0].Open(); got != bound/2 {
		t.Errorf("one alone has %d opens, want %d", got, bound/2)
	}
	fill(regions[1])
	if got := regions[1].Open(); got != bound/4 {
		t.Errorf("another has %d opens, want %d", got, bound/4)
	}
	fill(regions[2])
	fill(regions[3])
	if got := regions[3].Open(); got < leastOpens {
		t.Errorf("the last one has %d opens", got)
	}
	if _, ok := regions[0].Add(Handle{}); ok {
		t.Error("the first one has one more")
	}
	regions[0].Remove(last)
	regions[0].Remove(last) // which is there no more
	left := bound - regions[0].Open() - regions[1].Open() - regions[2].Open() - regions[3].Open()
	if got := bound - int(a.open.Load()); got != left {
		t.Errorf("%d are left, %d are counted", left, got)
	}
	regions[0].Release()
	b, err := mapFile(a.File())
	if err != nil {
		t.Fatal(err)
	}
	b.prepare()
	b.Bound(bound)
	if got, want := b.open.Load(), a.open.Load(); got != want {
		t.Errorf("the next server counts %d, want %d", got, want)
	}
}

// request makes a request of a length with a number.
func request(unique uint64, length int) []byte {
	b := make([]byte, length)
	binary.NativeEndian.PutUint32(b, uint32(length))
	binary.NativeEndian.PutUint64(b[8:], unique)
	b[length-1] = byte(unique)
	return b
}

// TestUnfinished: the next server gets the requests that had begun, and forgets the others.
func TestUnfinished(t *testing.T) {
	a := newArena(t, 2, 8)
	r := allocate(t, a, "one")
	full := allocate(t, a, strings.Repeat("c", MaxConfig))
	for _, region := range []*Region{r, full} {
		region.SetInit([]byte("init"))
		region.MarkSetUp()
		for unique := uint64(2); unique <= 12; unique += 2 {
			length := 64
			if unique == 10 {
				length = copySize // too long
			}
			region.Keep(request(unique, length))
			if unique != 4 {
				region.Begin(Entry{Unique: unique})
			}
		}
		region.Find(6).Finish(0)
		region.Retire(8)
		region.Keep(request(14, 64)) // in the place of 8
		region.Begin(Entry{Unique: 14})
	}
	for range 2 { // as if the next server died, too
		all := next(t, a).Regions()
		got := all[0].Unfinished()
		var uniques []uint64
		for _, u := range got {
			uniques = append(uniques, uniqueOf(u.Request))
			if !bytes.Equal(u.Request, request(uniqueOf(u.Request), 64)) || u.At <= 0 || u.At > sinceBoot() {
				t.Errorf("at %v: %x", u.At, u.Request)
			}
		}
		// What is done may want something after it.
		if !slices.Equal(uniques, []uint64{2, 6, 12, 14}) {
			t.Fatalf("%d", uniques)
		}
		for _, unique := range []uint64{4, 8, 10} {
			if all[0].Find(unique) != nil {
				t.Errorf("%d has an entry", unique)
			}
		}
		if got := all[1].Unfinished(); len(got) != 0 {
			t.Errorf("in a region without room: %x", got)
		}
		if string(all[1].Config()) != strings.Repeat("c", MaxConfig) {
			t.Error("its configuration is another")
		}
	}
	last := next(t, a).Regions()[0]
	for _, unique := range []uint64{2, 6, 12, 14} {
		last.Retire(unique)
	}
	last.Keep(request(16, 64))
	last.Begin(Entry{Unique: 16})
	last.copyHead(0).at -= int64(2 * copyAge) // a server's before one that knew no copies
	if got := next(t, a).Regions()[0].Unfinished(); len(got) != 0 {
		t.Errorf("after their end: %x", got)
	}
}
