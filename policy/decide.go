package policy

import (
	"cmp"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Request asks for the verdict on one control file at one place.
type Request struct {
	Version hierarchy.Version
	File    string
	Place   hierarchy.Place
}

// Decision is the answer. Where Verdict is Guarded and Check is nil, File.Constraint names what the caller must
// enforce.
type Decision struct {
	Verdict hierarchy.Verdict
	// File is the row of the table; the zero ControlFile for a file that no table knows. Its Constraint is ByPolicy
	// where Check is set.
	File hierarchy.ControlFile
	// Check holds a write against the constraint that the policy sets, nil where it sets none. It returns the
	// canonical bytes to write instead of the guest's. Errors: those of File.Grammar (unix.EINVAL, unix.ERANGE), and
	// unix.EPERM for a value outside the constraint.
	Check func(raw []byte) ([]byte, error)
	// Rule names the rule that spoke: "default table", "policy.yaml:12", "--controllers", ….
	Rule string
}

// Rules that no table and no policy has.
const (
	unknownFileRule  = "unknown file"
	unknownPlaceRule = "unknown place"
	noPolicyRule     = "no policy" // of the zero Policy
)

// Decide gives the verdict for one control file at one place. It is total and pure: it answers every request, from
// nothing but the request and the policy. What it does not know it hides. It allocates nothing.
func (p *Policy) Decide(r Request) Decision {
	if !asked(r) {
		return Decision{Rule: unknownPlaceRule}
	}
	if f := p.of().files[r.Version][r.File]; f != nil {
		return f.at[r.Place].Decision
	}
	if a := p.familyAnswer(r); a != nil {
		return a.Decision
	}
	if row, c, ok := p.hiddenFamily(r); ok && c != "" {
		return Decision{File: row, Rule: cmp.Or(p.spec.controllersAt, noPolicyRule)}
	}
	return Decision{Rule: unknownFileRule}
}

// DecideTranslated is Decide for a file that stands for one of the other version on the host, behind; "" for none. What
// a rule of the policy says of the host's file holds for this one, too. What the table says of the versions' ways to
// bound children is that of the host's file: v1's limits of blkio hold for no cgroup below, those of v2 do.
func (p *Policy) DecideTranslated(r Request, behind string) Decision {
	d := p.Decide(r)
	if behind == "" {
		return d
	}
	other := hierarchy.V2
	if r.Version == hierarchy.V2 {
		other = hierarchy.V1
	}
	b := p.Decide(Request{other, behind, r.Place})
	switch {
	case b.Verdict == hierarchy.Hidden:
		return Decision{File: d.File, Rule: b.Rule}
	case b.Rule != tableRule && looseness(b.Verdict) < looseness(d.Verdict):
		d.Verdict, d.Rule = b.Verdict, b.Rule
	case d.Rule == tableRule && d.Verdict == hierarchy.ReadOnly && r.Place == hierarchy.Below && writable(b.Verdict) &&
		d.File.Mode&0o222 != 0:
		d.Verdict, d.Rule = b.Verdict, b.Rule
	}
	return d
}

// Hides reports that a rule of the policy itself hides a control file, of a controller that is shown: not the table,
// which hides files that formulas of the other version need.
func (p *Policy) Hides(r Request) bool {
	d := p.Decide(r)
	if d.Verdict != hierarchy.Hidden || d.File.Name == "" || d.Rule == tableRule {
		return false
	}
	c := owner(r.Version, r.File)
	return c == "" || p.shown[c]
}

// asked says whether a request names a version and a place that there are.
func asked(r Request) bool {
	return (r.Version == hierarchy.V1 || r.Version == hierarchy.V2) &&
		(r.Place == hierarchy.Boundary || r.Place == hierarchy.Below)
}

// familyAnswer finds the answer for a name of a row that stands for many; nil for no such name or one of a controller
// that is not shown.
func (p *Policy) familyAnswer(r Request) *answer {
	row, hidden, ok := p.hiddenFamily(r)
	if !ok || hidden != "" {
		return nil
	}
	fam := p.of().families[r.Version][row.Name]
	if fam == nil {
		return nil
	}
	for i := range fam.places[r.Place] {
		if c := &fam.places[r.Place][i]; c.glob.match(r.File) {
			return &c.answer
		}
	}
	return &fam.plain.at[r.Place]
}

// hiddenFamily finds the row of a name and its controller if that is not shown; false for a name that no table knows.
func (p *Policy) hiddenFamily(r Request) (row hierarchy.ControlFile, controller string, ok bool) {
	row, ok = hierarchy.Lookup(r.Version, r.File)
	if c := owner(r.Version, r.File); ok && c != "" && !p.shown[c] {
		controller = c
	}
	return row, controller, ok
}
