package runtimes

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// The tests of this file hold for each row, so that a new one needs no test here.

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestTable: each row has what its readers need, and the page for users names it.
func TestTable(t *testing.T) {
	page := read(t, "../../../docs/runtimes.md")
	names, patterns := map[string]bool{}, map[string]string{}
	for _, r := range All() {
		if r.Name == "" || names[r.Name] {
			t.Errorf("the name %q is empty, or another runtime's", r.Name)
		}
		names[r.Name] = true
		if !strings.Contains(page, r.Name) {
			t.Errorf("docs/runtimes.md does not say how to give a container of %s a view", r.Name)
		}
		if (r.Program == "") != (r.How == "") {
			t.Errorf("%s: program %q, how %q: doctor prints both", r.Name, r.Program, r.How)
		}
		if r.Program == "" && len(r.Containers) == 0 {
			t.Errorf("%s: no reader of the list finds anything in the row", r.Name)
		}
		if _, hook, ok := strings.Cut(r.How, "hook "); ok && (r.Hook == nil || strings.Fields(hook)[0] != r.Hook.Name) {
			t.Errorf("%s: doctor says %q, and the hook is %+v", r.Name, r.How, r.Hook)
		}
		if _, err := ParseContainers(r.Containers); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
		for _, p := range r.Containers {
			if other, ok := patterns[p]; ok {
				t.Errorf("the pattern %s is that of %s and of %s", p, other, r.Name)
			}
			patterns[p] = r.Name
		}
	}
	all, _ := DefaultContainers()
	if len(all) != len(patterns) {
		t.Errorf("serve --self has %d patterns, the list has %d", len(all), len(patterns))
	}
}

// TestHooks: each hook has the words of a command, refuses a runtime that says nothing, and is called by a configuration
// on the page for users or in the package.
func TestHooks(t *testing.T) {
	configured := calledIn(read(t, "../../../docs/runtimes.md"))
	for _, text := range packaged(t) {
		configured = append(configured, calledIn(text)...)
	}
	names := map[string]bool{}
	for _, h := range Hooks() {
		if h.Name == "" || h.Usage == "" || !strings.Contains(h.Description, "hook "+h.Name) &&
			!strings.Contains(h.Description, `"hook", "`+h.Name+`"`) {
			t.Errorf("%q: usage %q; the description has no example: %s", h.Name, h.Usage, h.Description)
		}
		if names[h.Name] {
			t.Errorf("two hooks are called %s", h.Name)
		}
		names[h.Name] = true
		box, err := h.Read(Input{Stdin: strings.NewReader(""), Getenv: func(string) string { return "" }})
		if fault.Of(err) != fault.Invalid {
			t.Errorf("hook %s, of a runtime that says nothing: %+v, %v", h.Name, box, err)
		}
		if !slices.Contains(configured, h.Name) {
			t.Errorf("neither docs/runtimes.md nor the package has a configuration that calls hook %s", h.Name)
		}
	}
}

// hookCall is a call of a hook, in a list of JSON or on a command line.
var hookCall = regexp.MustCompile(`vcgroupfs(?: hook |", "hook", ")([a-z-]+)`)

func calledIn(text string) (hooks []string) {
	for _, m := range hookCall.FindAllStringSubmatch(text, -1) {
		hooks = append(hooks, m[1])
	}
	return hooks
}

// packaged returns the configurations that are installed, by their files' names.
func packaged(t *testing.T) map[string]string {
	t.Helper()
	const dir = "../../../packaging/runtimes/"
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, f := range files {
		texts[f.Name()] = read(t, dir+f.Name())
	}
	return texts
}

// TestPackaged: the configurations that are installed call hooks that there are.
func TestPackaged(t *testing.T) {
	calls := 0
	for file, text := range packaged(t) {
		if strings.HasSuffix(file, ".json") && !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON", file)
		}
		for _, name := range calledIn(text) {
			calls++
			if !slices.ContainsFunc(Hooks(), func(h *Hook) bool { return h.Name == name }) {
				t.Errorf("%s calls hook %s, which there is not", file, name)
			}
		}
	}
	if calls < 5 {
		t.Errorf("only %d calls of hooks were found", calls)
	}
}
