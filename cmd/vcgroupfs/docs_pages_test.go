package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPages: README.md links docs/README.md, which links every page of docs/ and nothing that is missing.
func TestPages(t *testing.T) {
	index := read(t, "../../docs/README.md")
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("only %d pages were found: %v", len(pages), err)
	}
	for _, page := range pages {
		name := filepath.Base(page)
		if name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("docs/README.md does not link %s", name)
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllStringSubmatch(index, -1) {
		if _, err := os.Stat("../../docs/" + m[1]); err != nil {
			t.Errorf("docs/README.md links %s: %v", m[1], err)
		}
	}
	if !strings.Contains(read(t, "../../README.md"), "](docs/README.md)") {
		t.Error("README.md does not link docs/README.md")
	}
}

// architecturePlace is a file that docs/architecture.md names, with a declaration in it behind a colon.
var architecturePlace = regexp.MustCompile("`((?:[\\w.-]+/)*[\\w.-]+\\.(?:go|md|tsv|yaml|sh))(?::(\\w+))?`")

// TestArchitecture: every file that docs/architecture.md names exists and has the declaration named with it, and every
// package of the table of imports has its row among the rooms.
func TestArchitecture(t *testing.T) {
	text := read(t, "../../docs/architecture.md")
	places := architecturePlace.FindAllStringSubmatch(text, -1)
	if len(places) < 200 {
		t.Errorf("only %d files were found", len(places))
	}
	for _, m := range places {
		file := "../../" + m[1]
		if _, err := os.Stat(file); err != nil {
			t.Errorf("docs/architecture.md names %s: %v", m[1], err)
		} else if m[2] != "" && !declares(t, file, m[2]) {
			t.Errorf("docs/architecture.md names %s in %s, which does not declare it", m[2], m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z][a-z/]*)` \\|").FindAllStringSubmatch(text, -1) {
		if st, err := os.Stat("../../" + m[1]); err != nil || !st.IsDir() {
			t.Errorf("docs/architecture.md has a row for %s, which is no package", m[1])
		}
	}
	table := read(t, "../../hierarchy/imports_test.go")
	packages := regexp.MustCompile(`(?m)^\t\{"([a-z/]+)", "`).FindAllStringSubmatch(table, -1)
	if len(packages) < 20 {
		t.Errorf("only %d packages were found", len(packages))
	}
	for _, m := range packages {
		if !strings.Contains(text, "\n| `"+m[1]+"` | ") {
			t.Errorf("docs/architecture.md has no row for the package %s", m[1])
		}
	}
}

// declares reports that a file declares a name at its top level: a function, method, type, variable or constant.
func declares(t *testing.T, file, name string) bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	isName := func(n *ast.Ident) bool { return n.Name == name }
	return slices.ContainsFunc(parsed.Decls, func(d ast.Decl) bool {
		switch d := d.(type) {
		case *ast.FuncDecl:
			return isName(d.Name)
		case *ast.GenDecl:
			return slices.ContainsFunc(d.Specs, func(s ast.Spec) bool {
				switch s := s.(type) {
				case *ast.TypeSpec:
					return isName(s.Name)
				case *ast.ValueSpec:
					return slices.ContainsFunc(s.Names, isName)
				}
				return false
			})
		}
		return false
	})
}
