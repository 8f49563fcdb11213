package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// shellLine is a line that the docs tell to type into a shell, without the comment beside it. One that goes on in the next is one.
type shellLine struct{ file, text string }

// shellBlocks are the blocks of shell lines in a file of the docs.
func shellBlocks(t *testing.T, file string) (blocks [][]shellLine) {
	t.Helper()
	comment := regexp.MustCompile(`\s+# .*`)
	for i, part := range strings.Split(read(t, "../../"+file), "\n```") {
		block, is := strings.CutPrefix(part, "sh\n")
		if !is || i%2 == 0 {
			continue
		}
		var lines []shellLine
		for _, line := range strings.Split(strings.ReplaceAll(block, "\\\n  ", ""), "\n") {
			if line = comment.ReplaceAllString(line, ""); line != "" {
				lines = append(lines, shellLine{file, line})
			}
		}
		blocks = append(blocks, lines)
	}
	return blocks
}

// extraction is a call of a test that takes a block out of the docs, or one line of it, to run it.
type extraction struct {
	shellLine
	whole bool
	where string
}

// extractions are those of the integration tests, and of the scripts.
func extractions(t *testing.T) (all []extraction) {
	t.Helper()
	files, _ := filepath.Glob("../../integration/*_test.go")
	for _, file := range files {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 3 {
				return true
			}
			if name, ok := call.Fun.(*ast.Ident); ok && (name.Name == "docsBlock" || name.Name == "docsLine") {
				all = append(all, extraction{shellLine{stringIn(call.Args[1]), stringIn(call.Args[2])}, name.Name == "docsBlock", set.Position(call.Pos()).String()})
			}
			return true
		})
	}
	scripts, _ := filepath.Glob("../../.ci/*.sh")
	for _, file := range scripts {
		for _, m := range regexp.MustCompile(`docs_line (\S+) '([^']+)'`).FindAllStringSubmatch(read(t, file), -1) {
			all = append(all, extraction{shellLine{m[1], m[2]}, false, file})
		}
	}
	return all
}

// stringIn is the value of a string in source, "" for what is none.
func stringIn(e ast.Expr) string {
	literal, ok := e.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, _ := strconv.Unquote(literal.Value)
	return s
}

// TestDocumentedLines: a test runs each line that the docs tell to type, or testdata/docs-not-run.tsv says why none does.
func TestDocumentedLines(t *testing.T) {
	run, seen := map[shellLine]string{}, 0
	var all []shellLine
	files := []string{"README.md"}
	for _, file := range docs(t) {
		if strings.Contains(file, "/docs/") {
			files = append(files, "docs/"+filepath.Base(file))
		}
	}
	taken := extractions(t)
	for _, file := range files {
		blocks := shellBlocks(t, file)
		lines := slices.Concat(blocks...)
		all = append(all, lines...)
		for _, e := range taken {
			if e.file != file {
				continue
			}
			same := e.shellLine
			for _, block := range blocks {
				for _, line := range block {
					if !strings.HasPrefix(line.text, e.text) || !e.whole && line != same && slices.Contains(lines, same) {
						continue
					}
					seen++
					run[line] = e.where
					for _, other := range block {
						if e.whole {
							run[other] = e.where
						}
					}
				}
			}
		}
	}
	excused := map[shellLine]bool{}
	for line := range strings.Lines(read(t, "../../testdata/docs-not-run.tsv")) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != 3 || fields[2] == "" {
			t.Errorf("docs-not-run.tsv: %q is not a file, a line and a reason, divided by tabs", line)
			continue
		}
		excused[shellLine{fields[0], fields[1]}] = true
	}
	for _, line := range all {
		switch {
		case run[line] == "" && !excused[line]:
			t.Errorf("%s: no test runs this line, and docs-not-run.tsv does not say why: %s", line.file, line.text)
		case run[line] != "" && excused[line]:
			t.Errorf("%s: docs-not-run.tsv says that no test runs this line, and %s does: %s", line.file, run[line], line.text)
		}
		delete(excused, line)
	}
	for line := range excused {
		t.Errorf("docs-not-run.tsv has a line that %s does not have: %s", line.file, line.text)
	}
	if seen < len(taken) || len(all) < 50 {
		t.Errorf("%d extractions of %d lines took %d", len(taken), len(all), seen)
	}
}

// TestDocumentedMake: make knows what the docs have it make.
func TestDocumentedMake(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("machine: make is not installed")
	}
	targets := map[string]bool{}
	for _, file := range docs(t) {
		for _, m := range regexp.MustCompile("`make ([a-z-]+)").FindAllStringSubmatch(read(t, file), -1) {
			targets[m[1]] = true
		}
		for _, block := range shellBlocks(t, strings.TrimPrefix(file, "../../")) {
			for _, line := range block {
				if words := strings.Fields(line.text); words[0] == "make" {
					targets[words[1]] = true
				}
			}
		}
	}
	if len(targets) < 5 {
		t.Errorf("the docs have only %v made", targets)
	}
	for target := range targets {
		if out, err := exec.Command("make", "-C", "../..", "--dry-run", target).CombinedOutput(); err != nil {
			t.Errorf("make %s: %v, %s", target, err, out)
		}
	}
}

// TestDocumentedKubectl: there is no cluster here, but kubectl knows the commands and options of the docs' lines.
func TestDocumentedKubectl(t *testing.T) {
	if _, err := exec.LookPath("kubectl"); err != nil {
		t.Skip("machine: kubectl is not installed")
	}
	seen := 0
	for _, block := range shellBlocks(t, "docs/kubernetes.md") {
		for _, line := range block {
			before, _, _ := strings.Cut(line.text+" ", " -- ")
			if !strings.HasPrefix(before, "kubectl ") {
				continue
			}
			seen++
			args := append(strings.Fields(before)[1:], "--help")
			out, err := exec.Command("kubectl", args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Usage:\n  kubectl ") || strings.Contains(string(out), "Available Commands:") {
				t.Errorf("kubectl does not know this: %s: %v, %s", line.text, err, out)
			}
		}
	}
	if seen < 9 {
		t.Errorf("only %d lines of kubectl were found", seen)
	}
}
