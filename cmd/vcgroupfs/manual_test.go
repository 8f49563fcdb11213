package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// macro is how a line of a manual page begins that is no text, or whose text is a macro's argument.
var macro = regexp.MustCompile(`(?m)^\.(?:(?:B|SS|SH|BR) |.*$)`)

// shownBy is the text that a part of a manual page shows, its words divided by one blank.
func shownBy(part string) string {
	part = macro.ReplaceAllString(part, "")
	part = strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\(ga`, "`", `\(ha`, "^", `\(ti`, "~", `\&`, "", `\e`, `\`).Replace(part)
	return words(part)
}

func words(s string) string { return strings.Join(strings.Fields(s), " ") }

// helpOf is what --help of a command says, by section, each as lines.
func helpOf(t *testing.T, command ...string) map[string][]string {
	t.Helper()
	code, out, errs := try(append(command, "--help")...)
	if code != 0 || errs != "" {
		t.Fatalf("%q --help: %d, %s", command, code, errs)
	}
	sections, name := map[string][]string{}, ""
	for line := range strings.Lines(out) {
		if heading, is := strings.CutSuffix(line, ":\n"); is && heading == strings.ToUpper(heading) && !strings.HasPrefix(line, " ") {
			name = heading
			continue
		}
		sections[name] = append(sections[name], strings.TrimSpace(line))
	}
	return sections
}

// TestManual: the manual page has all that --help says, of each command in a section of its own.
func TestManual(t *testing.T) {
	code, page, errs := try("man")
	if code != 0 || errs != "" {
		t.Fatalf("%d, %s", code, errs)
	}
	parts := map[string]string{}
	front, list, _ := strings.Cut(page, "\n.SH COMMANDS\n")
	list, back, _ := strings.Cut(list, "\n.SH ")
	for _, part := range strings.Split("\n"+list, "\n.SS ")[1:] {
		heading, _, _ := strings.Cut(part, "\n")
		parts[shownBy(heading)] = shownBy(part)
	}
	checked := checkManual(t, shownBy(front), parts, nil)
	if checked != len(parts) || checked < 25 {
		t.Errorf("help has %d commands, the page %d: %v", checked, len(parts), parts)
	}
	for _, want := range []string{"exit codes: 0 success", "mount.vcgroupfs - a cgroup tree", "$vcgroupfs_log_level"} {
		if !strings.Contains(strings.ToLower(shownBy(front)), want) {
			t.Errorf("the page's beginning does not have %q", want)
		}
	}
	if said, _, _ := strings.Cut(list, ".SS"); !strings.Contains(shownBy(said), "Each command has the option --help") {
		t.Errorf("of the commands the page says %q", said)
	}
	if !strings.Contains(back, "cgroups (7)") {
		t.Errorf("the page ends with %q", back)
	}
}

// checkManual compares a command, and those below it, with their parts of the page; part is of that command. It says how many are below.
func checkManual(t *testing.T, part string, parts map[string]string, command []string) (below int) {
	t.Helper()
	help := helpOf(t, command...)
	want := append(help["OPTIONS"], help["GLOBAL OPTIONS"]...)
	want = append(want, words(strings.Join(help["DESCRIPTION"], " ")))
	if _, usage, is := strings.Cut(help["NAME"][0], " - "); is {
		want = append(want, usage)
	}
	for _, text := range want {
		if text = strings.TrimSuffix(words(text), " (default: false)"); len(command) > 0 && text == "--help, -h show help" {
			continue // said once of all
		}
		if !strings.Contains(part, text) {
			t.Errorf("the part of %q in the manual page lacks what help says: %s", command, text)
		}
	}
	for _, line := range help["COMMANDS"] {
		if line == "" {
			continue
		}
		word, usage, _ := strings.Cut(line, " ")
		if word == "help" { // whose own --help is the program's
			if part := parts["vcgroupfs help [COMMAND...]"]; !strings.Contains(part, strings.TrimSpace(usage)) {
				t.Errorf("the part of help in the manual page is %q", part)
			}
			below++
			continue
		}
		name := append(append([]string{}, command...), word)
		_, args, is := strings.Cut(helpOf(t, name...)["USAGE"][0], " [command options]")
		if !is {
			t.Errorf("the usage of %q is not known", name)
		}
		heading := words("vcgroupfs " + strings.Join(name, " ") + args)
		if parts[heading] == "" {
			t.Errorf("the manual page has no part %q", heading)
		}
		below += 1 + checkManual(t, parts[heading], parts, name)
	}
	return below
}

// TestManualRenders: groff has nothing to say of the page, and shows in it what is typed.
func TestManualRenders(t *testing.T) {
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("machine: groff is not installed")
	}
	_, page, _ := try("man")
	for _, device := range []string{"-Tutf8", "-Tascii"} {
		cmd := exec.Command("groff", "-man", "-ww", device, "-P-cbou")
		var said strings.Builder
		cmd.Stdin, cmd.Stderr = strings.NewReader(page), &said
		out, err := cmd.Output()
		if err != nil || said.Len() > 0 {
			t.Errorf("groff %s: %v, it says:\n%s", device, err, said.String())
		}
		for _, want := range []string{
			"--log-level value", "[$VCGROUPFS_LOG_LEVEL]", "the boundary's control file", "-- /vcgroupfs notify-exec -- COMMAND", `vcgroupfs doctor --pid "$(pgrep -o java)"`,
		} {
			if !strings.Contains(string(out), want) {
				t.Errorf("groff %s does not show %q", device, want)
			}
		}
	}
}
