package main

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
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
	seen := 0
	for _, file := range docs(t) {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for code, n := false, 1; lines.Scan(); n++ {
			line := lines.Text()
			if strings.HasPrefix(line, "```") {
				code = !code
			}
			if !code && !strings.Contains(line, "`vcgroupfs ") && !strings.HasPrefix(line, "Exec") {
				continue
			}
			for _, m := range commandLine.FindAllStringSubmatch(line, -1) {
				words := strings.Fields(strings.NewReplacer("'", "", `"`, "").Replace(m[2]))
				if len(words) == 0 || m[1] != "" && m[1] != "`" && !known(words[0]) {
					continue
				}
				seen++
				for _, wrong := range unknownWords(words) {
					t.Errorf("%s:%d: vcgroupfs%s: there is no %s", filepath.Base(file), n, m[2], wrong)
				}
			}
		}
		if err := lines.Err(); err != nil {
			t.Error(file, err)
		}
	}
	if seen < 30 {
		t.Errorf("only %d command lines were found", seen)
	}
}

// known says whether a word begins a command line.
func known(word string) bool {
	return slices.ContainsFunc(newApp(io.Discard, io.Discard).Commands, func(c *cli.Command) bool { return c.HasName(word) })
}

// unknownWords are those of a command line that name no command and no option. What follows -- is another program's.
func unknownWords(words []string) (wrong []string) {
	app := newApp(io.Discard, io.Discard)
	app.Setup()
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
		case len(commands) > 0 && name != "COMMAND" && !processes[name]:
			at := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(name) })
			if at < 0 {
				return append(wrong, "command "+strings.Join(words[:i+1], " "))
			}
			flags, commands = append(flags, commands[at].Flags...), commands[at].Subcommands
		}
	}
	return wrong
}

// processes are names of the daemon's own processes, as ps shows them.
var processes = map[string]bool{"serve-worker": true, "serve-notify": true}
