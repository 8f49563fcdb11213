package policy

import (
	_ "embed" // for defaultText
	"sync"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Policy says what a guest may see and write. It is immutable; the zero Policy hides everything.
type Policy struct {
	spec   spec
	shown  map[string]bool // controllers that are shown
	tables func() *tables  // made at the first decision: most policies that are read make none; nil in the zero Policy
	legacy func() *Policy  // Legacy; nil in the zero Policy
}

// tables are the decisions by hierarchy.Version, then by the name of the row.
type tables struct {
	files    [3]map[string]*file
	families [3]map[string]*family
}

// of returns the tables of a policy, empty ones of the zero Policy.
func (p *Policy) of() *tables {
	if p.tables == nil {
		return &tables{}
	}
	return p.tables()
}

// places are the indices of answers.
var places = []hierarchy.Place{hierarchy.Boundary, hierarchy.Below}

// Quota bounds what a guest may make below its boundary, in each hierarchy; 0 is no bound.
type Quota struct {
	Cgroups int // cgroups that exist at a time
	Depth   int // levels below the boundary
}

// Quota is the bound on the guest's cgroups.
func (p *Policy) Quota() Quota { return p.spec.quota }

// defaultName is the default policy's name in messages.
const defaultName = "default.yaml"

//go:embed default.yaml
var defaultText []byte

// DefaultText is the default policy as YAML, with comments that teach the format. Parsed, it is Default.
func DefaultText() []byte { return append([]byte(nil), defaultText...) }

// Default is the policy that holds where none is given, and in whatever a policy leaves out.
func Default() *Policy { return builtin() }

// builtin is read once. The text is part of the program; a fault in it is a fault of the program.
var builtin = sync.OnceValue(func() *Policy {
	r := reader{file: defaultName, builtin: true}
	s, ok := r.read(defaultText, spec{})
	if !ok {
		panic(r.errs.inOrder())
	}
	s.listed, s.controllersAt = false, "default controllers"
	return compile(s)
})

// Parse reads a policy; name is its file's name, for messages. What the policy leaves out is as in Default. The
// error is an Errors with every fault of the text.
func Parse(name string, data []byte) (*Policy, error) {
	r := reader{file: name}
	s, ok := r.read(data, Default().spec)
	if !ok {
		return nil, r.errs.inOrder()
	}
	return compile(s), nil
}

// read reads the text and holds it against the table; false after a fault.
func (r *reader) read(data []byte, base spec) (spec, bool) {
	root := r.document(data)
	if root == nil {
		return spec{}, false
	}
	s := r.readSpec(root, base)
	r.checkRules(hierarchy.Boundary, s.boundary)
	r.checkRules(hierarchy.Below, s.below)
	return s, len(r.errs) == 0
}
