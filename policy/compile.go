package policy

import (
	"slices"
	"sync"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// answer is a decision made ready, and what explain says of it.
type answer struct {
	Decision
	why string
}

// file is a control file under this policy: the answers at both places, by place.
type file struct{ at [2]answer }

// family is a row of the table that stands for many names, such as hugetlb.*.max. Its names are not known
// beforehand, so the globs that cover some of them are asked at each decision, the first that covers being right.
type family struct {
	row    hierarchy.ControlFile
	plain  file // where no rule covers the name
	places [2][]choice
}

// choice is one rule's answer for the names of a family.
type choice struct {
	glob glob
	answer
}

// compile makes a policy of what was read. It gives nothing that grant and clamp do not, so it needs no error: Parse
// has told its reader what will not be given.
func compile(s spec) *Policy {
	p := &Policy{spec: s, shown: make(map[string]bool, len(s.controllers))}
	for _, c := range s.controllers {
		p.shown[c] = true
	}
	p.tables = sync.OnceValue(p.compileTables)
	p.legacy = sync.OnceValue(p.compileLegacy)
	return p
}

// compileTables makes every decision ready.
func (p *Policy) compileTables() *tables {
	t := &tables{}
	for _, v := range versions {
		t.files[v] = map[string]*file{}
		t.families[v] = map[string]*family{}
	}
	for _, row := range hierarchy.Table() {
		if glob(row.Name).literal() {
			t.files[row.Version][row.Name] = p.compileFile(row)
		} else {
			t.families[row.Version][row.Name] = p.compileFamily(row)
		}
	}
	for _, u := range p.spec.unknown {
		for _, v := range versions {
			t.files[v][u.name] = p.compileUnknown(v, u)
		}
	}
	return t
}

// compileLegacy is Legacy. The policy is its own where it shows the names of both versions already.
func (p *Policy) compileLegacy() *Policy {
	s := p.spec
	s.controllers = slices.Clone(s.controllers)
	for _, c := range hierarchy.KnownControllers() {
		if !hierarchy.UnifiedController(c) {
			continue
		}
		names := append(hierarchy.LegacyNames(c), c)
		if !p.shown[c] && !p.shown[names[0]] {
			continue
		}
		for _, name := range names {
			if !slices.Contains(s.controllers, name) {
				s.controllers = append(s.controllers, name)
			}
		}
	}
	if len(s.controllers) == len(p.spec.controllers) {
		return p
	}
	return compile(s)
}

func (p *Policy) compileFile(row hierarchy.ControlFile) *file {
	if c := owner(row.Version, row.Name); c != "" && !p.shown[c] {
		return p.hiddenFile(row, c)
	}
	f := p.tableFile(row)
	for _, place := range places {
		if rules := p.rulesFor(row, place); len(rules) > 0 {
			f.at[place] = p.ruleAnswer(row, place, rules[0])
		}
	}
	return f
}

func (p *Policy) compileFamily(row hierarchy.ControlFile) *family {
	fam := &family{row: row, plain: *p.tableFile(row)}
	for _, place := range places {
		for _, x := range p.rulesFor(row, place) {
			fam.places[place] = append(fam.places[place], choice{x.glob, p.ruleAnswer(row, place, x)})
		}
	}
	return fam
}

// rulesFor lists the rules that speak of a row at a place, the first in force first: a name that is written out goes
// before a glob, then the stricter verdict before the looser.
func (p *Policy) rulesFor(row hierarchy.ControlFile, place hierarchy.Place) []rule {
	all := p.spec.below
	if place == hierarchy.Boundary {
		all = p.spec.boundary
	}
	var rules []rule
	for _, x := range all {
		if !x.glob.meets(glob(row.Name)) {
			continue
		}
		if _, err := grant(row, place, x); err == nil {
			rules = append(rules, x)
		}
	}
	slices.SortStableFunc(rules, func(a, b rule) int {
		if a.glob.literal() != b.glob.literal() {
			if a.glob.literal() {
				return -1
			}
			return 1
		}
		return looseness(a.verdict) - looseness(b.verdict)
	})
	return rules
}

// looseness orders the verdicts, the strictest first.
func looseness(v hierarchy.Verdict) int {
	order := []hierarchy.Verdict{hierarchy.Hidden, hierarchy.ReadOnly, hierarchy.Guarded, hierarchy.ReadWrite}
	return slices.Index(order, v)
}

// ruleAnswer is the answer of one rule, which grant has given something.
func (p *Policy) ruleAnswer(row hierarchy.ControlFile, place hierarchy.Place, x rule) answer {
	v, _ := grant(row, place, x)
	d := Decision{Verdict: v, File: row, Rule: x.at}
	why := "the policy says " + x.verdict.String()
	if place == hierarchy.Boundary && x.verdict == hierarchy.ReadWrite {
		why = "the policy says writable"
	}
	if x.limit != nil {
		check, _, err := x.limit.check(row)
		if err != nil {
			// Impossible: Parse has tried it.
			check, d.Verdict = nil, hierarchy.ReadOnly
		}
		d.Check, d.File.Constraint = check, hierarchy.ByPolicy
		why = "the policy says guarded by " + x.limit.String()
	}
	d.Verdict = clamp(row, place, d.Verdict, d.Check != nil)
	if d.Verdict == hierarchy.Guarded && d.Check == nil {
		why += "; the table guards it: " + constraintText(row)
	}
	return answer{d, why + because(row.Reason)}
}

// tableFile is a file as the table has it, less what boundary.writable leaves out.
func (p *Policy) tableFile(row hierarchy.ControlFile) *file {
	var f file
	for _, place := range places {
		d := Decision{Verdict: clamp(row, place, tableVerdict(row, place), false), File: row, Rule: tableRule}
		f.at[place] = answer{d, tableWhy(row, d.Verdict)}
	}
	if b := &f.at[hierarchy.Boundary]; p.spec.writable && writable(b.Verdict) {
		b.Verdict, b.Rule = hierarchy.ReadOnly, p.spec.writableAt
		b.why = "the policy lists what is writable at the boundary, and not this file" + because(row.Reason)
	}
	return &f
}

// tableWhy is the table's reason for a verdict.
func tableWhy(row hierarchy.ControlFile, v hierarchy.Verdict) string {
	why := row.Reason
	switch {
	case v == hierarchy.Guarded:
		why = constraintText(row) + because(row.Reason)
	case why == "" && row.Mode&0o222 == 0:
		why = "the kernel gives it for reading only"
	case why == "" && v == hierarchy.ReadWrite:
		why = "the kernel keeps it within what the boundary has"
	case why == "":
		why = "what the host sets for the guest"
	}
	return why
}

// hiddenFile is a file of a controller that is not shown.
func (p *Policy) hiddenFile(row hierarchy.ControlFile, controller string) *file {
	a := answer{Decision{File: row, Rule: p.spec.controllersAt}, p.whyHidden(controller)}
	return &file{[2]answer{a, a}}
}

// whyHidden is the reason for which a controller is not shown.
func (p *Policy) whyHidden(controller string) string {
	why := "the controller " + controller + " is not shown"
	if !p.spec.listed {
		why += because(notByDefault[controller])
	}
	return why
}

// compileUnknown is a file that no table knows and the policy names: read-only at both places, if its controller is
// shown. Reading it may take the kernel any time, and what it says may change with each open.
func (p *Policy) compileUnknown(v hierarchy.Version, u namedUnknown) *file {
	row := hierarchy.ControlFile{Version: v, Controller: hierarchy.ControllerOf(u.name), Name: u.name, Mode: 0o444,
		Class: "unknown", Boundary: hierarchy.ReadOnly, Below: hierarchy.ReadOnly, PerOpen: true, Blocks: true,
		Reason: "no table knows it; the policy names it"}
	if c := owner(v, u.name); c != "" && !p.shown[c] {
		return p.hiddenFile(row, c)
	}
	a := answer{Decision{Verdict: hierarchy.ReadOnly, File: row, Rule: u.at}, row.Reason}
	return &file{[2]answer{a, a}}
}
