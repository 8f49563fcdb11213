package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// Legend explains the words of the tables, a line for each.
var Legend = []string{
	"asks: type: statfs; mounts: /proc/self/mountinfo; both; path: neither, it opens files",
	"yes; no: it fails; ignores: it runs with the host's values for its limits; ?: neither run nor read",
}

// Markdown returns the tables of the clients, and the table of their runs, for docs/clients.md. A bold verdict was
// observed. Of two verdicts the first is with FUSE's type, the second with the right one.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| program | asks |")
	for _, s := range Sights {
		fmt.Fprintf(&b, " %s |", s.How)
	}
	b.WriteString(" else give it | needs | how |\n|---|---|" + strings.Repeat("---|", len(Sights)) + "---|---|---|\n")
	for _, c := range Clients() {
		fmt.Fprintf(&b, "| %s | %s |", c.Name, c.Asks)
		for _, s := range Sights {
			fmt.Fprintf(&b, " %s |", c.cell(s.Sight))
		}
		fmt.Fprintf(&b, " %s | %s | %s |\n", c.Instead, c.Needs, c.How())
	}
	b.WriteString("\n| program | " + lentSights[0].How + " | " + lentSights[1].How + " |\n|---|---|---|\n")
	for _, c := range Clients() {
		if c.Typed[StackedLent] != Unknown || c.Typed[Lent] != Unknown {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Name, c.cell(StackedLent), c.cell(Lent))
		}
	}
	b.WriteString("\n| was run | Linux | on a view of | type | by |\n|---|---|---|---|---|\n")
	for _, c := range Clients() {
		for _, r := range c.Run {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.What, or(r.Kernel, "not noted"), hows(r.On), r.Type,
				or(r.Test, "hand"))
		}
	}
	return b.String()
}

func (c Client) cell(s Sight) string {
	word := func(typed bool) string {
		if c.WasRun(s, typed) {
			return "**" + string(c.On(s, typed)) + "**"
		}
		return string(c.On(s, typed))
	}
	plain, typed := word(false), word(true)
	if c.On(s, false) == c.On(s, true) && c.WasRun(s, false) == c.WasRun(s, true) || plain == "**"+typed+"**" {
		return plain
	}
	return plain + " / " + typed
}

func hows(on []Sight) string {
	var names []string
	for _, s := range slices.Concat(Sights, lentSights) {
		if slices.Contains(on, s.Sight) {
			names = append(names, s.How)
		}
	}
	if slices.Contains(on, V1) || slices.Contains(on, V2) {
		names = append(names, "no view")
	}
	return strings.Join(names, ", ")
}
