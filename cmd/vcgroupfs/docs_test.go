package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
)

// docs are the files that users read.
func docs(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no docs: %v", err)
	}
	return append(files, "../../README.md", "../../packaging/systemd/vcgroupfs.service")
}

// commandLine is what a line of the docs gives to the program, up to what belongs to a shell. At the line's beginning or
// behind a backtick the word is the program; elsewhere it may be somebody else's argument.
var commandLine = regexp.MustCompile("(^|`|[^-\\w.])(?:bin/|/usr/bin/|/)?vcgroupfs((?: +[^\\s\\\\#|&;)($`]+)+)")

// TestDocumentedCommands: every command line in the docs has commands and options that there are.
func TestDocumentedCommands(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	app.Setup()
	seen := 0
	for _, file := range docs(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		code := false
		for i, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(line, "```") {
				code = !code
			}
			if !code && !strings.Contains(line, "`vcgroupfs ") && !strings.HasPrefix(line, "Exec") {
				continue
			}
			for _, m := range commandLine.FindAllStringSubmatch(line, -1) {
				words := strings.Fields(strings.NewReplacer("'", "", `"`, "").Replace(m[2]))
				if len(words) == 0 || m[1] != "" && m[1] != "`" && commandOf(app.Commands, words[0]) == nil {
					continue
				}
				seen++
				for _, wrong := range unknownWords(app, words) {
					t.Errorf("%s:%d: vcgroupfs%s: there is no %s", filepath.Base(file), i+1, m[2], wrong)
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d command lines were found", seen)
	}
}

// unknownWords are those of a command line that name no command and no option. What follows -- is another program's.
func unknownWords(app *cli.App, words []string) (wrong []string) {
	commands, flags := app.Commands, app.Flags
	for i := 0; i < len(words) && words[i] != "--"; i++ {
		name, value, _ := strings.Cut(words[i], "=")
		switch {
		case strings.HasPrefix(name, "-"):
			at := slices.IndexFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), strings.TrimLeft(name, "-")) })
			if at < 0 {
				wrong = append(wrong, "option "+name)
			} else if _, alone := flags[at].(*cli.BoolFlag); !alone && value == "" {
				i++
			}
		case len(commands) > 0 && name != "COMMAND" && !slices.Contains(processes, name):
			c := commandOf(commands, name)
			if c == nil {
				return append(wrong, "command "+strings.Join(words[:i+1], " "))
			}
			flags, commands = slices.Concat(flags, c.Flags), c.Subcommands
		}
	}
	return wrong
}

// processes are names of the daemon's own processes, as ps shows them.
var processes = []string{holder.WorkerCommand, holder.AnswererCommand}

// TestDocumentedBounds: the table of bounds has each number that serve takes, with its default.
func TestDocumentedBounds(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| ([^ :|]+)").FindAllStringSubmatch(string(text), -1) {
		defaults[m[1]] = m[2]
	}
	for _, f := range serveCommand().Flags {
		name := f.Names()[0]
		want := ""
		switch f := f.(type) {
		case *cli.IntFlag:
			want = strconv.Itoa(f.Value)
		case *cli.DurationFlag:
			want = f.Value.String()
		default:
			continue
		}
		if defaults[name] != want {
			t.Errorf("--%s is %s by default, and %q in the table", name, want, defaults[name])
		}
		delete(defaults, name)
	}
	if len(defaults) > 0 {
		t.Errorf("the table has options that serve does not have: %v", defaults)
	}
}

// TestOnePort: whoever copies an address for metrics from one place finds them there with what he copies from another.
func TestOnePort(t *testing.T) {
	files := append(docs(t), "serve.go", "../internal/api/listen.go", "../internal/api/server.go")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range regexp.MustCompile(`127\.0\.0\.1:[0-9]+`).FindAllString(string(text), -1) {
			if address != "127.0.0.1:9750" {
				t.Errorf("%s has the address %s", filepath.Base(file), address)
			}
		}
	}
}
