package top

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gdamore/tcell/v3/color"
	"github.com/gdamore/tcell/v3/vt"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// patience bounds the waits for what a screen shows.
const patience = 30 * time.Second

// emulated is a terminal that keeps what is sent to it beside what it shows.
type emulated struct {
	vt.MockTerm
	mu      sync.Mutex
	sent    strings.Builder // guarded by mu
	stopped bool            // guarded by mu
}

func (e *emulated) Write(b []byte) (int, error) {
	e.mu.Lock()
	e.sent.Write(b)
	e.mu.Unlock()
	return e.MockTerm.Write(b)
}

func (e *emulated) Stop() error {
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	return e.MockTerm.Stop()
}

// raw is all that was sent so far.
func (e *emulated) raw() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sent.String()
}

// text is what the terminal shows, without the spaces at the ends of lines.
func (e *emulated) text() string {
	size, _ := e.WindowSize()
	var b strings.Builder
	for y := range size.Height {
		var line strings.Builder
		for x := range size.Width {
			if c := e.GetCell(vt.Coord{X: vt.Col(x), Y: vt.Row(y)}); c.C == "" {
				line.WriteByte(' ')
			} else {
				line.WriteString(c.C)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// wait waits until the terminal shows something.
func (e *emulated) wait(t *testing.T, what string, shows func(text string) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !shows(e.text()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the screen does not show %s:\n%s", what, e.text())
		}
	}
}

// waitFor waits until the terminal shows a text.
func (e *emulated) waitFor(t *testing.T, want string) {
	t.Helper()
	e.wait(t, fmt.Sprintf("%q", want), func(text string) bool { return strings.Contains(text, want) })
}

// wantRestored wants the terminal to be as it was before the screen.
func (e *emulated) wantRestored(t *testing.T) {
	t.Helper()
	raw := e.raw()
	if on, off := strings.LastIndex(raw, vt.PmAltScreen.Enable()), strings.LastIndex(raw, vt.PmAltScreen.Disable()); on < 0 || off < on {
		t.Errorf("the alternate screen is left on: at %d, off at %d", on, off)
	}
	if on, off := strings.LastIndex(raw, vt.PmShowCursor.Enable()), strings.LastIndex(raw, vt.PmShowCursor.Disable()); on < off {
		t.Error("the cursor is left hidden")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.stopped {
		t.Error("the terminal's settings are not restored")
	}
}

// shown is a screen that a test looks at.
type shown struct {
	*emulated
	ended chan any // the error of show, or what it panicked with
	stop  context.CancelFunc
}

// start shows what look returns on an emulated terminal.
func start(t *testing.T, look func() ([]Row, error), opts ...vt.MockOpt) *shown {
	t.Helper()
	t.Setenv("TERM", "xterm-256color")
	t.Setenv("LC_ALL", "C.UTF-8")
	ctx, stop := context.WithCancel(context.Background())
	s := &shown{&emulated{MockTerm: vt.NewMockTerm(opts...)}, make(chan any, 1), stop}
	rows, err := look()
	if err != nil {
		t.Fatal(err)
	}
	v := newView(0)
	v.looked(rows, time.Now(), nil)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				s.ended <- r
			}
		}()
		s.ended <- show(ctx, s.emulated, v, look, 10*time.Millisecond)
	}()
	t.Cleanup(stop)
	return s
}

// end waits for the end of the screen, and returns the error or what it panicked with.
func (s *shown) end(t *testing.T) any {
	t.Helper()
	select {
	case how := <-s.ended:
		s.wantRestored(t)
		return how
	case <-time.After(patience):
		t.Fatal("the screen does not end")
		return nil
	}
}

// constant looks at guests that do not change.
func constant(rows []Row) func() ([]Row, error) {
	return func() ([]Row, error) { return rows, nil }
}

// TestScreen: the table, the keys, another size, the end.
func TestScreen(t *testing.T) {
	rows := guestsOf("web3 db12 cache7")
	rows[0].Denials, rows[0].Frozen, rows[1].PidsLimit = 5, true, 12
	s := start(t, constant(rows), vt.MockOptSize{X: 100, Y: 20})
	s.waitFor(t, "q quit  n c m p r d sort  / filter  arrows select  ? keys")
	lines := strings.Split(s.text(), "\n")
	for i, want := range []string{
		"guests 3  cpu 0.0%  memory 0B  tasks 22  req/s 0.0  ", " CPU%   MEMORY   TASKS  CGROUPS   REQ/S   DENIED   STATE  NAME↑",
		"  0.0    0B/0B     7/0        0     0.0        0       -  cache", "  0.0    0B/0B   12/12        0     0.0        0       -  db",
		"  0.0    0B/0B     3/0        0     0.0        5  frozen  web", "",
	} {
		if !strings.HasPrefix(lines[i], want) || want == "" && lines[i] != "" {
			t.Errorf("line %d: %q, want %q", i, lines[i], want)
		}
	}
	for _, c := range []struct{ keys, want string }{
		{"p", "TASKS↓"}, {"i", "TASKS↑"}, {"\x1b[B\x1b[B", "\ncache"}, {"/w", "filter: w"}, {"\r", "guests 1 of 3  "}, {"\x1b", "guests 3  "},
		{"?", "any key: back"}, {"x", "q quit"},
	} {
		s.SendRaw([]byte(c.keys))
		s.waitFor(t, c.want)
	}
	s.SetSize(vt.Coord{X: 60, Y: 4})
	s.wait(t, "one guest and the keys", func(text string) bool {
		return strings.Count(text, "\n") == 3 && strings.HasSuffix(text, "q quit  n c m p r d sort  / filter  arrows select  ? keys")
	})
	for _, tiny := range []vt.Coord{{X: 3, Y: 1}, {X: 1, Y: 2}, {X: 200, Y: 50}} {
		s.SetSize(tiny)
		s.wait(t, "anything", func(text string) bool { return text != "" })
	}
	s.waitFor(t, "cache")
	s.SendRaw([]byte("q"))
	if how := s.end(t); how != nil {
		t.Error(how)
	}
}

// TestScreenEnds: each way out restores the terminal.
func TestScreenEnds(t *testing.T) {
	s := start(t, constant(guestsOf("web1")))
	s.waitFor(t, "web")
	s.SendRaw([]byte("\x03"))
	if how := s.end(t); how != nil {
		t.Error("Ctrl-C:", how)
	}
	s = start(t, constant(guestsOf("web1")))
	s.waitFor(t, "web")
	s.stop()
	if how := s.end(t); how != nil {
		t.Error("a signal:", how)
	}
	looks := 0
	s = start(t, func() ([]Row, error) {
		if looks++; looks > 1 {
			panic("a bug in a look")
		}
		return guestsOf("web1"), nil
	})
	if how := s.end(t); !strings.Contains(fmt.Sprint(how), "a bug in a look\n") || !strings.Contains(fmt.Sprint(how), "screen_test.go:") {
		t.Errorf("a panic of a look: %v", how)
	}
	drawn := guestsOf("web1")
	drawn[0].CPUPercent = 1
	before := columns[0].text
	t.Cleanup(func() { columns[0].text = before })
	columns[0].text = func(Row) string { panic("a bug in a column") }
	s = start(t, constant(drawn))
	if how := s.end(t); how != "a bug in a column" {
		t.Errorf("a panic of the drawing: %v", how)
	}
}

// TestScreenDaemon: a daemon that fails, or that does not answer, is told of, and the figures stay until it answers.
func TestScreenDaemon(t *testing.T) {
	var mu sync.Mutex
	next := func() ([]Row, error) { return guestsOf("web1"), nil }
	s := start(t, func() ([]Row, error) {
		mu.Lock()
		do := next
		mu.Unlock()
		return do()
	})
	become := func(do func() ([]Row, error)) {
		mu.Lock()
		defer mu.Unlock()
		next = do
	}
	s.waitFor(t, "web")
	become(func() ([]Row, error) { return nil, errors.New("cannot reach the daemon\x1b[2J") })
	s.waitFor(t, `trying again: cannot reach the daemon\x1b[2J`)
	s.waitFor(t, "web")
	s.SetSize(vt.Coord{X: 20, Y: 10})
	s.waitFor(t, "\ntrying again: cannot\n reach the daemon\\x1\nb[2J") // all of it
	s.SetSize(vt.Coord{X: 80, Y: 24})
	become(func() ([]Row, error) { return guestsOf("web2"), nil })
	s.waitFor(t, "q quit")
	hangs := make(chan struct{})
	become(func() ([]Row, error) { <-hangs; return guestsOf("db1"), nil })
	s.waitFor(t, "the daemon has not answered since ")
	s.SendRaw([]byte("/x")) // keys work meanwhile
	s.waitFor(t, "filter: x")
	s.SendRaw([]byte("\x1b"))
	s.waitFor(t, "web")
	close(hangs)
	s.waitFor(t, "db")
	s.waitFor(t, "q quit")
	s.SendRaw([]byte("q"))
	if how := s.end(t); how != nil {
		t.Error(how)
	}
}

// TestScreenHostile: whatever a daemon says of its guests, the terminal gets no control character but tcell's own, and
// what it gets depends on nothing but figures: the escape sequences are those for a harmless guest.
func TestScreenHostile(t *testing.T) {
	hostile := "a\x1b]0;title\a\x9b2J\u009b31m\r\n\x00\u202e\x1b[?1049l"
	s := start(t, constant([]Row{{Usage: api.Usage{Name: hostile}}}), vt.MockOptSize{X: 200, Y: 10})
	s.waitFor(t, `a\x1b]0;title\a\x9b2J\u009b31m\r\n\x00\u202e\x1b[?1049l`)
	s.SendRaw([]byte("j/\u009b31m\x1b[200~\x01z"))
	s.wait(t, "the filter", func(text string) bool { return strings.Contains(text, "filter: ") && strings.Contains(text, "z") })
	if title := s.GetTitle(); title != "" {
		t.Errorf("the terminal's title is %q", title)
	}
	s.SendRaw([]byte("\x03"))
	if how := s.end(t); how != nil {
		t.Error(how)
	}
	for _, bad := range []string{"\x1b]0", "\a", "\x9b", "\u009b", "\x00", "\u202e", "\x1b[31m"} {
		if strings.Contains(strings.ReplaceAll(s.raw(), "\x1b]112\a", ""), bad) {
			t.Errorf("the terminal got %q", bad)
		}
	}
}

// TestScreenColours: figures near a limit are coloured, with NO_COLOR bold.
func TestScreenColours(t *testing.T) {
	rows := guestsOf("web9")
	rows[0].PidsLimit = 10
	figure := func(s *shown) (c vt.Cell) {
		s.waitFor(t, "9/10")
		line := strings.Split(s.text(), "\n")[guestsAt]
		c = s.GetCell(vt.Coord{X: vt.Col(strings.Index(line, "9/10")), Y: guestsAt})
		s.SendRaw([]byte("q"))
		if how := s.end(t); how != nil {
			t.Error(how)
		}
		return c
	}
	if c := figure(start(t, constant(rows))); c.S.Fg() != color.XTerm9 {
		t.Errorf("in colours: %v", c.S.Fg())
	}
	t.Setenv("NO_COLOR", "1")
	s := start(t, constant(rows))
	if c := figure(s); c.S.Attr()&vt.Bold == 0 {
		t.Errorf("without colours: %+v", c.S.Attr())
	}
	if sent := regexp.MustCompile(`\x1b\[[34][0-9;:]*m`).FindString(s.raw()); sent != "" {
		t.Errorf("NO_COLOR: %q is sent: %q", sent, s.raw())
	}
}
