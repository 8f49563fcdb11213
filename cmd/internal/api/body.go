package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxBody bounds a request's body, in bytes. A policy's text is the largest part of one.
const maxBody = 1 << 20

// maxNesting bounds the nesting of a body's values. The interface needs 3 at most.
const maxNesting = 16

// decode reads a body into a wire struct, strictly. encoding/json would ignore unknown fields, fields in other letters
// or given twice, invalid UTF-8, and data after the value; decode rejects each. The error names the field and the
// allowed values.
func decode(raw []byte, into any) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return errors.New("the body is empty; give " + kindName(reflect.TypeOf(into).Elem()) + " as JSON")
	}
	if !utf8.Valid(raw) {
		return errors.New("the body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := checkKeys(d, reflect.TypeOf(into).Elem(), "", 0); err != nil {
		return jsonError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the body has data after the JSON value; give one value")
	}
	return jsonError(json.Unmarshal(raw, into))
}

var anyType = reflect.TypeFor[any]()

// checkKeys reads one value and checks the keys of its objects against the fields of t. It ignores a value of another
// kind than t: Unmarshal reports that.
func checkKeys(d *json.Decoder, t reflect.Type, at string, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("the body nests deeper than %d", maxNesting)
	}
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('['):
		elem := anyType
		if t.Kind() == reflect.Slice {
			elem = t.Elem()
		}
		for i := 0; d.More(); i++ {
			if err := checkKeys(d, elem, fmt.Sprintf("%s[%d]", at, i), depth+1); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		if err := checkObject(d, t, at, depth); err != nil {
			return err
		}
	default:
		return nil
	}
	// The closing delimiter.
	_, err = d.Token()
	return err
}

func checkObject(d *json.Decoder, t reflect.Type, at string, depth int) error {
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		name := strings.TrimPrefix(at+"."+key, ".")
		if seen[key] {
			return fmt.Errorf("field %q is given twice", name)
		}
		seen[key] = true
		elem := anyType
		switch t.Kind() {
		case reflect.Map:
			elem = t.Elem()
		case reflect.Struct:
			fields := FieldsOf(t, "json")
			if elem = fields.Type(key); elem == nil {
				return fmt.Errorf("unknown field %q; allowed: %s", name, strings.Join(fields.Names, ", "))
			}
		}
		if err := checkKeys(d, elem, name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// Fields are the fields of a struct, in its order, by their names in one form: json or yaml.
type Fields struct {
	Names []string
	types []reflect.Type
}

// FieldsOf returns the fields of a struct whose tags name them in a form. The name "-" is none.
func FieldsOf(t reflect.Type, form string) (f Fields) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get(form), ",")
		if name == "-" {
			continue
		}
		f.Names = append(f.Names, name)
		f.types = append(f.types, t.Field(i).Type)
	}
	return f
}

// Type returns the type of a field, nil when no field has the name.
func (f Fields) Type(name string) reflect.Type {
	for i, n := range f.Names {
		if n == name {
			return f.types[i]
		}
	}
	return nil
}

// jsonError rewrites an error of encoding/json in the interface's words.
func jsonError(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind):
		field := "the body"
		if kind.Field != "" {
			field = fmt.Sprintf("field %q", kind.Field)
		}
		return fmt.Errorf("%s must be %s, not %s", field, kindName(kind.Type), kind.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("the body is not JSON: at byte %d: %w", syntax.Offset, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the body is not JSON: it ends too early")
	}
	return err
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Int, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	}
	return "an object"
}
