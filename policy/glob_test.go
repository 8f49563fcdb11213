package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestGlobMatch(t *testing.T) {
	for _, c := range []struct {
		glob glob
		name string
		want bool
	}{
		{"memory.max", "memory.max", true}, {"memory.max", "memory.maxx", false}, {"memory.*", "memory.", true},
		{"*", "", true}, {"*.max", "pids.max", true}, {"*.max", "pids.max.x", false}, {"a*b*c", "aXbYbc", true},
		{"a*b*c", "acb", false}, {"hugetlb.*.max", "hugetlb.2MB.rsvd.max", true}, {"**", "x", true}, {"", "x", false},
	} {
		if got := c.glob.match(c.name); got != c.want {
			t.Errorf("%q.match(%q) = %v", c.glob, c.name, got)
		}
	}
}

// TestGlobMeets: two globs meet exactly if some name is covered by both; names of up to seven letters show it here.
func TestGlobMeets(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	draw := func(letters string, most int) string {
		var b strings.Builder
		for range r.IntN(most + 1) {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		return b.String()
	}
	var names []string
	for n := range 1 << 8 {
		var b strings.Builder
		for m := n; m > 1; m >>= 1 {
			b.WriteByte("ab"[m&1])
		}
		names = append(names, b.String())
	}
	for range 2000 {
		g, h := glob(draw("ab*", 4)), glob(draw("ab*", 3))
		want := false
		for _, n := range names {
			want = want || g.match(n) && h.match(n)
		}
		if got := g.meets(h); got != want || h.meets(g) != want {
			t.Fatalf("%q meets %q: %v; want %v", g, h, got, want)
		}
	}
}

// TestGlobHostile: a glob of many stars costs no more than the product of the lengths.
func TestGlobHostile(t *testing.T) {
	g := glob(strings.Repeat("a*", 120) + "b")
	if g.match(strings.Repeat("a", 1<<14)) {
		t.Error("match without the b")
	}
}
