package policy

import (
	"errors"
	"fmt"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// ErrUnknownFile says that neither the table nor the policy knows a control file.
var ErrUnknownFile = errors.New("no such control file")

// Explanation says the verdict on a control file at one place of one version of cgroup, and why.
type Explanation struct {
	Version hierarchy.Version
	Place   hierarchy.Place
	Verdict hierarchy.Verdict
	File    hierarchy.ControlFile // the row of the table that the file is of
	Rule    string                // as in Decision
	Reason  string
}

// String gives the explanation in one line: v2 boundary: read-only (default table): why.
func (e Explanation) String() string {
	place := "below"
	if e.Place == hierarchy.Boundary {
		place = "boundary"
	}
	return fmt.Sprintf("v%d %s: %s (%s): %s", int(e.Version), place, e.Verdict, e.Rule, e.Reason)
}

// Explain says the verdict on a control file at the boundary and below it, for each version of cgroup that has the
// file, v1 first. The error is ErrUnknownFile, with the name that was probably meant, for a file that is hidden
// because nobody knows it.
func (p *Policy) Explain(file string) ([]Explanation, error) {
	var out []Explanation
	for _, v := range versions {
		for _, place := range places {
			if a, ok := p.explain(Request{v, file, place}); ok {
				out = append(out, Explanation{v, place, a.Verdict, a.File, a.Rule, a.why})
			}
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	hint := "it is hidden everywhere, unless a policy names it under " + keyUnknown
	if near := nearest(file); near != "" {
		hint = "did you mean " + near + "? Otherwise " + hint
	}
	return nil, fmt.Errorf("cannot explain %q: %w: %s", shorten(file), ErrUnknownFile, hint)
}

// explain is Decide with the reason, false for an unknown file.
func (p *Policy) explain(r Request) (answer, bool) {
	if f := p.of().files[r.Version][r.File]; f != nil {
		return f.at[r.Place], true
	}
	if a := p.familyAnswer(r); a != nil {
		return *a, true
	}
	if row, c, ok := p.hiddenFamily(r); ok && c != "" {
		return answer{Decision{File: row, Rule: p.spec.controllersAt}, p.whyHidden(c)}, true
	}
	return answer{}, false
}
