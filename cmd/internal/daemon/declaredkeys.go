package daemon

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// checkDeclared compares a guest's file with a struct of the interface: every key must name a field, and every value
// must have the field's kind. It reports all faults at once, each with its line, in the file's own words.
func checkDeclared(n *yaml.Node, into any) error {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	var faults []error
	checkNode(n, reflect.TypeOf(into).Elem(), "", func(at *yaml.Node, format string, args ...any) {
		faults = append(faults, fmt.Errorf("line %d, column %d: %s", at.Line, at.Column, fmt.Sprintf(format, args...)))
	})
	return errors.Join(faults...)
}

type faultFunc func(at *yaml.Node, format string, args ...any)

func checkNode(n *yaml.Node, t reflect.Type, key string, fault faultFunc) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	want, ok := kindOf(n, t)
	if !ok {
		if key != "" {
			key += ": "
		}
		fault(n, "%swrong value; allowed: %s", key, want)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		checkMapping(n, t, key, fault)
	case reflect.Slice:
		for _, c := range n.Content {
			checkNode(c, t.Elem(), key, fault)
		}
	case reflect.Map:
		for i := 1; i < len(n.Content); i += 2 {
			checkNode(n.Content[i], t.Elem(), key+"."+n.Content[i-1].Value, fault)
		}
	}
}

func checkMapping(n *yaml.Node, t reflect.Type, above string, fault faultFunc) {
	fields := api.FieldsOf(t, "yaml")
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		if above != "" {
			key = above + "." + key
		}
		if f := fields.Type(n.Content[i].Value); f != nil {
			checkNode(n.Content[i+1], f, key, fault)
		} else {
			fault(n.Content[i], "unknown key %q; allowed: %s", key, strings.Join(fields.Names, ", "))
		}
	}
}

// kindOf reports that a value has a field's kind, and names the kind.
func kindOf(n *yaml.Node, t reflect.Type) (want string, ok bool) {
	// null leaves the field as it is.
	none := n.Kind == yaml.ScalarNode && n.Tag == "!!null"
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "a mapping (key: value)", none || n.Kind == yaml.MappingNode
	case reflect.Slice:
		return "a list ([a, b])", none || n.Kind == yaml.SequenceNode
	case reflect.Int:
		return "a whole number", none || n.Kind == yaml.ScalarNode && n.Tag == "!!int"
	case reflect.Bool:
		return "true, false", none || n.Kind == yaml.ScalarNode && n.Tag == "!!bool"
	}
	return "a text", none || n.Kind == yaml.ScalarNode
}
