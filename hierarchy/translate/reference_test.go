package translate_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
)

var update = flag.Bool("update", false, "write docs/translation.md anew")

// directions are the parts of docs/translation.md, each with the version that the host has.
var directions = []struct {
	shown, host hierarchy.Version
	view        string
}{
	{hierarchy.V1, hierarchy.V2, "A view with `--layout v1` shows these of the controllers that its host has in the v2 hierarchy."},
	{hierarchy.V2, hierarchy.V1, "A view with `--layout v2` shows these of the controllers that its host has in v1 hierarchies, which lend them to the " +
		"guest's\npart of the host's v2 hierarchy. Files of every cgroup are that hierarchy's own, so the pressure files " +
		"and `cpu.stat` are\nthere, `cpu.stat` with what the quota did."},
}

// writeReference prints the rows as a Markdown document, docs/translation.md. The error is the writer's.
func writeReference(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprint(b, "# Translation\n\n",
		"What stands for the control files of one version of cgroup on a host that has only the other. A program\n",
		"that knows v1 alone finds nothing on a host with v2; a view with `--layout v1` shows it v1's files there.\n",
		"One that knows v2 alone does not start on a host with v1 hierarchies; a view with `--layout v2` shows it a\n",
		"v2 tree. What differs from a native host beyond values is in [divergences](divergences.md#because-it-is-translated).\n",
		"What the program reads is computed from the host's files, and what it writes goes to them in their own\n",
		"units. This text is printed from the program's own table (`go generate ./hierarchy/translate`).\n",
		"`vcgroupfs policy explain FILE` prints the row of a file.\n\n",
		"*Stands for* is the host's file without which this one is not there; nothing: it needs none. *Formula*\n",
		"says what is read and written; *the same* is the host's value. *Lost* is the difference from a host that\n",
		"has the file. `*` stands for a part of a name, such as a page size.\n\n",
		"A value that the host's file does not hold as it was written is *kept* beside the cgroup, also when the\n",
		"server is restarted. `cpu.shares` of 512 becomes `cpu.weight` 59 and reads as 512 while the weight is 59;\n",
		"after the host has set another weight, it reads as the shares of that. For a counter that was set back,\n",
		"what it was then is kept. For a write to several of the host's files, what it began from is kept: one that\n",
		"stopped in the middle can be done again.\n\n",
		"A value that the kernel refuses for a file is refused with the kernel's errno: EINVAL and ERANGE for one\n",
		"that it does not read, EBUSY for a limit of v1 below a usage that cannot be reclaimed. A value that the\n",
		"kernel accepts and the host cannot hold is EOPNOTSUPP; *lost* says where the errno is another.\n\n",
		"Files of membership and structure, such as `tasks`, `cgroup.procs`, `notify_on_release` and\n",
		"`cgroup.subtree_control`, have no row: they are not translated.\n")
	for _, d := range directions {
		fmt.Fprintf(b, "\n## v%d on a v%d host\n\n%s\n", d.shown, d.host, d.view)
		same, none := withoutRows(d.shown, d.host)
		if len(same) > 0 {
			fmt.Fprintf(b, "\nWithout rows, because both versions have the same files: %s.\n", strings.Join(same, ", "))
		}
		if len(none) > 0 {
			fmt.Fprintf(b, "\nWithout rows, because v%d has no files for them: %s.\n", d.host, strings.Join(none, ", "))
		}
		writeDirection(b, d.shown)
	}
	return b.Flush()
}

// withoutRows lists the controllers of a version none of whose files has a row: those with the same files on the
// host's version, and those that it does not have.
func withoutRows(shown, host hierarchy.Version) (same, none []string) {
	controllers := map[hierarchy.Version][]string{}
	for _, f := range hierarchy.Table() {
		controllers[f.Version] = append(controllers[f.Version], f.Controller)
	}
	for _, r := range translate.Rows() {
		if r.Version == shown {
			drop := controllerOf(r)
			controllers[shown] = slices.DeleteFunc(controllers[shown], func(c string) bool { return c == drop })
		}
	}
	for _, c := range slices.Compact(controllers[shown]) {
		if slices.Contains(controllers[host], c) {
			same = append(same, c)
		} else {
			none = append(none, c)
		}
	}
	return same, none
}

// controllerOf returns the controller of a row's file, "" for a file that every cgroup has.
func controllerOf(r translate.Row) string {
	for _, f := range hierarchy.Table() {
		if f.Version == r.Version && f.Name == r.Name {
			return f.Controller
		}
	}
	return ""
}

// writeDirection prints the rows of one version: a table for each controller, in the order of the rows, and one of the
// files that are absent.
func writeDirection(w io.Writer, shown hierarchy.Version) {
	var controllers []string
	lines := map[string]string{}
	absent := ""
	for _, r := range translate.Rows() {
		c := controllerOf(r)
		switch {
		case r.Version != shown:
		case r.Absent != "":
			absent += fmt.Sprintf("| `%s` | %s | %s |\n", r.Name, c, cell(r.Absent))
		default:
			if lines[c] == "" {
				controllers = append(controllers, c)
			}
			lines[c] += line(r)
		}
	}
	for _, c := range controllers {
		title := c
		if c == "" {
			title = "Every cgroup"
		}
		fmt.Fprintf(w, "\n### %s\n\n| file | stands for | formula | kept | lost |\n|---|---|---|---|---|\n%s",
			title, lines[c])
	}
	fmt.Fprintf(w, "\n### Not shown\n\n| file | controller | why |\n|---|---|---|\n%s", absent)
}

func line(r translate.Row) string {
	host, kept := "", ""
	if r.Host != "" {
		host = "`" + r.Host + "`"
	}
	if r.Keeps {
		kept = "yes"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", r.Name, host, cell(r.Says), kept, cell(r.Lost))
}

// cell escapes what Markdown would interpret.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "*", `\*`).Replace(s) }

// TestReference: docs/translation.md is the table.
func TestReference(t *testing.T) {
	const file = "../../docs/translation.md"
	var b bytes.Buffer
	if err := writeReference(&b); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(file); err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s differs from the table (go generate ./hierarchy/translate): %v", file, err)
	}
	rows := map[string]int{}
	for _, r := range translate.Rows() {
		rows[r.Name]++
	}
	for name, want := range rows {
		if n := bytes.Count(b.Bytes(), []byte("\n| `"+name+"` |")); n != want {
			t.Errorf("%s has %d lines in %s, want %d", name, n, file, want)
		}
	}
}

// TestRowOf: a row is found whether the file is shown or absent, by Lookup only the one that is shown.
func TestRowOf(t *testing.T) {
	for _, c := range []struct {
		file         string
		shown        hierarchy.Version
		row, lookups bool
	}{
		{"cpu.shares", hierarchy.V1, true, true}, {"cpu.shares", hierarchy.V2, false, false},
		{"cpu.rt_period_us", hierarchy.V1, true, false}, {"memory.events.local", hierarchy.V2, true, false},
		{"hugetlb.1GB.max", hierarchy.V2, true, true}, {"cgroup.procs", hierarchy.V1, false, false},
		{"x", hierarchy.V1, false, false},
	} {
		r, ok := translate.RowOf(c.shown, c.file)
		l, found := translate.Lookup(c.shown, c.file)
		if ok != c.row || (r != nil) != c.row || found != c.lookups || (l != nil) != c.lookups {
			t.Errorf("v%d: %s: %v, %v; %v, %v", c.shown, c.file, r, ok, l, found)
		}
	}
}
