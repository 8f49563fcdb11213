package doctor

import (
	"slices"
	"strings"
	"testing"
)

// TestRan: every line of ran.tsv is of a program in the table, and every one of those was run on all that a view can show.
func TestRan(t *testing.T) {
	lines, err := parseRan(ranTable)
	if err != nil {
		t.Fatal(err)
	}
	ranOn := map[string]map[Sight]bool{}
	for _, l := range lines {
		if !slices.ContainsFunc(askedClients(), func(c Client) bool { return c.Name == l.program }) {
			t.Errorf("%q is in ran.tsv, and not in the table", l.program)
		}
		if l.verdict != Yes && l.verdict != No && l.verdict != Ignores || l.on.Text() == "" {
			t.Errorf("%+v", l)
		}
		if ranOn[l.program] == nil {
			ranOn[l.program] = map[Sight]bool{}
		}
		ranOn[l.program][l.on] = true
	}
	for _, c := range askedClients() {
		for _, s := range Sights {
			if !ranOn[c.Name][s.Sight] {
				t.Errorf("%s was not run on %s (make clients UPDATE=1)", c.Name, s.Sight)
			}
		}
	}
}

func TestParseRan(t *testing.T) {
	const line = "DuckDB\tDuckDB 2.0.0\t6.12, v2\tTestClientsMore\tview\tfuse\tyes\n"
	got, err := parseRan("# what was run\n\n" + line)
	want := ran{"DuckDB", "DuckDB 2.0.0", "6.12, v2", "TestClientsMore", View, Fuse, Yes}
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{strings.TrimSuffix(line, "\tyes\n"), strings.Replace(line, "view", "", 1)} {
		if _, err := parseRan(bad); err == nil || !strings.Contains(err.Error(), "has not seven fields") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestAsked: what only one type was run with is the same with the other where the program does not ask for it, or accepts FUSE's.
func TestAsked(t *testing.T) {
	table := ranTable
	defer func() { ranTable = table }()
	ranTable = "P\tP 1\tk\tT\tview\tfuse\tignores\nP\tP 1\tk\tT\tstacked\tfuse\tyes\nP\tP 1\tk\tT\tcgroup2\tkernel\tno\n"
	for asks, want := range map[Asks]Verdict{AsksPath: Ignores, AsksMounts: Ignores, AsksType: Unknown, AsksBoth: Unknown} {
		c := asked("P", asks, "")
		if c.Verdicts[View] != Ignores || c.Typed[View] != want || c.Typed[Stacked] != Yes || c.Verdicts[Tmpfs] != Unknown {
			t.Errorf("%s: %v, with the type right %v", asks, c.Verdicts, c.Typed)
		}
		if c.Verdicts[V2] != No || c.Typed[V2] != No {
			t.Errorf("%s: natively %s and %s, want no", asks, c.Verdicts[V2], c.Typed[V2])
		}
		if len(c.Run) != 2 || len(c.Run[0].On) != 2 {
			t.Errorf("%s: %+v; want one run with FUSE's type, on two sights, and one natively", asks, c.Run)
		}
	}
	ranTable += "P\tP 1\tk\tT\tview\tbpf\tyes\n"
	if c := asked("P", AsksType, ""); c.Verdicts[View] != Ignores || c.Typed[View] != Yes {
		t.Errorf("%v, with the type right %v", c.Verdicts, c.Typed)
	}
}
