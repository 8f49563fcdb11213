package hierarchy_test

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// writeReference prints the table as a Markdown document, docs/control-files.md. The error is the writer's.
func writeReference(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprint(b, "# Control files\n\n",
		"Every control file that vcgroupfs knows, and what a guest may do with it where no policy says otherwise. This text is\n",
		"printed from the program's own table (`go generate ./hierarchy`). A file that is not here is hidden, unless a policy\n",
		"names it under `unknown`. `*` stands for a part of a name, such as a page size.\n\n",
		"*Boundary* is the cgroup that the guest sees as its root, *below* is any cgroup under that. *Hidden*: not there.\n",
		"*Read-only*: opening it for writing is EPERM. *Read-write*: what the guest writes goes to the host untouched.\n",
		"*Guarded*: it is checked first. *Nests* says what keeps a child within its parent.\n")
	for _, v := range []hierarchy.Version{hierarchy.V2, hierarchy.V1} {
		fmt.Fprintf(b, "\n## cgroup v%d\n\n| file | controller | mode | takes | there | nests | boundary | below | why |\n|---|---|---|---|---|---|---|---|---|\n", v)
		for _, f := range hierarchy.Table() {
			if f.Version == v {
				writeRow(b, f)
			}
		}
	}
	return b.Flush()
}

func writeRow(w io.Writer, f hierarchy.ControlFile) {
	cell := func(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
	takes := ""
	if f.Mode&0o222 != 0 {
		takes = f.Grammar.String()
	}
	fmt.Fprintf(w, "| `%s` | %s | %04o | %s | %s | %s | %s | %s | %s |\n", f.Name, f.Controller, f.Mode, cell(takes),
		cell(f.Exists), cell(f.Nests), f.Boundary, f.Below, cell(f.Reason))
}
