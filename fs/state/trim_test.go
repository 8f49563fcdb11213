package state

import (
	"testing"

	"golang.org/x/sys/unix"
)

// pages is the memory of an arena.
func pages(t *testing.T, a *Arena) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(a.File().Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512 / pageSize
}

// TestTrim: slots cost memory only while there are opens, and a number that an open had is not given to another.
func TestTrim(t *testing.T) {
	a := newArena(t, 2, 200)
	r := allocate(t, a, "web")
	r.SetInit([]byte("init"))
	before := pages(t, a)
	var all []uint64
	for range 150 {
		fh, ok := r.Add(Handle{Unique: 7})
		if !ok {
			t.Fatal("no room")
		}
		all = append(all, fh)
	}
	for _, fh := range all[1:] {
		r.Remove(fh)
	}
	full := pages(t, a)
	r.Trim()
	if n := pages(t, a); n != full || r.Open() != 1 || full < before+3 {
		t.Errorf("trimmed while a file is open: %d, %d, %d pages", before, full, n)
	}
	r.Remove(all[0])
	r.Trim()
	r.Trim()
	if n := pages(t, a); n != before || r.Open() != 0 || len(r.Opens()) > 0 {
		t.Errorf("%d pages are left, want %d", n, before)
	}
	if fh, ok := r.Add(Handle{Unique: 8}); !ok || fh>>slotBits != 151 || fh&(maxSlots-1) != 0 {
		t.Errorf("the next open is %x, %t", fh, ok)
	}
	if opens := next(t, a).Regions()[0].Opens(); len(opens) != 1 || opens[0].Unique != 8 {
		t.Errorf("the next server finds %+v", opens)
	}
}

// TestPeek: what a server asks of an idle guest allocates nothing.
func TestPeek(t *testing.T) {
	a := newArena(t, 2, 200)
	r := allocate(t, a, "web")
	r.SetInit([]byte("init"))
	r.MarkSetUp()
	before := pages(t, a)
	if x := r.LoadAnswers(); x != (Answers{}) || len(r.Watched()) > 0 || len(next(t, a).Regions()) != 1 {
		t.Errorf("%+v, %v", x, r.Watched())
	}
	if n := pages(t, a); n != before {
		t.Errorf("%d pages, before %d", n, before)
	}
	r.AddWatched(5)
	r.Answers().PassedOn = 9
	if x := r.LoadAnswers(); x.PassedOn != 9 || len(r.Watched()) != 1 {
		t.Errorf("%+v, %v", x, r.Watched())
	}
}
