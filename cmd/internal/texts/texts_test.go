package texts

import "testing"

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{-1: "-", 0: "0B", 1023: "1023B", 1024: "1K", 1536: "1.5K", 1<<20 - 1: "1M", 1 << 30: "1G", 5 << 40: "5T", 1<<63 - 1: "8E"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// TestVisible: no character of a guest's that moves the cursor, hides text or turns it round reaches the terminal.
func TestVisible(t *testing.T) {
	for s, want := range map[string]string{
		"web": "web", "käse 5": "käse 5", `a\b"c`: `a\b"c`, "": "", "a\x1b[2J": `a\x1b[2J`, "a\nb\\": `a\nb\\`, "\u009b1m": `\u009b1m`, "\x9b1m": `\x9b1m`,
		"a\u202eb": `a\u202eb`, "a\u200bb": `a\u200bb`, "a\tb": `a\tb`, "\x7f": `\x7f`, "\xff": `\xff`,
	} {
		if got := Visible(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestDashes(t *testing.T) {
	for got, want := range map[string]string{
		Dash(""): "-", Count(-1): "-", CPUTime(-1): "-", State(false): "-", Count(7): "7", State(true): "frozen",
		CPUTime(1_234_567): "1.23s", OfLimit("3", "-"): "3", OfLimit("3", "64"): "3/64", Dash("x"): "x",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
