package policy

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Keys of a policy, as messages name them.
const (
	keyVersion     = "version"
	keyControllers = "controllers"
	keyBoundary    = "boundary"
	keyBelow       = "below"
	keyWritable    = "boundary.writable"
	keyGuarded     = "below.guarded"
	keyUnknown     = "unknown"
	keyQuota       = "quota"
)

// formatVersion is the only version of the format so far.
const formatVersion = 1

// maxQuota bounds a quota: more cgroups than this the kernel's 32-bit counters do not take either.
const maxQuota = 1<<31 - 1

// spec is a policy as it was written, before it meets the table.
type spec struct {
	controllers   []string
	listed        bool   // controllers were named by this policy, not inherited from the default
	controllersAt string // which rule says what is shown
	boundary      []rule
	writable      bool   // boundary.writable is there, so that what it leaves out is not writable
	writableAt    string // which rule takes away what is left out
	below         []rule
	unknown       []namedUnknown
	quota         Quota
}

// rule is one entry of a policy's lists: what it covers and the verdict that it asks for.
type rule struct {
	glob    glob
	verdict hierarchy.Verdict
	limit   *limit // the constraint of a guarded rule; nil: the one of the table
	at      string // "policy.yaml:12"
	key     string // for messages
	node    *yaml.Node
}

// namedUnknown is a control file that no table knows and that the policy shows.
type namedUnknown struct{ name, at string }

// readSpec reads the sections of a policy. What a policy leaves out is as in base.
func (r *reader) readSpec(root *yaml.Node, base spec) spec {
	s := base
	top := r.known(root, "", keyVersion, keyControllers, keyBoundary, keyBelow, keyUnknown, keyQuota)
	if root.Kind != yaml.MappingNode {
		return s
	}
	if n, ok := top[keyVersion]; !ok {
		r.faultAt(root.Line, root.Column, keyVersion, "", fmt.Sprintf("missing; allowed: %d", formatVersion))
	} else if v, ok := r.count(n, keyVersion, maxQuota, fmt.Sprint(formatVersion)); ok && v != formatVersion {
		r.fault(n, keyVersion, "unknown version; allowed: %d", formatVersion)
	}
	if n, ok := top[keyControllers]; ok {
		s.controllers, s.listed, s.controllersAt = r.readControllers(n), true, r.at(n)
	}
	if n, ok := top[keyBoundary]; ok {
		// The inherited list goes with the inherited section.
		s.writable = false
		s.boundary = r.readBoundary(n, &s)
	}
	if n, ok := top[keyBelow]; ok {
		s.below = r.readBelow(n)
	}
	if n, ok := top[keyUnknown]; ok {
		s.unknown = r.readUnknown(n)
	}
	if n, ok := top[keyQuota]; ok {
		s.quota = r.readQuota(n, base.quota)
	}
	return s
}

// at is how a decision names the rule that spoke.
func (r *reader) at(n *yaml.Node) string {
	if r.builtin {
		return tableRule
	}
	return fmt.Sprintf("%s:%d", r.file, n.Line)
}

// readControllers reads the controllers that are shown.
func (r *reader) readControllers(n *yaml.Node) []string {
	names := []string{}
	for _, item := range r.list(n, keyControllers) {
		if err := checkController(item.Value); err != nil {
			r.fault(item, keyControllers, "%v", err)
			continue
		}
		names = append(names, item.Value)
	}
	return names
}

// readBoundary reads what a policy says of the boundary.
func (r *reader) readBoundary(n *yaml.Node, s *spec) []rule {
	m := r.known(n, keyBoundary, "writable", "read-only", "hidden")
	var rules []rule
	if l, ok := m["writable"]; ok {
		s.writable, s.writableAt = true, r.at(l)
		rules = append(rules, r.readRules(l, keyWritable, hierarchy.ReadWrite)...)
	}
	for _, v := range []hierarchy.Verdict{hierarchy.ReadOnly, hierarchy.Hidden} {
		if l, ok := m[v.String()]; ok {
			rules = append(rules, r.readRules(l, keyBoundary+"."+v.String(), v)...)
		}
	}
	r.onceEach(rules)
	return rules
}

