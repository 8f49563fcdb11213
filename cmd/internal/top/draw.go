package top

import (
	"fmt"
	"strings"
	"time"

	"github.com/gdamore/tcell/v3"
	"github.com/gdamore/tcell/v3/color"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/texts"
)

// Lines of the screen that are not for guests: the sums, the titles, the lowest line.
const (
	titlesAt = 1
	guestsAt = 2
	others   = 3
)

// colours of the levels. A screen without colours, such as with NO_COLOR, has bold figures instead.
var colours = map[level]color.Color{high: color.Yellow, full: color.Red, frozen: color.Aqua}

// put writes a text into a line from a column on, and returns the column behind it.
func put(s tcell.Screen, x, y int, text string, style tcell.Style) int {
	text = texts.Visible(text)
	s.PutStrStyled(x, y, text, style)
	return x + len([]rune(text))
}

// draw draws the whole screen. Only what has changed is sent to the terminal.
func (v *view) draw(s tcell.Screen, interval time.Duration) {
	width, height := s.Size()
	v.resize(height - others)
	s.Clear()
	s.HideCursor()
	put(s, 0, 0, v.sums(interval), tcell.StyleDefault)
	if v.help {
		lines := strings.Split(KeysText(), "\n")
		for i, line := range lines[:min(len(lines), v.height)] {
			put(s, 0, guestsAt+i, line, tcell.StyleDefault)
		}
	} else {
		v.drawTable(s, width)
	}
	v.drawLowest(s, height-1)
	s.Show()
}

// sums returns the uppermost line: all guests together.
func (v *view) sums(interval time.Duration) string {
	var cpu, requests float64
	var memory, tasks int64
	for _, r := range v.rows {
		cpu += max(r.CPUPercent, 0)
		memory += max(r.MemoryBytes, 0)
		tasks += max(r.Pids, 0)
		requests += r.RequestsPerSecond
	}
	guests := fmt.Sprintf("guests %d", len(v.rows))
	if v.filter != "" {
		guests = fmt.Sprintf("guests %d of %d", len(v.shown), len(v.rows))
	}
	return fmt.Sprintf("%s  cpu %.1f%%  memory %s  tasks %d  req/s %.1f  %s, every %v",
		guests, cpu, texts.Bytes(memory), tasks, requests, v.at.Format(time.TimeOnly), interval)
}

// drawTable draws the titles and the guests that have room.
func (v *view) drawTable(s tcell.Screen, width int) {
	lines := v.shown[v.first:min(v.first+v.height, len(v.shown))]
	v.widen(lines)
	for x := range width {
		put(s, x, titlesAt, " ", tcell.StyleDefault.Reverse(true))
	}
	x := 0
	for i := range columns {
		style := tcell.StyleDefault.Reverse(true).Bold(columns[i].order == orders[v.order].name)
		x = v.drawCell(s, x, titlesAt, i, v.title(i), style)
	}
	for y, r := range lines {
		x := 0
		for i := range columns {
			x = v.drawCell(s, x, guestsAt+y, i, columns[i].text(r), v.style(s, r, i))
		}
		// The whole line of the selected guest stands out, up to the edge.
		for ; r.Name == v.selected && x < width; x++ {
			put(s, x, guestsAt+y, " ", tcell.StyleDefault.Reverse(true))
		}
	}
}

// widen makes each column as wide as its widest text.
func (v *view) widen(lines []Row) {
	for i := range columns {
		v.widths[i] = max(v.widths[i], len(columns[i].title))
		if columns[i].order != "" {
			// Room for the arrow.
			v.widths[i] = max(v.widths[i], len(columns[i].title)+1)
		}
		for _, r := range lines {
			v.widths[i] = max(v.widths[i], len([]rune(columns[i].text(r))))
		}
	}
}

// drawCell draws the text of a column: a figure at its right edge, the name at its left.
func (v *view) drawCell(s tcell.Screen, x, y, column int, text string, style tcell.Style) int {
	blank := strings.Repeat(" ", max(0, v.widths[column]-len([]rune(text))))
	if column == len(columns)-1 {
		return put(s, x, y, text, style)
	}
	return put(s, x, y, blank+text+"  ", style)
}

// title returns the title of a column, with an arrow in the one that sorts: downwards for the greatest first.
func (v *view) title(column int) string {
	title, order := columns[column].title, columns[column].order
	if order != orders[v.order].name {
		return title
	}
	arrow := tcell.RuneDArrow
	// Names begin with the least.
	if v.reversed != (order == "name") {
		arrow = tcell.RuneUArrow
	}
	return title + string(arrow)
}

// style returns the style of a figure.
func (v *view) style(s tcell.Screen, r Row, column int) tcell.Style {
	style := tcell.StyleDefault.Reverse(r.Name == v.selected)
	if columns[column].level == nil {
		return style
	}
	l := columns[column].level(r)
	switch {
	case l == plain:
		return style
	case s.Colors() == 0:
		return style.Bold(true)
	}
	return style.Foreground(colours[l])
}

// drawLowest draws the lowest line: the filter that is typed, what is wrong, the selected guest, or the main keys.
func (v *view) drawLowest(s tcell.Screen, y int) {
	switch {
	case v.typing:
		s.ShowCursor(put(s, 0, y, "filter: "+v.filter, tcell.StyleDefault), y)
	case v.err != nil:
		drawFolded(s, y, "trying again: "+v.err.Error(), tcell.StyleDefault.Bold(true))
	case v.late:
		drawFolded(s, y, "the daemon has not answered since "+v.at.Format(time.TimeOnly), tcell.StyleDefault.Bold(true))
	case v.help:
		put(s, 0, y, "any key: back", tcell.StyleDefault)
	case v.filter != "":
		put(s, 0, y, "filter: "+v.filter+"  (Esc takes it away)", tcell.StyleDefault)
	case v.index() >= 0:
		// It may be cut in its line.
		put(s, 0, y, v.selected, tcell.StyleDefault)
	default:
		put(s, 0, y, "q quit  "+sortKeys()+" sort  / filter  arrows select  ? keys", tcell.StyleDefault)
	}
}

// drawFolded draws a text that ends in line y, with as many lines above as it needs, over the guests there.
func drawFolded(s tcell.Screen, y int, text string, style tcell.Style) {
	width, _ := s.Size()
	rest := []rune(texts.Visible(text))
	for y -= (len(rest) - 1) / max(width, 1); len(rest) > 0; y++ {
		part := rest[:min(len(rest), max(width, 1))]
		rest = rest[len(part):]
		put(s, 0, y, string(part)+strings.Repeat(" ", max(0, width-len(part))), style)
	}
}
