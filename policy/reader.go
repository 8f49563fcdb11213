package policy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxSize bounds the text of a policy, so that a wrong file named as a policy is refused before it is read into a tree.
const maxSize = 1 << 20

// reader turns YAML nodes into values and collects every fault on the way.
type reader struct {
	file    string
	builtin bool // the default policy, whose rules go by the table's name
	errs    Errors
}

// fault records a fault at a node. The value shown is the node's own text when it is a scalar.
func (r *reader) fault(n *yaml.Node, key, format string, args ...any) {
	value := ""
	if n.Kind == yaml.ScalarNode {
		value = shorten(n.Value)
	}
	r.faultAt(n.Line, n.Column, key, value, fmt.Sprintf(format, args...))
}

func (r *reader) faultAt(line, column int, key, value, msg string) {
	r.errs = append(r.errs, &Error{r.file, max(line, 1), max(column, 1), key, value, msg})
}

// document reads the text into the root mapping; nil after a fault. A fault of syntax is the only one of its text: the
// YAML parser cannot go on behind it.
func (r *reader) document(data []byte) *yaml.Node {
	if len(data) > maxSize {
		r.faultAt(1, 1, "", "", fmt.Sprintf("policy of %d bytes; allowed: at most %d", len(data), maxSize))
		return nil
	}
	if !r.plainText(data) {
		return nil
	}
	var docs []yaml.Node
	if err := yaml.Load(data, &docs, yaml.WithAllDocuments()); err != nil {
		r.syntax(err)
		return nil
	}
	if len(docs) == 0 || len(docs[0].Content) == 0 {
		r.faultAt(1, 1, "version", "", "empty policy; the least is \"version: 1\"")
		return nil
	}
	for _, d := range docs[1:] {
		r.faultAt(d.Line, d.Column, "", "", "a second YAML document; allowed: one policy in a file")
	}
	root := docs[0].Content[0]
	r.plainNodes(root)
	return root
}

// plainText refuses what is not printable UTF-8; the YAML reader would too, but without saying where.
func (r *reader) plainText(data []byte) bool {
	line, column := 1, 1
	for rest := data; len(rest) > 0; {
		c, size := utf8.DecodeRune(rest)
		if c == utf8.RuneError && size == 1 || c < ' ' && !strings.ContainsRune("\t\n\r", c) || c == 0x7f {
			r.faultAt(line, column, "", "", fmt.Sprintf("byte 0x%02x; allowed: printable UTF-8", rest[0]))
			return false
		}
		column++
		if c == '\n' {
			line, column = line+1, 1
		}
		rest = rest[size:]
	}
	return true
}

// syntax records what the YAML parser says.
func (r *reader) syntax(err error) {
	var at *yaml.LoadError
	if !errors.As(err, &at) {
		r.faultAt(1, 1, "", "", "not YAML: "+err.Error())
		return
	}
	msg := "not YAML: " + at.Message
	if at.ContextMsg != "" {
		msg += " " + at.ContextMsg
	}
	if strings.Contains(at.Message, "anchor") {
		msg += "; a glob that begins with '*' must be quoted: \"*.events\""
	}
	r.faultAt(at.Mark.Line, at.Mark.Column, "", "", msg)
}

// plainNodes refuses YAML's means of saying a thing somewhere else or as something else: anchors, aliases, merges and
// tags. A policy is read by people who must see what it says where they look.
func (r *reader) plainNodes(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		r.faultAt(n.Line, n.Column, "", "*"+shorten(n.Value),
			"an alias; allowed: the text itself (quote a glob that begins with '*')")
		// The fault of its content is reported at the anchor.
		return
	case n.Anchor != "":
		r.faultAt(n.Line, n.Column, "", "&"+shorten(n.Anchor), "an anchor; allowed: the text itself")
	case n.Style&yaml.TaggedStyle != 0:
		r.faultAt(n.Line, n.Column, "", shorten(n.Tag), "a tag; allowed: plain or quoted values")
	}
	for _, c := range n.Content {
		r.plainNodes(c)
	}
}

// entry is one key of a mapping.
type entry struct {
	name       string
	key, value *yaml.Node
}

// entries reads a mapping; keys that are not strings, or come twice, are faults and left out.
func (r *reader) entries(n *yaml.Node, key string) []entry {
	if n.Kind != yaml.MappingNode {
		r.wrongKind(n, key, "a mapping (key: value)")
		return nil
	}
	var out []entry
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" {
			r.wrongKind(k, key, "a name as key")
			continue
		}
		if line, twice := first[k.Value]; twice {
			r.fault(k, join(key, k.Value), "duplicated key, first on line %d; allowed: once", line)
			continue
		}
		first[k.Value] = k.Line
		out = append(out, entry{k.Value, k, v})
	}
	return out
}

// known reads a mapping whose keys are given; another one is a fault.
func (r *reader) known(n *yaml.Node, key string, allowed ...string) map[string]*yaml.Node {
	out := map[string]*yaml.Node{}
	for _, e := range r.entries(n, key) {
		if !slices.Contains(allowed, e.name) {
			r.fault(e.key, key, "unknown key; %s", oneOf(allowed))
			continue
		}
		out[e.name] = e.value
	}
	return out
}

// list reads a list of strings; what comes twice is a fault.
func (r *reader) list(n *yaml.Node, key string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		r.wrongKind(n, key, "a list ([] for none)")
		return nil
	}
	var out []*yaml.Node
	first := map[string]int{}
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode || item.ShortTag() != "!!str" {
			r.wrongKind(item, key, "a name")
			continue
		}
		if line, twice := first[item.Value]; twice {
			r.fault(item, key, "duplicated, first on line %d; allowed: once", line)
			continue
		}
		first[item.Value] = item.Line
		out = append(out, item)
	}
	return out
}

// wrongKind records that something else stands where one thing is allowed. An alias is faulted already.
func (r *reader) wrongKind(n *yaml.Node, key, want string) {
	if n.Kind == yaml.AliasNode {
		return
	}
	r.fault(n, key, "%s; allowed: %s", kindOf(n), want)
}

// kindOf names what a node is, for messages.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "a boolean"
	case "!!merge":
		return "a merge"
	}
	return "a text"
}

// count reads a plain decimal number of at most limit.
func (r *reader) count(n *yaml.Node, key string, limit int, want string) (int, bool) {
	if n.Kind == yaml.AliasNode {
		return 0, false
	}
	plain := n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && (n.Value == "0" || !strings.HasPrefix(n.Value, "0"))
	if plain {
		// Atoi takes a sign, which a count has not; it takes neither 0x nor 1_000.
		if v, err := strconv.Atoi(n.Value); err == nil && v >= 0 && v <= limit && n.Value[0] != '+' && n.Value != "-0" {
			return v, true
		}
	}
	r.fault(n, key, "%s; allowed: %s", kindOf(n), want)
	return 0, false
}

// join makes the key of a member. A file's name has dots of its own and stands in brackets.
func join(key, name string) string {
	switch {
	case key == "":
		return shorten(name)
	case key == keyGuarded:
		return key + "[" + shorten(name) + "]"
	}
	return key + "." + shorten(name)
}

// clean is a value's text without a newline at its end, for messages.
func clean(b []byte) string { return string(bytes.TrimRight(b, "\n")) }