// readBelow reads what a policy says of what lies below the boundary.
func (r *reader) readBelow(n *yaml.Node) []rule {
	m := r.known(n, keyBelow, "hidden", "read-only", "read-write", "guarded")
	var rules []rule
	for _, v := range []hierarchy.Verdict{hierarchy.Hidden, hierarchy.ReadOnly, hierarchy.ReadWrite} {
		if l, ok := m[v.String()]; ok {
			rules = append(rules, r.readRules(l, keyBelow+"."+v.String(), v)...)
		}
	}
	if l, ok := m["guarded"]; ok {
		rules = append(rules, r.readGuarded(l)...)
	}
	r.onceEach(rules)
	return rules
}

// readRules reads one list of globs.
func (r *reader) readRules(n *yaml.Node, key string, v hierarchy.Verdict) []rule {
	var rules []rule
	for _, item := range r.list(n, key) {
		g, err := parseGlob(item.Value)
		if err != nil {
			r.fault(item, key, "%v", err)
			continue
		}
		rules = append(rules, rule{glob: g, verdict: v, at: r.at(item), key: key, node: item})
	}
	return rules
}

// readGuarded reads the files that are writable within a constraint.
func (r *reader) readGuarded(n *yaml.Node) []rule {
	var rules []rule
	for _, e := range r.entries(n, keyGuarded) {
		g, err := parseGlob(e.name)
		if err != nil {
			r.fault(e.key, keyGuarded, "%v", err)
			continue
		}
		lim, ok := r.readLimit(e.value, join(keyGuarded, e.name))
		if ok {
			rules = append(rules, rule{g, hierarchy.Guarded, lim, r.at(e.key), keyGuarded, e.key})
		}
	}
	return rules
}

// onceEach faults a name that stands in two lists of one place: the reader of the policy could not tell which holds.
func (r *reader) onceEach(rules []rule) {
	first := map[glob]rule{}
	for _, x := range rules {
		if y, twice := first[x.glob]; !twice {
			first[x.glob] = x
		} else if y.key != x.key {
			r.fault(x.node, x.key, "also in %s on line %d; allowed: one verdict for one name", y.key, y.node.Line)
		}
	}
}

// readUnknown reads the files that no table knows and that are shown all the same. Whole names only: a glob would show
// what nobody has looked at.
func (r *reader) readUnknown(n *yaml.Node) []namedUnknown {
	var out []namedUnknown
	for _, item := range r.list(n, keyUnknown) {
		g, err := parseGlob(item.Value)
		prefix, rest, dotted := strings.Cut(item.Value, ".")
		switch {
		case err != nil:
			r.fault(item, keyUnknown, "%v", err)
		case !g.literal():
			r.fault(item, keyUnknown, "a glob; allowed: whole names, for a file that no table knows is judged one by one")
		case knownFile(item.Value):
			r.fault(item, keyUnknown, "a known control file; it is decided by %s and %s", keyBoundary, keyBelow)
		case !dotted || rest == "" || prefix != "cgroup" && !knownController(prefix):
			r.fault(item, keyUnknown, "no controller's file; allowed: CONTROLLER.NAME, of cgroup, %s",
				strings.Join(hierarchy.KnownControllers(), ", "))
		default:
			out = append(out, namedUnknown{item.Value, r.at(item)})
		}
	}
	return out
}

// readQuota reads the quota; what is left out is as in base.
func (r *reader) readQuota(n *yaml.Node, base Quota) Quota {
	q := base
	m := r.known(n, keyQuota, "cgroups", "depth")
	for name, to := range map[string]*int{"cgroups": &q.Cgroups, "depth": &q.Depth} {
		if v, ok := m[name]; ok {
			want := fmt.Sprintf("a decimal number from 0 (no bound) to %d", maxQuota)
			if c, ok := r.count(v, join(keyQuota, name), maxQuota, want); ok {
				*to = c
			}
		}
	}
	return q
}
