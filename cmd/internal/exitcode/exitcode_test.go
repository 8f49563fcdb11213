package exitcode

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestDocument: docs/exit-codes.md has each constant with its value.
func TestDocument(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "exitcode.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		v, ok := node.(*ast.ValueSpec)
		if !ok || len(v.Values) == 0 {
			return true
		}
		value := v.Values[0].(*ast.BasicLit).Value
		if value == "128" {
			value = "128+n"
		}
		if !strings.Contains(string(doc), fmt.Sprintf("| %s | %s | ", value, v.Names[0].Name)) {
			t.Errorf("%s = %s is not in the document", v.Names[0].Name, value)
		}
		n++
		return true
	})
	if n < 11 {
		t.Errorf("%d constants", n)
	}
}

func TestWith(t *testing.T) {
	plain := errors.New("x")
	wrapped := fmt.Errorf("y: %w", With(BadPolicy, plain))
	if Of(nil) != OK || Of(plain) != Failure || Of(wrapped) != BadPolicy || With(Usage, nil) != nil || Of(With(Usage, wrapped)) != BadPolicy {
		t.Error("codes are lost or replaced")
	}
	if !errors.Is(wrapped, plain) {
		t.Error("the error is lost")
	}
}
