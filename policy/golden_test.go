package policy_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

const testdata = "../testdata/policy"

// policies lists the policies of one directory below testdata.
func policies(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testdata, dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no policies in %s: %v", dir, err)
	}
	return files
}

// compare holds a text against the golden file that stands beside a policy.
func compare(t *testing.T, file, got string) {
	t.Helper()
	golden := strings.TrimSuffix(file, ".yaml") + ".golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update writes it anew)\n--- got\n%s--- want\n%s", golden, got, want)
	}
}

// TestBad: every bad policy is refused with exactly the faults of its golden file, each with a place.
func TestBad(t *testing.T) {
	for _, file := range policies(t, "bad") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := policy.Parse(filepath.Base(file), text)
			if p != nil || err == nil {
				t.Fatalf("Parse = %v, %v; want an error", p, err)
			}
			var all policy.Errors
			if !errors.As(err, &all) {
				t.Fatalf("a %T; want policy.Errors", err)
			}
			for _, e := range all {
				if e.File != filepath.Base(file) || e.Line < 1 || e.Column < 1 || e.Msg == "" {
					t.Errorf("fault without its place: %+v", *e)
				}
			}
			compare(t, file, err.Error()+"\n")
		})
	}
}

// TestGood: every good policy is taken, and explains the files that its first line names as its golden file says.
func TestGood(t *testing.T) {
	for _, file := range policies(t, "good") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := policy.Parse(filepath.Base(file), text)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			names, ok := strings.CutPrefix(first, "# explain: ")
			if !ok {
				t.Fatalf("the first line is %q; want # explain: FILE...", first)
			}
			compare(t, file, explainAll(t, p, strings.Fields(names)))
		})
	}
}

func explainAll(t *testing.T, p *policy.Policy, names []string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range names {
		es, err := p.Explain(name)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(name + "\n")
		for _, e := range es {
			b.WriteString("  " + e.String() + "\n")
		}
	}
	return b.String()
}
