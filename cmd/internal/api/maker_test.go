package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// TestMaker: who asks is known to the daemon, whatever bytes a path has.
func TestMaker(t *testing.T) {
	for _, m := range []Maker{{By: ByHook, Of: "/run/a b/ü\n&of=x"}, {By: ByNRI}, {By: ByHand}} {
		h := http.Header{}
		m.put(h)
		if got, err := makerOf(h); err != nil || got != m {
			t.Errorf("%+v arrives as %+v, %v", m, got, err)
		}
	}
	if got, err := makerOf(http.Header{}); err != nil || got != (Maker{By: ByHand}) {
		t.Errorf("who says nothing is %+v, %v", got, err)
	}
	for said, want := range map[string]string{
		"by=self": "allowed: hand, hook, nri", "by=declared": "not allowed", "x": "not allowed", "by=%zz": "cannot read", "by=hook&of=" + strings.Repeat("x", 4097): "4097 bytes",
	} {
		if _, err := makerOf(http.Header{makerHeader: {said}}); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v; want %q", said, err, want)
		}
	}
}

// TestClientAs: a client asks as the maker that it is made for, and the one that it was made of goes on as before.
func TestClientAs(t *testing.T) {
	f := &fake{}
	socket, _ := served(t, Config{Backend: f})
	hand := NewClient(socket)
	defer hand.Close()
	hook := hand.As(Maker{By: ByHook, Of: "/b"})
	for _, c := range []*Client{hook, hand} {
		if _, _, err := c.Add(t.Context(), "web", GuestSpec{Boundary: "/a", Target: "/t"}); err != nil {
			t.Error(err)
		}
	}
	if err := hook.Remove(t.Context(), "web", true); err != nil {
		t.Error(err)
	}
	if got := strings.Join(f.reached(), "; "); got != "add web as hook of /b; add web; remove web as hook of /b by force" {
		t.Error(got)
	}
}
