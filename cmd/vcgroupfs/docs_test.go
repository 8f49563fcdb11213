package main

import (
	"fmt"
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
	"github.com/vcgroupfs/vcgroupfs/policy"
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

// TestDocumentedNumbers: what the docs say of bounds that no flag sets is what the program has.
func TestDocumentedNumbers(t *testing.T) {
	for _, c := range []struct{ doc, says, dir, constant, is string }{
		{"operations.md", "| | 4096 in all | seccomp listeners", "../../fs/state", "MaxListeners", "4096"},
		{"operations.md", "| | 48 a guest, and `--max-blocking`", "../internal/listener", "maxOfGuest", "48"},
		{"operations.md", "| | 2,000 a second and listener, 10,000 after a rest", "../internal/notify", "callsPerSecond", "2000"},
		{"operations.md", "| | 2,000 a second and listener, 10,000 after a rest", "../internal/notify", "callsAtOnce", "10_000"},
		{"operations.md", "| | 5 s | how long one call may take", "../internal/listener", "callTimeout", "5 * time.Second"},
		{"operations.md", "| | 128 at once, 64 KiB and 2 min each |", "../internal/listener", "maxReading", "128"},
		{"operations.md", "| | 128 at once, 64 KiB and 2 min each |", "../internal/listener", "maxState", "64 << 10"},
		{"operations.md", "| | 128 at once, 64 KiB and 2 min each |", "../internal/listener", "hooksTime", "2 * time.Minute"},
		{"operations.md", "| | 112 of root, 128 of all others | connections", "../internal/api", "rootConns", "112"},
		{"operations.md", "| | 112 of root, 128 of all others | connections", "../internal/api", "otherConns", "128"},
		{"operations.md", "| | 100 requests a second, 100 more after a rest | requests", "../internal/api", "otherRate", "100"},
		{"operations.md", "| | 32, and 32 requests a second | connections", "../internal/api", "loopbackConns", "32"},
		{"operations.md", "| | 32, and 32 requests a second | connections", "../internal/api", "probeRate", "loopbackConns"},
		{"operations.md", "| | 32 at once, 1,024 or 4 MiB more in a queue", "../../fs/conn", "DefaultMaxSlow", "32"},
		{"operations.md", "| | 32 at once, 1,024 or 4 MiB more in a queue", "../../fs/conn", "maxQueued", "1024"},
		{"operations.md", "| | 32 at once, 1,024 or 4 MiB more in a queue", "../../fs/conn", "maxQueuedBytes", "4 << 20"},
		{"operations.md", "| | 64 a guest | pressure triggers", "../../fs", "maxTriggers", "64"},
		{"operations.md", "| | 64 a guest | cgroups that tell when", "../../fs", "maxOOMWatches", "64"},
		{"operations.md", "| | 64 a guest | files that the kernel reads itself", "../../fs/state", "MaxIdle", "64"},
		{"operations.md", "| | 128 a guest | files whose watches go on", "../../fs/state", "maxWatched", "128"},
		{"operations.md", "| | one for two processors, 2 ms each", "../../fs/conn", "hotFor", "2 * time.Millisecond"},
		{"operations.md", "| | 200 µs, 8 at once in all", "../../fs/conn", "patience", "200 * time.Microsecond"},
		{"operations.md", "| | 200 µs, 8 at once in all", "../../fs/conn", "maxWatchdogs", "8"},
		{"operations.md", "| | 128 an answer", "../../fs", "maxPlus", "128"},
		{"operations.md", "| | 1,024 a guest | changes by the host", "../../fs", "queueLength", "1024"},
		{"operations.md", "| | 65,536 in all, and one for each cgroup in which boundaries are | watches on the host's", "../../hierarchy/host", "defaultMaxWatches", "65536"},
		{"operations.md", "| | 1 MiB a guest | kernel memory of the attributes", "../../fs", "attrBudget", "1 << 20"},
		{"operations.md", "up to 256 KiB of lines that were not taken", "../internal/logs", "queueBytes", "256 << 10"},
		{"operations.md", "the daemon a second, a worker 20 ms", ".", "lastWords", "time.Second"},
		{"operations.md", "the daemon a second, a worker 20 ms", ".", "workerLastWords", "20 * time.Millisecond"},
		{"operations.md", "told again every 50 ms, in order, of up to 4096 things", "../internal/holder", "managerRetry", "50 * time.Millisecond"},
		{"operations.md", "told again every 50 ms, in order, of up to 4096 things", "../internal/holder", "maxQueue", "4096"},
	} {
		if text := read(t, "../../docs/"+c.doc); !strings.Contains(text, c.says) {
			t.Errorf("%s does not say %q", c.doc, c.says)
		}
		if got := constantIn(t, c.dir, c.constant); got != c.is {
			t.Errorf("%s in %s is %s, and %s says %q", c.constant, c.dir, got, c.doc, c.says)
		}
	}
	quota := policy.Default().Quota()
	if text, want := read(t, "../../docs/operations.md"), fmt.Sprintf("| policy: `quota` | %d cgroups, depth %d |", quota.Cgroups, quota.Depth); !strings.Contains(text, want) {
		t.Errorf("the table does not say %q", want)
	}
	machines := strings.Fields(regexp.MustCompile(`(?m)^KERNELS \?= here here-uring (.*)$`).FindStringSubmatch(read(t, "../../Makefile"))[1])
	words := []string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight"}
	for _, file := range []string{"../../README.md", "../../Makefile"} {
		if want := words[len(machines)] + " virtual machines"; !strings.Contains(read(t, file), want) {
			t.Errorf("%s does not say %q; there are %v", file, want, machines)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// constantIn is a constant of a package, as its source has it.
func constantIn(t *testing.T, dir, name string) string {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		if m := regexp.MustCompile(`(?m)^(?:const |\t)` + name + ` += (.*?)(?: *//.*)?$`).FindStringSubmatch(read(t, file)); m != nil {
			return m[1]
		}
	}
	return "not there"
}
