package fs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// declared are the names of the constants of a type of package hierarchy, in order: each is its own number.
func declared(t *testing.T, kind string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../hierarchy/controlfile.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, decl := range f.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for i, spec := range g.Specs {
			s := spec.(*ast.ValueSpec)
			if id, ok := s.Type.(*ast.Ident); i == 0 && (!ok || id.Name != kind) {
				break
			}
			names = append(names, s.Names[0].Name)
		}
	}
	if len(names) < 3 {
		t.Fatalf("constants of type %s: %v", kind, names)
	}
	return names
}

// TestConstraintRows: each constraint that is declared has its row, a row of the table uses it, and there are no others.
func TestConstraintRows(t *testing.T) {
	names := declared(t, "Constraint")
	used := map[hierarchy.Constraint]bool{hierarchy.ByPolicy: true} // set by package policy
	for _, f := range hierarchy.Table() {
		used[f.Constraint] = true
	}
	for i, name := range names {
		c := hierarchy.Constraint(i)
		row, ok := constraints[c]
		if c == hierarchy.Unconstrained {
			if ok {
				t.Error("Unconstrained has a row: a guarded file would be written unchecked")
			}
			continue
		}
		if !ok || row.write == nil {
			t.Errorf("constraint %s has no row in constraints", name)
		}
		if !used[c] {
			t.Errorf("no control file has constraint %s", name)
		}
	}
	for c := range constraints {
		if int(c) >= len(names) {
			t.Errorf("constraints has a row for %d, which is not declared", c)
		}
	}
	for c := range used {
		if int(c) >= len(names) {
			t.Errorf("a control file has constraint %d, which is not declared", c)
		}
	}
}

// TestFilterRows: each filter that is declared has its row, a row of the table uses it, and there are no others.
func TestFilterRows(t *testing.T) {
	names := declared(t, "Filter")
	used := map[hierarchy.Filter]bool{}
	for _, f := range hierarchy.Table() {
		used[f.Filter] = true
	}
	for i, name := range names {
		row := filters[hierarchy.Filter(i)]
		if (row.shown == nil) == (row.read == nil) {
			t.Errorf("filter %s needs one function in filters", name)
		}
		if !used[hierarchy.Filter(i)] {
			t.Errorf("no control file has filter %s", name)
		}
	}
	for _, f := range slices.Concat(slices.Collect(maps.Keys(filters)), slices.Collect(maps.Keys(used))) {
		if int(f) >= len(names) {
			t.Errorf("filter %d is used or has a row, and is not declared", f)
		}
	}
}

// handleFor is an open of a file with this row, on which a host write or read would be seen as EBADF.
func handleFor(d policy.Decision) *handle {
	return &handle{decision: d, file: d.File.Name, hier: &viewHierarchy{version: d.File.Version}, dir: 9, fd: -1, leaf: -1}
}

// TestUnknownKinds: what no row knows reaches no host file, neither at open nor later.
func TestUnknownKinds(t *testing.T) {
	const none = 99
	v := viewOf(t, "memory")
	file := func(c hierarchy.Constraint, f hierarchy.Filter) hierarchy.ControlFile {
		return hierarchy.ControlFile{Version: hierarchy.V2, Name: "memory.x", Mode: 0o644, Constraint: c, Filter: f}
	}
	check := func([]byte) ([]byte, error) { return nil, nil }
	for what, d := range map[string]policy.Decision{
		"unknown constraint":     {Verdict: hierarchy.Guarded, File: file(none, hierarchy.Raw)},
		"guarded by nothing":     {Verdict: hierarchy.Guarded, File: file(hierarchy.Unconstrained, hierarchy.Raw)},
		"by a policy of none":    {Verdict: hierarchy.Guarded, File: file(hierarchy.ByPolicy, hierarchy.Raw)},
		"two checks":             {Verdict: hierarchy.Guarded, File: file(hierarchy.Canonical, hierarchy.Raw), Check: check},
		"unknown verdict":        {Verdict: none, File: file(hierarchy.Canonical, hierarchy.Raw)},
		"a verdict of read-only": {Verdict: hierarchy.ReadOnly, File: file(hierarchy.Canonical, hierarchy.Raw)},
	} {
		h := handleFor(d)
		if err := v.write(nil, h, 0, []byte("1"), &change{}); err != unix.EPERM {
			t.Errorf("%s: write: %v, want EPERM", what, err)
		}
	}
	for what, c := range map[string]struct {
		d      policy.Decision
		access int
		want   fuse.Status
	}{
		"unknown constraint, to write":    {policy.Decision{Verdict: hierarchy.Guarded, File: file(none, hierarchy.Raw)}, unix.O_WRONLY, errDenied},
		"unknown constraint, to read":     {policy.Decision{Verdict: hierarchy.Guarded, File: file(none, hierarchy.Raw)}, unix.O_RDONLY, fuse.OK},
		"guarded by nothing, to write":    {policy.Decision{Verdict: hierarchy.Guarded, File: file(0, hierarchy.Raw)}, unix.O_RDWR, errDenied},
		"unknown filter, to read":         {policy.Decision{Verdict: hierarchy.ReadOnly, File: file(0, none)}, unix.O_RDONLY, errDenied},
		"unknown filter, to read, write":  {policy.Decision{Verdict: hierarchy.ReadWrite, File: file(0, none)}, unix.O_RDWR, errDenied},
		"unknown filter, to write":        {policy.Decision{Verdict: hierarchy.ReadWrite, File: file(0, none)}, unix.O_WRONLY, fuse.OK},
		"unknown verdict, to read":        {policy.Decision{Verdict: none, File: file(0, 0)}, unix.O_RDONLY, errHidden},
		"a device rule of a plain opener": {policy.Decision{Verdict: hierarchy.Guarded, File: file(hierarchy.DeviceRule, 0)}, unix.O_WRONLY, errDenied},
	} {
		if st := v.authorise(handleFor(c.d), c.access); st != c.want {
			t.Errorf("%s: open: %v, want %v", what, st, c.want)
		}
	}
	h := handleFor(policy.Decision{Verdict: hierarchy.ReadOnly, File: file(0, none)})
	if got, err := v.filtered(h, 0); err != unix.EPERM {
		t.Errorf("unknown filter: read %q, %v, want EPERM", got, err)
	}
	if got, err := v.filter(h, []byte("the host's")); err != unix.EPERM {
		t.Errorf("unknown filter: made %q, %v, want EPERM", got, err)
	}
}

// TestCanonicalGrammars: where a constraint writes the canonical form of what a grammar parsed, the grammar parses: one that
// takes any text would pass the guest's bytes.
func TestCanonicalGrammars(t *testing.T) {
	const junk = "\x01no value"
	for _, f := range hierarchy.Table() {
		switch f.Constraint {
		case hierarchy.Canonical, hierarchy.Reclaim, hierarchy.Action, hierarchy.Unchanged:
			if v, err := f.Grammar.Parse([]byte(junk)); err == nil && string(v.Canonical()) == junk {
				t.Errorf("v%d %s: any text is written as it came", f.Version, f.Name)
			}
		}
	}
}
