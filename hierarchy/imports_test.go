package hierarchy_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/vcgroupfs/vcgroupfs"

// mayImport says what each package of the module may import, of its own module and of the rest: imports run downward only,
// the pure packages do no I/O, one package knows the host and three know FUSE.
var mayImport = []struct {
	dir    string
	own    []string // below the module's path
	banned []string // prefixes
}{
	{"hierarchy", nil, []string{"os", "net", "io/ioutil", "syscall", "github.com/hanwen", "github.com/sirupsen"}},
	{"policy", []string{"hierarchy"}, []string{"os", "net", "syscall", "github.com/hanwen", "github.com/sirupsen"}},
	{"hierarchy/host", []string{"hierarchy"}, []string{"github.com/hanwen", "github.com/sirupsen", "github.com/urfave"}},
	{"fs/conn", nil, []string{"github.com/urfave"}},
	{"fs/state", nil, []string{"github.com/hanwen", "github.com/sirupsen", "github.com/urfave"}},
	{"fs/self", []string{"fs/conn", "fs/state"}, []string{"github.com/urfave", "os/exec"}},
	{"fs", []string{"hierarchy", "hierarchy/host", "policy", "fs/conn", "fs/state"}, []string{"github.com/urfave", "os/exec"}},
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

// TestImports: imports run downward only.
func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		dir := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		fuse := dir == "fs" || strings.HasPrefix(dir, "fs/")
		for _, i := range p.Imports {
			if strings.HasPrefix(i, "github.com/hanwen/") && !fuse {
				t.Errorf("%s imports %s: only fs and what is below it know FUSE", dir, i)
			}
		}
		for _, rule := range mayImport {
			if rule.dir != dir {
				continue
			}
			for _, i := range p.Imports {
				checkImport(t, dir, i, rule.own, rule.banned)
			}
		}
	}
}

func checkImport(t *testing.T, dir, path string, own, banned []string) {
	if below, ok := strings.CutPrefix(path, module+"/"); ok {
		for _, o := range own {
			if below == o {
				return
			}
		}
		t.Errorf("%s imports %s: imports run downward only", dir, below)
	}
	for _, b := range banned {
		if path == b || strings.HasPrefix(path, b+"/") {
			t.Errorf("%s imports %s", dir, path)
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
