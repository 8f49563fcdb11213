// Command vuln makes a database for govulncheck out of the files of the module golang.org/x/vulndb, and judges what govulncheck finds.
//
//	vuln index OSV DIRECTORY   writes the database of the reports in OSV to DIRECTORY
//	vuln judge <findings       reads "govulncheck -format json"; status 1 when the program calls something of a module that is known as bad
//
// The database's form is that of https://go.dev/doc/security/vuln/database#api. What is wrong with Go itself is told and is no failure: it
// is mended by building with another Go, which is not for these sources to say.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "index":
		err = index(os.Args[2], os.Args[3])
	case len(os.Args) == 2 && os.Args[1] == "judge":
		err = judge(os.Stdin, os.Stdout)
	default:
		err = errors.New("usage: vuln index OSV DIRECTORY, or vuln judge")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vuln:", err)
		os.Exit(1)
	}
}

// report is what the index needs of a file of OSV (https://ossf.github.io/osv-schema).
type report struct {
	ID       string    `json:"id"`
	Modified time.Time `json:"modified"`
	Affected []struct {
		Package struct {
			Name string `json:"name"`
		} `json:"package"`
		Ranges []struct {
			Events []struct {
				Fixed string `json:"fixed"`
			} `json:"events"`
		} `json:"ranges"`
	} `json:"affected"`
}

type vuln struct {
	ID       string    `json:"id"`
	Modified time.Time `json:"modified"`
	Fixed    string    `json:"fixed,omitempty"`
}

type module struct {
	Path  string `json:"path"`
	Vulns []vuln `json:"vulns"`
}

func index(osv, to string) error {
	for _, dir := range []string{"ID", "index"} {
		if err := os.MkdirAll(filepath.Join(to, dir), 0o755); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(osv, "GO-*.json"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no reports in %s", osv)
	}
	of := map[string][]vuln{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var r report
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := os.WriteFile(filepath.Join(to, "ID", r.ID+".json"), raw, 0o644); err != nil {
			return err
		}
		for name, fixed := range fixes(r) {
			of[name] = append(of[name], vuln{r.ID, r.Modified, fixed})
		}
	}
	var modules []module
	for path, vulns := range of {
		modules = append(modules, module{path, vulns})
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	for name, what := range map[string]any{"modules.json": modules, "db.json": map[string]time.Time{"modified": time.Now().UTC()}} {
		raw, err := json.Marshal(what)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, "index", name), raw, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fixes are the last versions that mend a report, by module; "" where none does.
func fixes(r report) map[string]string {
	all := map[string]string{}
	for _, a := range r.Affected {
		last := ""
		for _, rg := range a.Ranges {
			for _, e := range rg.Events {
				if e.Fixed != "" {
					last = e.Fixed
				}
			}
		}
		all[a.Package.Name] = last
	}
	return all
}

// finding is a message of govulncheck that says where something known as bad is called from.
type finding struct {
	OSV   string `json:"osv"`
	Fixed string `json:"fixed_version"`
	Trace []struct {
		Module   string `json:"module"`
		Version  string `json:"version"`
		Function string `json:"function"`
	} `json:"trace"`
}

func judge(in io.Reader, out io.Writer) error {
	seen, bad := map[string]bool{}, 0
	for d := json.NewDecoder(in); ; {
		var m struct {
			Finding *finding `json:"finding"`
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("cannot understand govulncheck: %w", err)
		}
		f := m.Finding
		if f == nil || len(f.Trace) == 0 || f.Trace[0].Function == "" || seen[f.OSV] {
			continue // nothing of it is called
		}
		seen[f.OSV] = true
		at := f.Trace[0]
		if at.Module == "stdlib" {
			fmt.Fprintf(out, "known of Go itself: %s in %s, mended in %s\n", f.OSV, at.Version, f.Fixed)
			continue
		}
		bad++
		fmt.Fprintf(out, "called and known as bad: %s in %s %s, mended in %s: go get %[2]s@%[4]s\n", f.OSV, at.Module, at.Version, f.Fixed)
	}
	if bad > 0 {
		return fmt.Errorf("%d vulnerabilities of modules are reached", bad)
	}
	return nil
}
