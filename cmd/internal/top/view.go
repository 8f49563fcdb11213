package top

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/texts"
)

// view is what the screen shows.
type view struct {
	rows []Row     // of the last look, in no order
	at   time.Time // of the last look
	err  error     // why the look after it failed; nil: it did not
	late bool      // the look after it takes long

	order    int  // index in orders
	reversed bool // the greater line first
	filter   string
	typing   bool // keys go to the filter
	help     bool // the keys are shown in place of the guests

	shown    []Row  // the rows that the filter leaves, in order
	selected string // a guest's name, empty for none
	first    int    // index in shown of the uppermost line
	height   int    // lines of the screen for guests
	widths   []int  // of the columns: the widest text so far, so that no column moves to and fro
}

func newView(order int) *view {
	return &view{order: order, height: 1, widths: make([]int, len(columns))}
}

// looked takes the rows of a look, or its error: then the rows before stay.
func (v *view) looked(rows []Row, at time.Time, err error) {
	v.late = false
	if v.err = err; err != nil {
		return
	}
	v.rows, v.at = rows, at
	v.arrange()
}

// arrange makes shown of rows, and keeps the selected guest on the screen.
func (v *view) arrange() {
	v.shown = v.shown[:0]
	for _, r := range v.rows {
		if v.matches(r.Name) {
			v.shown = append(v.shown, r)
		}
	}
	Sort(v.shown, v.order)
	if v.reversed {
		slices.Reverse(v.shown)
	}
	v.scroll()
}

// matches reports that the filter is a part of a name, in letters of any case.
func (v *view) matches(name string) bool {
	return strings.Contains(strings.ToLower(texts.Visible(name)), strings.ToLower(v.filter))
}

// index returns the index in shown of the selected guest, -1 without one.
func (v *view) index() int {
	if v.selected == "" {
		return -1
	}
	return slices.IndexFunc(v.shown, func(r Row) bool { return r.Name == v.selected })
}

// scroll moves the uppermost line so that the selected guest is on the screen, and no line is empty that need not be.
func (v *view) scroll() {
	if at := v.index(); at >= 0 {
		v.first = min(v.first, at)
		v.first = max(v.first, at-v.height+1)
	}
	v.first = max(0, min(v.first, len(v.shown)-v.height))
}

// resize sets the number of lines for guests.
func (v *view) resize(height int) {
	v.height = max(height, 1)
	v.scroll()
}

// move selects the guest that is by lines below the selected one. Without one, a key for one line selects the uppermost
// guest on the screen.
func (v *view) move(by int) {
	at := v.index()
	if at < 0 {
		at = v.first
		if by == 1 || by == -1 {
			by = 0
		}
	}
	v.selectAt(at + by)
}

// selectAt selects the guest at an index in shown, or the next to it.
func (v *view) selectAt(at int) {
	if len(v.shown) == 0 {
		return
	}
	v.selected = v.shown[max(0, min(at, len(v.shown)-1))].Name
	v.scroll()
}

// sortBy sorts by an order, or the other way round if the lines have it already.
func (v *view) sortBy(order int) {
	v.reversed = order == v.order && !v.reversed
	v.order = order
	v.again()
}

// again arranges the lines and shows the first, unless a guest is selected.
func (v *view) again() {
	v.first = 0
	v.arrange()
}

// keys are the keys of the screen, in the order of the help. The names of those without a letter are tcell's.
var keys = []struct {
	names string // separated by spaces
	help  string
	do    func(v *view) // nil: the screen's loop does it
}{
	{"q Ctrl-C", "quit", nil},
	{sortKeys(), "sort by the column of that initial (p: TASKS); again: the other way round", nil},
	{"i", "the other way round", func(v *view) { v.sortBy(v.order) }},
	{"/", "filter: type a part of a name; Enter keeps it, Esc takes it away", func(v *view) { v.typing = true }},
	{"Up k", "select the guest above", func(v *view) { v.move(-1) }},
	{"Down j", "select the guest below; the selection follows the guest", func(v *view) { v.move(1) }},
	{"PgUp Ctrl-B", "one screen up", func(v *view) { v.move(-v.height) }},
	{"PgDn Ctrl-F", "one screen down", func(v *view) { v.move(v.height) }},
	{"Home g", "the first guest", func(v *view) { v.selectAt(0) }},
	{"End G", "the last guest", func(v *view) { v.selectAt(len(v.shown) - 1) }},
	{"Esc", "no filter, no selection", func(v *view) {
		v.filter, v.selected = "", ""
		v.again()
	}},
	{"Ctrl-L", "draw the screen anew", nil},
	{"h ? F1", "these keys", func(v *view) { v.help = true }},
}

// sortKeys returns the initials of the orders.
func sortKeys() string {
	var initials []string
	for _, o := range orders {
		initials = append(initials, o.name[:1])
	}
	return strings.Join(initials, " ")
}

// KeysText returns a line for each key of the screen.
func KeysText() string {
	var b strings.Builder
	for _, k := range keys {
		b.WriteString("   " + k.names + strings.Repeat(" ", max(1, 14-len(k.names))) + k.help + "\n")
	}
	return b.String()
}

// key handles a key: text is what it types, empty for a key without a character; name is its name otherwise.
func (v *view) key(name, text string) (quit bool) {
	switch {
	case name == "Ctrl-C":
		return true
	case v.typing:
		v.typed(name, text)
		return false
	case v.help:
		v.help = false
		return name == "q"
	case name == "q":
		return true
	}
	for i, o := range orders {
		if o.name[:1] == name {
			v.sortBy(i)
			return false
		}
	}
	for _, k := range keys {
		if k.do != nil && slices.Contains(strings.Fields(k.names), name) {
			k.do(v)
		}
	}
	return false
}

// typed handles a key while the filter is typed.
func (v *view) typed(name, text string) {
	switch {
	case name == "Enter":
		v.typing = false
		return
	case name == "Esc":
		v.typing, v.filter = false, ""
	case name == "Ctrl-U":
		v.filter = ""
	case name == "Backspace" || name == "Backspace2":
		_, size := utf8.DecodeLastRuneInString(v.filter)
		v.filter = v.filter[:len(v.filter)-size]
	// A name has at most 64 bytes (spec.CheckName).
	case text != "" && len(v.filter)+len(text) <= 64:
		v.filter += text
	}
	v.again()
}
