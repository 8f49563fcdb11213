package top

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// guestsOf makes rows with tasks: "a1 b3".
func guestsOf(text string) (rows []Row) {
	for _, word := range strings.Fields(text) {
		var tasks int64
		name := strings.TrimRight(word, "0123456789")
		fmt.Sscan(word[len(name):], &tasks)
		rows = append(rows, Row{Usage: api.Usage{Name: name, Figures: api.Figures{Pids: tasks}}})
	}
	return rows
}

// press types keys, separated by spaces; a word of "text:..." types its letters.
func press(v *view, words string) (quit bool) {
	for _, word := range strings.Fields(words) {
		letters, typed := strings.CutPrefix(word, "text:")
		if !typed {
			text := ""
			if len(word) == 1 {
				text = word
			}
			quit = v.key(word, text)
			continue
		}
		for _, r := range letters {
			quit = v.key(string(r), string(r))
		}
	}
	return quit
}

// state is what there is to see of a view: the guests that have room, the selected one in brackets.
func state(v *view) string {
	var words []string
	for _, r := range v.shown[v.first:min(v.first+v.height, len(v.shown))] {
		word := r.Name
		if word == v.selected {
			word = "[" + word + "]"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// TestKeys: what each key does to the guests on a screen that has room for three.
func TestKeys(t *testing.T) {
	for _, c := range []struct{ keys, want string }{
		{"", "a b c"}, {"p", "e d c"}, {"p p", "a b c"}, {"p i", "a b c"}, {"n", "e d c"}, {"n n", "a b c"}, {"n i i", "e d c"}, {"p n", "a b c"}, {"p p p", "e d c"},
		{"Down", "[a] b c"}, {"Up", "[a] b c"}, {"j j", "a [b] c"}, {"j j k", "[a] b c"}, {"j j j j", "b c [d]"}, {"End", "c d [e]"}, {"G k k k", "[b] c d"},
		{"PgDn", "b c [d]"}, {"PgDn PgDn PgDn", "c d [e]"}, {"G PgUp", "[b] c d"}, {"G Home", "[a] b c"}, {"G g", "[a] b c"},
		{"j p", "c b [a]"},   // the selection follows the guest
		{"j p Esc", "e d c"}, // until it is taken away
		{"/ text:b", "b"}, {"/ text:B", "b"}, {"/ text:x", ""}, {"/ text:x Esc", "a b c"}, {"/ text:x Backspace2", "a b c"}, {"/ text:xb Ctrl-U", "a b c"},
		{"/ text:q", ""}, {"/ text:b Enter p", "b"}, {"/ text:b Enter Esc", "a b c"}, {"/ text:b Enter / text:c", ""},
		{"/ text:x Enter Down End PgUp", ""}, // nothing to select
		{"j j / text:c", "c"}, {"j j / text:c Esc", "a [b] c"},
		{"h p", "a b c"}, {"? x p", "e d c"}, {"F1 Esc p", "e d c"}, {"x y z 1 Left Tab", "a b c"},
	} {
		v := newView(0)
		v.resize(3)
		v.looked(guestsOf("b2 a1 e5 d4 c3"), time.Now(), nil)
		if press(v, c.keys) || state(v) != c.want {
			t.Errorf("%q: %q, want %q", c.keys, state(v), c.want)
		}
	}
	for keys, want := range map[string]bool{"q": true, "Ctrl-C": true, "/ q": false, "/ Ctrl-C": true, "h q": true, "Esc": false, "/ text:q Enter q": true} {
		if v := newView(0); press(v, keys) != want {
			t.Errorf("%q: quit %v, want %v", keys, !want, want)
		}
	}
}

// TestFilterLength: a filter is no longer than a name, and has whole letters.
func TestFilterLength(t *testing.T) {
	v := newView(0)
	press(v, "/ text:"+strings.Repeat("ä", 50))
	if v.filter != strings.Repeat("ä", 32) {
		t.Errorf("%q", v.filter)
	}
	if press(v, "Backspace"); v.filter != strings.Repeat("ä", 31) {
		t.Errorf("%q", v.filter)
	}
}

// TestLooks: the order and the selection hold over looks; a failed look changes no figure.
func TestLooks(t *testing.T) {
	v := newView(3)
	v.resize(2)
	v.looked(guestsOf("a1 b2 c3"), time.Now(), nil)
	press(v, "j j")
	for _, c := range []struct {
		rows string
		err  error
		want string
	}{
		{"a1 b9 c3", nil, "[b] c"}, {"a8 b1 c3", nil, "c [b]"}, {"", errors.New("gone"), "c [b]"}, {"a8 c3", nil, "a c"}, {"", nil, ""}, {"a1 b2", nil, "[b] a"},
	} {
		v.looked(guestsOf(c.rows), time.Now(), c.err)
		if state(v) != c.want || (v.err == nil) != (c.err == nil) {
			t.Errorf("%q, %v: %q, %v, want %q", c.rows, c.err, state(v), v.err, c.want)
		}
	}
}

// TestThousand: with a thousand guests the selection goes to each of them, and each key is fast.
func TestThousand(t *testing.T) {
	var rows []Row
	for i := range 1000 {
		rows = append(rows, Row{Usage: api.Usage{Name: fmt.Sprintf("guest-%03d", i), Figures: api.Figures{Pids: int64(i * 7 % 1000)}}})
	}
	v := newView(0)
	v.resize(40)
	v.looked(rows, time.Now(), nil)
	for i := range 1000 {
		if press(v, "j"); v.selected != fmt.Sprintf("guest-%03d", i) || !strings.Contains(state(v), "["+v.selected+"]") {
			t.Fatalf("%d: %q: %s", i, v.selected, state(v))
		}
	}
	if press(v, "/ text:9"); len(v.shown) != 271 {
		t.Errorf("%d guests have a 9, want 271", len(v.shown))
	}
}

// TestKeysText: the help has a line for each key, and none is as wide as to be cut on a small terminal.
func TestKeysText(t *testing.T) {
	for line := range strings.Lines(KeysText()) {
		if len(line) > 100 {
			t.Errorf("%d bytes: %s", len(line), line)
		}
	}
	if n := strings.Count(KeysText(), "\n"); n != len(keys) || !strings.Contains(KeysText(), "   n c m p r d   sort") {
		t.Errorf("%d lines:\n%s", n, KeysText())
	}
}
