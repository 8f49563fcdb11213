package policy

import (
	"cmp"
	"slices"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// versions are the versions of cgroup that a policy speaks of.
var versions = []hierarchy.Version{hierarchy.V1, hierarchy.V2}

// knownFile says whether the table of some version knows a name.
func knownFile(name string) bool {
	for _, v := range versions {
		if _, ok := hierarchy.Lookup(v, name); ok {
			return true
		}
	}
	return false
}

// covered lists the rows of the table that a glob covers, wholly or in part.
func covered(g glob) []hierarchy.ControlFile {
	var rows []hierarchy.ControlFile
	if g.literal() {
		for _, v := range versions {
			if f, ok := hierarchy.Lookup(v, string(g)); ok {
				rows = append(rows, f)
			}
		}
		return rows
	}
	for _, f := range hierarchy.Table() {
		if g.meets(glob(f.Name)) {
			rows = append(rows, f)
		}
	}
	return rows
}

// checkRules holds the rules of a place against the table. A rule must cover a known file; one that gives a write must
// be able to give it to some file, and its constraint must fit all to which it gives.
func (r *reader) checkRules(place hierarchy.Place, rules []rule) {
	for _, x := range rules {
		rows := covered(x.glob)
		if len(rows) == 0 {
			r.unmatched(x)
			continue
		}
		var given bool
		var refusal error
		for _, f := range rows {
			_, err := grant(f, place, x)
			if err != nil {
				refusal = cmp.Or(refusal, err)
				continue
			}
			given = true
			if !r.fits(f, x) {
				// One fault for a rule is enough.
				break
			}
		}
		if !given {
			r.refused(x, refusal)
		}
	}
	r.oneGuard(rules)
}

// refused records that a rule gives nothing, with the reason of the first file that it covers.
func (r *reader) refused(x rule, why error) {
	if x.glob.literal() {
		r.fault(x.node, x.key, "%v", why)
		return
	}
	r.fault(x.node, x.key, "a glob that covers no file for which this is possible; the first is %v", why)
}

// unmatched records that a rule covers no known file.
func (r *reader) unmatched(x rule) {
	switch near := nearest(string(x.glob)); {
	case !x.glob.literal():
		r.fault(x.node, x.key, "a glob that covers no known control file; "+
			"allowed: one that does (docs/control-files.md lists them)")
	case near != "":
		r.fault(x.node, x.key, "no such control file; did you mean %s? allowed: docs/control-files.md lists them, and "+
			"under %s what no table knows", near, keyUnknown)
	default:
		r.fault(x.node, x.key, "no such control file; "+
			"allowed: docs/control-files.md lists them, and under %s what no table knows",
			keyUnknown)
	}
}

// fits records when a rule's constraint does not fit a file.
func (r *reader) fits(f hierarchy.ControlFile, x rule) bool {
	if x.limit == nil {
		return true
	}
	_, at, err := x.limit.check(f)
	if err != nil {
		r.fault(at, x.limit.key, "%v", err)
	}
	return err == nil
}

// oneGuard faults two constraints that could both speak of one file: which holds would depend on their order. A name
// that is written out is not in doubt, for it goes before every glob.
func (r *reader) oneGuard(rules []rule) {
	var globs []rule
	for _, x := range rules {
		if x.verdict != hierarchy.Guarded || x.glob.literal() {
			continue
		}
		for _, y := range globs {
			if f, both := sharedFile(x, y, rules); both {
				r.fault(x.node, x.key, "covers %s as %q on line %d does; allowed: one constraint for one file "+
					"(write the name out to settle it)", f, string(y.glob), y.node.Line)
				break
			}
		}
		globs = append(globs, x)
	}
}

// sharedFile finds a file to which two guarded globs both give, and which no rule names.
func sharedFile(x, y rule, rules []rule) (string, bool) {
	if !x.glob.meets(y.glob) {
		return "", false
	}
	for _, f := range covered(x.glob) {
		_, errX := grant(f, hierarchy.Below, x)
		_, errY := grant(f, hierarchy.Below, y)
		named := slices.ContainsFunc(rules, func(z rule) bool { return string(z.glob) == f.Name && z.glob.literal() })
		if errX == nil && errY == nil && !named && y.glob.meets(glob(f.Name)) {
			return f.Name, true
		}
	}
	return "", false
}

// nearest is the known control file that a name was probably meant to be, or "".
func nearest(name string) string {
	// Two slips at most.
	best, least := "", 3
	for _, f := range hierarchy.Table() {
		if glob(f.Name).literal() {
			if d := distance(name, f.Name, least); d < least {
				best, least = f.Name, d
			}
		}
	}
	return best
}

// distance is the number of bytes to insert, drop or change between two names; limit when it is that or more.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return min(row[len(b)], limit)
}
