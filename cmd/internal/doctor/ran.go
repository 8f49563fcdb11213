package doctor

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// ranTable is the output of "make clients UPDATE=1": a line for each program, kernel, sight and type that
// TestClientsMore ran.
//
//go:embed ran.tsv
var ranTable string

// ran is a line of ran.tsv: the verdict of a version of a program on a sight.
type ran struct {
	program, what, kernel, test string // program is the name of its row
	on                          Sight
	of                          Type
	verdict                     Verdict
}

// parseRan reads ran.tsv. The error names the first line with missing fields.
func parseRan(table string) (lines []ran, err error) {
	for line := range strings.Lines(table) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 7 || slices.Contains(f, "") {
			return nil, fmt.Errorf("ran.tsv: %q has not seven fields", line)
		}
		lines = append(lines, ran{f[0], f[1], f[2], f[3], Sight(f[4]), Type(f[5]), Verdict(f[6])})
	}
	return lines, nil
}

// asked makes a client with the verdicts of ran.tsv. For a client that does not ask for the type, the verdict is the
// same with FUSE's type and with the right one, also if only one of them was run.
func asked(name string, asks Asks, looks string) Client {
	unknown := [6]Verdict{Unknown, Unknown, Unknown, Unknown, Unknown, Unknown}
	c := client(name, asks, looks, unknown, unknown)
	lines, err := parseRan(ranTable)
	if err != nil {
		// The table is a part of the program, and its test parses it.
		panic(err)
	}
	for _, l := range lines {
		if l.program != name {
			continue
		}
		c.noteRun(l)
		native := l.on == V1 || l.on == V2
		if l.of == Fuse || native {
			c.Verdicts[l.on] = l.verdict
		}
		if l.of != Fuse || native || c.Typed[l.on] == Unknown &&
			(l.verdict == Yes || asks == AsksPath || asks == AsksMounts) {
			c.Typed[l.on] = l.verdict
		}
	}
	return c
}

// noteRun adds a sight to the client's run of the same version, kernel, type and test, or adds a run.
func (c *Client) noteRun(l ran) {
	for i, r := range c.Run {
		if r.What == l.what && r.Kernel == l.kernel && r.Type == l.of && r.Test == l.test {
			c.Run[i].On = append(r.On, l.on)
			return
		}
	}
	c.Run = append(c.Run, Run{l.what, l.kernel, []Sight{l.on}, l.of, l.test})
}
