package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

func try(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = execute(append([]string{"vcgroupfs"}, args...), &o, &e)
	return code, o.String(), e.String()
}

// TestCommandLine: what needs no root and no host.
func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args      string
		code      int
		out, errs string // parts
	}{
		{"version", 0, "vcgroupfs unknown (go", ""}, {"", 2, "COMMANDS:", ""}, {"--help", 0, "Exit codes:", ""}, {"run --help", 0, "--limit FILE=VALUE", ""},
		{"mount --help", 0, "fstab", ""}, {"policy", 2, "explain", ""}, {"policy default", 0, "controllers:", ""},
		{"policy explain memory.max", 0, "memory.max on v2, boundary: read-only", ""}, {"policy explain --json pids.max", 0, `"verdict": "read-only"`, ""},
		{"policy explain cpu.idle", 0, "cpu.idle, v1 on a v2 host: cpu.idle: the same\n", ""},
		{"policy explain --json cpu.weight", 0, `"hostFile": "cpu.shares"`, ""},
		{"policy explain --controllers pids memory.max", 0, "hidden (--controllers)", ""}, {"policy explain nothing.such", 2, "", "no such control file"},
		{"policy explain", 2, "", "give a control file"}, {"policy check", 2, "", "give the policies"}, {"policy check /nonexistent", 3, "", "no such file"},
		{"policy nonsense", 2, "", "allowed: default, check, explain"}, {"nonsense", 2, "", "no such command"}, {"--nonsense", 2, "", "--help"},
		{"--log-format xml version", 2, "", "allowed: text, json"}, {"completion bash", 0, "complete -o", ""}, {"completion zsh", 0, "compdef", ""},
		{"completion fish", 0, "complete -c vcgroupfs", ""}, {"completion tcsh", 2, "", "bash, zsh or fish"}, {"man", 0, ".TH vcgroupfs 8", ""},
		{"hierarchies x", 2, "", "no argument"}, {"hierarchies --layout v9", 2, "", "allowed: auto, v1, v2, hybrid"},
		{"mount", 2, "", "one directory"}, {"mount /x", 2, "", "--boundary PATH or --pid PID"},
		{"mount -o bogus=1 /x", 2, "", "unknown option"}, {"mount -o boundary /x", 2, "", "needs a value"}, {"run", 125, "", "no command"},
		{"run --limit x -- true", 125, "", "FILE=VALUE"}, {"run --name ../x -- true", 125, "", "cannot use the name"}, {"run --layout v9 -- true", 125, "", "allowed:"},
		{"--version", 0, "vcgroupfs unknown (go", ""}, {"geust", 2, "", "did you mean guest?"}, {"guest shwo x", 2, "", "did you mean show?"},
		{"guest add x --bondary /x", 2, "", "there is no option --bondary; did you mean --boundary?"}, {"--log-levle debug version", 2, "", "did you mean --log-level?"},
		{"guest add x --qqqq /x", 2, "", "there is no option --qqqq; vcgroupfs guest add --help"}, {"guest add x --pid 0", 2, "", "--pid 0 is no process"},
		{"policy explain memory.max --json", 0, `"verdict": "read-only"`, ""}, {"policy explain memory.max --controllers pids", 0, "hidden (--controllers)", ""},
		{"mount /x --boundary", 2, "", "needs an argument"}, {"run --controlers pids -- true", 125, "", "did you mean --controllers?"},
		{"policy explain -- --json", 2, "", "no such control file"}, {"guest rm x --help", 0, "--force", ""},
		{"nri --help", 0, "cgroups.vcgroupfs.dev", ""}, {"nri x", 2, "", "no argument"}, {"nri --program x", 2, "", "absolute path"},
		{"nri --socket=", 2, "", "absolute path"}, {"nri --policy x", 2, "", "absolute path"}, {"nri --policy /nonexistent", 3, "", "no such file"},
		{"nri --controllers ,", 2, "", "no controller"}, {"nri --controllers nonsense", 2, "", "nonsense"}, {"nri --plugin-index 5", 2, "", "2 digits"},
	} {
		code, out, errs := try(strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.errs) || c.errs != "" && strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: %d, %q, %q; want %d, %q, %q", c.args, code, out, errs, c.code, c.out, c.errs)
		}
	}
	if _, out, _ := try("policy", "default"); out != string(policy.DefaultText()) {
		t.Error("policy default prints something else than the default")
	}
}

// TestCompletion: a shell that asks how a command line may go on is told, and nothing is executed.
func TestCompletion(t *testing.T) {
	defer func(args []string) { os.Args = args }(os.Args)
	daemon := filepath.Join(t.TempDir(), "none")
	var hooks []string
	for _, h := range runtimes.Hooks() {
		hooks = append(hooks, h.Name)
	}
	verbs := ""
	for _, v := range guestVerbs {
		verbs += " " + string(v.verb)
	}
	for line, want := range map[string]string{
		"guest": "add rm ls show tree top events set" + verbs, "hook": strings.Join(hooks, " "), "policy": "default check explain", "run --pri": "--privileged",
		"run --": "--controllers --policy --layout --name --limit --no-stack --userns --privileged --no-bpf --transport --proc --no-notify --help", "guest rm --": "--force --socket --help",
		"guest rm web --": "--force --socket --help", "guest rm --socket " + daemon + " -- web": "", "run -- false": "", "run -- false --": "", "mount -- --": "",
		"guest rm web": "", "run": "",
	} {
		os.Args = append(append([]string{"vcgroupfs"}, strings.Fields(line)...), completionFlag) // the library looks there
		code, out, errs := try(os.Args[1:]...)
		if code != 0 || strings.Join(strings.Fields(out), " ") != want || errs != "" {
			t.Errorf("%q: %d, %q, %q; want %q", line, code, out, errs, want)
		}
	}
	os.Args = []string{"vcgroupfs", completionFlag}
	_, out, _ := try(completionFlag)
	for _, c := range newApp(io.Discard, io.Discard).Commands {
		if !slices.Contains(strings.Fields(out), c.Name) {
			t.Errorf("%s is not among %q", c.Name, out)
		}
	}
}

