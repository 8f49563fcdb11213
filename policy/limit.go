package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// limit is a constraint as a policy writes it: texts, each of which the grammar of a guarded file must take.
type limit struct {
	kind  string // "range", "values" or "max"
	texts []*yaml.Node
	key   string
}

// octal is a number that the kernel reads in base 8 and a person in base 10.
var octal = regexp.MustCompile(`^[+-]?0[0-9]+$`)

// readLimit reads one constraint. An empty mapping is none of its own: the file keeps the table's. false after a fault.
func (r *reader) readLimit(n *yaml.Node, key string) (*limit, bool) {
	before := len(r.errs)
	m := r.known(n, key, "range", "values", "max")
	if len(m) > 1 {
		r.fault(n, key, "more than one constraint; allowed: one of range, values, max")
	}
	if len(m) != 1 || len(r.errs) > before {
		return nil, len(r.errs) == before && n.Kind == yaml.MappingNode
	}
	var l limit
	for kind, v := range m {
		l = limit{kind: kind, key: key + "." + kind}
		switch {
		case kind == "max":
			l.texts = []*yaml.Node{v}
		case v.Kind != yaml.SequenceNode:
			r.wrongKind(v, l.key, "a list")
		case kind == "range" && len(v.Content) != 2:
			r.fault(v, l.key, "a list of %d; allowed: [LEAST, MOST]", len(v.Content))
		case len(v.Content) == 0:
			r.fault(v, l.key, "an empty list; allowed: at least one value (or the file under below.read-only)")
		default:
			l.texts = v.Content
		}
	}
	for _, t := range l.texts {
		r.checkText(t, l.key)
	}
	return &l, len(r.errs) == before
}

// checkText refuses what is no text of a value, or means one thing to a person and another to the kernel.
func (r *reader) checkText(t *yaml.Node, key string) {
	switch tag := t.ShortTag(); {
	case t.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int":
		r.wrongKind(t, key, "a number, or a text as the control file takes it")
	case octal.MatchString(t.Value):
		r.fault(t, key, "the kernel reads a leading 0 as octal; allowed: decimal, or 0x and hexadecimal")
	}
}

// check makes the constraint into a function for the files of one grammar, or says which text does not fit the grammar.
func (l *limit) check(f hierarchy.ControlFile) (func([]byte) ([]byte, error), *yaml.Node, error) {
	if l.kind == "values" {
		return l.checkValues(f)
	}
	bounds := make([]uint64, len(l.texts))
	for i, t := range l.texts {
		n, err := number(f.Grammar, []byte(t.Value))
		if err != nil {
			return nil, t, fmt.Errorf("not a number as %s takes it (%w); allowed: %s", f.Name, err, allowedBound)
		}
		bounds[i] = n
	}
	least, most := uint64(0), bounds[len(bounds)-1]
	if l.kind == "range" {
		least = bounds[0]
	}
	if least > most {
		return nil, l.texts[0], fmt.Errorf("more than the range's end %d; allowed: [LEAST, MOST]", most)
	}
	g := f.Grammar
	return func(raw []byte) ([]byte, error) {
		v, err := g.Parse(raw)
		if err != nil {
			return nil, err
		}
		n, ok := plainNumber(v)
		if !ok || n < least || n > most {
			return nil, unix.EPERM
		}
		return v.Canonical(), nil
	}, nil, nil
}

const allowedBound = "one number, not unlimited; for other values use values: [...]"

// checkValues allows exactly the values listed, compared as the grammar writes them.
func (l *limit) checkValues(f hierarchy.ControlFile) (func([]byte) ([]byte, error), *yaml.Node, error) {
	var allowed []string
	for _, t := range l.texts {
		v, err := f.Grammar.Parse([]byte(t.Value))
		if err != nil {
			return nil, t, fmt.Errorf("not a value of %s (%w)", f.Name, err)
		}
		allowed = append(allowed, string(v.Canonical()))
	}
	g := f.Grammar
	return func(raw []byte) ([]byte, error) {
		v, err := g.Parse(raw)
		if err != nil {
			return nil, err
		}
		if c := v.Canonical(); slices.Contains(allowed, string(c)) {
			return c, nil
		}
		return nil, unix.EPERM
	}, nil, nil
}

// number parses a bound by the file's own grammar. The errors are the grammar's, and EINVAL for what is not one number.
func number(g hierarchy.Grammar, raw []byte) (uint64, error) {
	v, err := g.Parse(raw)
	if err != nil {
		return 0, err
	}
	n, ok := plainNumber(v)
	if !ok {
		return 0, unix.EINVAL
	}
	return n, nil
}

// plainNumber is the value's number when the value is nothing but that number. The canonical text decides: a list, a
// pair or "unlimited" has a number too, or seems to, but is not one, and no bound may be taken for kept by it.
func plainNumber(v hierarchy.Value) (uint64, bool) {
	n, unlimited := v.Number()
	if unlimited || clean(v.Canonical()) != strconv.FormatUint(n, 10) {
		return 0, false
	}
	return n, true
}

// String is the constraint as explain shows it.
func (l *limit) String() string {
	texts := make([]string, len(l.texts))
	for i, t := range l.texts {
		texts[i] = shorten(t.Value)
	}
	if l.kind == "max" {
		return "max " + texts[0]
	}
	return l.kind + " [" + strings.Join(texts, ", ") + "]"
}
