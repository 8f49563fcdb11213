package hierarchy_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/vcgroupfs/vcgroupfs"

// mayImport is the picture of the module: for each package the packages of the module that it may import. Imports run
// downward only, so a package stands above all that it imports. A new edge is a decision: it gets its place here or is
// not made.
var mayImport = []struct{ dir, own string }{
	{"cmd/vcgroupfs", "api daemon doctor early fault fstype holder listener logs run runtimes runtimes/nri spec target texts top views fs/conn hierarchy hierarchy/host hierarchy/translate policy"},
	{"cmd/internal/daemon", "alarm api attach cgroups fault fstype holder memory runtimes spec target views fs fs/conn fs/self fs/state hierarchy hierarchy/host policy"},
	{"cmd/internal/listener", "api fault holder notify runtimes spec target fs/state hierarchy hierarchy/host policy"},
	{"cmd/internal/holder", "alarm api fstype memory target fs/state hierarchy/host"},
	{"cmd/internal/alarm", ""},
	{"cmd/internal/memory", ""},
	{"cmd/internal/cgroups", "fault hierarchy hierarchy/host"},
	{"cmd/internal/doctor", "api fault fstype runtimes fs/conn hierarchy hierarchy/host"},
	{"cmd/internal/top", "api texts"},
	{"cmd/internal/api/apitest", "api"},
	{"cmd/internal/api", "fault spec target hierarchy policy"},
	{"cmd/internal/runtimes/nri", "fault spec policy"},
	{"cmd/internal/runtimes", "fault notify hierarchy/host"},
	{"cmd/internal/run", "attach fault fstype logs notify spec target views fs fs/conn hierarchy hierarchy/host policy"},
	{"cmd/internal/views", "attach fault fstype spec target fs fs/conn hierarchy hierarchy/host policy"},
	{"cmd/internal/attach", "fault notify target fs/conn hierarchy hierarchy/host policy"},
	{"cmd/internal/spec", "fault hierarchy policy"},
	{"cmd/internal/fstype", "fs fs/conn hierarchy/host"},
	{"cmd/internal/notify", "hierarchy hierarchy/host"},
	{"cmd/internal/target", "hierarchy/host"},
	{"cmd/internal/fault", ""},
	{"cmd/internal/logs", ""},
	{"cmd/internal/early", ""},
	{"cmd/internal/texts", ""},
	{"fs", "fs/conn fs/state hierarchy hierarchy/host hierarchy/translate policy"},
	{"fs/self", "fs/conn fs/state"},
	{"fs/conn", ""},
	{"fs/state", ""},
	{"policy", "hierarchy"},
	{"hierarchy/host", "hierarchy"},
	{"hierarchy/translate", "hierarchy"},
	{"hierarchy", ""},
	{"packaging/seccomp/generate", ""},
}

// mayNotImport bans packages of others by prefix: the pure packages do no I/O, only fs and the packages below it know
// FUSE, no library logs but fs, and no library knows the command line or a
// screen.
var mayNotImport = []struct {
	dirs   string
	banned []string
}{
	{"hierarchy hierarchy/translate policy", []string{"os", "net", "io/ioutil", "syscall"}},
	{"hierarchy hierarchy/translate policy hierarchy/host fs/state", []string{"github.com/hanwen", "github.com/sirupsen"}},
	{"hierarchy hierarchy/translate policy hierarchy/host fs fs/conn fs/self fs/state", []string{"github.com/urfave", "github.com/gdamore"}},
	{"fs fs/self", []string{"os/exec"}},
}

type pkg struct {
	ImportPath, Dir string
	Imports         []string
	GoFiles         []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json", "../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestImports compares the imports with mayImport and mayNotImport; with -v it prints the picture.
func TestImports(t *testing.T) {
	allowed := map[string][]string{}
	for _, p := range mayImport {
		allowed[p.dir] = nil
		for edge := range strings.FieldsSeq(p.own) {
			allowed[p.dir] = append(allowed[p.dir], strings.TrimPrefix(edge, "cmd/internal/"))
		}
	}
	edges := map[string][]string{}
	for _, p := range packages(t) {
		dir := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if len(p.GoFiles) == 0 || strings.HasPrefix(dir, "integration") {
			continue
		}
		own, listed := allowed[dir]
		if !listed {
			t.Errorf("%s is not in mayImport: give the package its place among the others", dir)
		}
		for _, path := range p.Imports {
			if below, ok := strings.CutPrefix(path, module+"/"); ok {
				edge := strings.TrimPrefix(below, "cmd/internal/")
				edges[dir] = append(edges[dir], edge)
				if listed && !slices.Contains(own, edge) {
					t.Errorf("%s imports %s, which mayImport does not allow: imports run downward only", dir, below)
				}
			}
			checkBanned(t, dir, path)
		}
	}
	for _, p := range mayImport {
		t.Logf("%-27s → %s", p.dir, strings.Join(edges[p.dir], " "))
	}
}

func checkBanned(t *testing.T, dir, path string) {
	if strings.HasPrefix(path, "github.com/hanwen/") && dir != "fs" && !strings.HasPrefix(dir, "fs/") {
		t.Errorf("%s imports %s: only fs and the packages below it know FUSE", dir, path)
	}
	for _, rule := range mayNotImport {
		if !slices.Contains(strings.Fields(rule.dirs), dir) {
			continue
		}
		for _, b := range rule.banned {
			if path == b || strings.HasPrefix(path, b+"/") {
				t.Errorf("%s imports %s, which mayNotImport bans", dir, path)
			}
		}
	}
}

// TestImportsDownward: mayImport lists each package above all packages that it may import.
func TestImportsDownward(t *testing.T) {
	rank := map[string]int{}
	for i, p := range mayImport {
		rank[strings.TrimPrefix(p.dir, "cmd/internal/")] = i
	}
	for i, p := range mayImport {
		for edge := range strings.FieldsSeq(p.own) {
			if at, ok := rank[edge]; !ok || at <= i {
				t.Errorf("mayImport has %s at or above %s, which may import it, or not at all", edge, p.dir)
			}
		}
	}
}

// TestPackageDocs: exactly one file of each package has its doc.
func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		docs := 0
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				docs++
			}
		}
		if len(p.GoFiles) > 0 && docs != 1 {
			t.Errorf("%s has %d package docs, want 1", p.ImportPath, docs)
		}
	}
}