// TestSuggestions: a mistyped word is told from one that means nothing here.
func TestSuggestions(t *testing.T) {
	for in, want := range map[string]string{
		"hierachies": "did you mean hierarchies?", "docter": "did you mean doctor?", "compeltion": "did you mean completion?", "guest freez x": "did you mean freeze?",
		"run --userns --contollers pids -- true": "did you mean --controllers?", "serve --max-guest 3": "did you mean --max-guests?", "mount --lay v1 /x": "did you mean --layout?",
		"x": "", "zzz": "", "nonsense": "", "guest --zzz": "", "guest remove x": "", "mount --source-of-it /x": "", "mount --backgroun /x": "", "": "",
	} {
		code, _, errs := try(strings.Split(in, " ")...)
		_, after, _ := strings.Cut(errs, "; ")
		if said := strings.HasPrefix(after, "did you mean"); code == 0 || !strings.HasPrefix(after, want) || said != (want != "") {
			t.Errorf("%q: %d, %q; want %q", in, code, errs, want)
		}
	}
}

// TestOrdered: options may stand behind arguments, and what is another program's stays as it is.
func TestOrdered(t *testing.T) {
	app := newApp(&bytes.Buffer{}, &bytes.Buffer{})
	for in, want := range map[string]string{
		"v guest rm a --force b":               "v guest rm --force -- a b",
		"v guest set a x=1 --socket s --json":  "v guest set --socket s --json -- a x=1",
		"v guest rm a -- --force":              "v guest rm -- a --force",
		"v --log-level debug guest ls --json":  "v --log-level debug guest ls --json",
		"v run --limit pids.max=1 ls --json":   "v run --limit pids.max=1 ls --json",
		"v notify-exec ls --help":              "v notify-exec ls --help",
		"v mount /x --boundary=/b -":           "v mount --boundary=/b -- /x -",
		"v mount /x --pid":                     "v mount --pid",
		"v nonsense a --b":                     "v nonsense a --b",
		"v guest a --generate-bash-completion": "v guest a --generate-bash-completion",
		"v":                                    "v",
	} {
		if got := strings.Join(ordered(app, strings.Fields(in)), " "); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestHelperArgs(t *testing.T) {
	for in, want := range map[string][]string{
		"mount.vcgroupfs":                 {"vcgroupfs", "mount", "-o", ""},
		"mount.vcgroupfs /b /d /e -o rw":  {"vcgroupfs", "mount", "-o", "rw", "/b", "/d", "/e"},
		"mount.vcgroupfs -v -t vcgroupfs": {"vcgroupfs", "mount", "-o", ""},
	} {
		if got := helperArgs(strings.Fields(in)); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestInRoot: mount(8) names a directory of the host, which the option rootfs makes one of the guest.
func TestInRoot(t *testing.T) {
	root := t.TempDir()
	if err := os.Symlink(root, root+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dir, options, want, says string }{
		{"/x/sys", "rw", "/x/sys", ""}, {root + "/sys/fs", "rw,rootfs=" + root, "/sys/fs", ""}, {root + "/sys/fs", "rootfs=" + root + "/link/", "/sys/fs", ""},
		{root, "rootfs=" + root, "", "is not below rootfs"}, {root + "x/sys", "rootfs=" + root, "", "is not below rootfs"},
		{"/etc", "rootfs=" + root, "", "lead out of it"}, {root + "/../etc", "rootfs=" + root, "", "lead out of it"}, {"/etc", "rootfs=/nonexistent", "", "no such file"},
	} {
		got, err := inRoot(c.dir, c.options)
		if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s, %s: %q, %v; want %q, %q", c.dir, c.options, got, err, c.want, c.says)
		}
	}
}

// TestDoctorColumns: what doctor prints fits a screen, whatever the process finds.
func TestDoctorColumns(t *testing.T) {
	for _, args := range [][]string{{"doctor", "--socket", "/nowhere"}, {"doctor", "--socket", "/nowhere", "--pid", strconv.Itoa(os.Getpid())}} {
		_, out, _ := try(args...)
		for line := range strings.Lines(out) {
			if len(line) > columns+1 {
				t.Errorf("%q: a line of %d columns: %q", args, len(line)-1, line)
			}
		}
		if !strings.Contains(out, "/dev/fuse: ") || !strings.Contains(out, "PROGRAM ") {
			t.Errorf("%q printed %q", args, out)
		}
	}
}

// TestPrintFolded: long texts go on below where they began.
func TestPrintFolded(t *testing.T) {
	var out strings.Builder
	printFolded(&out, "ok    ", strings.Repeat("word ", 20)+"end")
	if want := "ok    " + strings.TrimSpace(strings.Repeat("word ", 19)) + "\n      word end\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
