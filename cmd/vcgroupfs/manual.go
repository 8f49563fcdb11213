package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

func manCommand() *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page", Description: "   vcgroupfs man > /usr/local/share/man/man8/vcgroupfs.8",
		Action: func(c *cli.Context) error {
			_, err := fmt.Fprint(c.App.Writer, manualPage(c.App))
			return err
		},
	}
}

// manualPage returns the page of section 8 in the macros of man(7), with the texts of --help. The library's own page
// has no descriptions, and uses Markdown between the texts and the macros, which interprets characters of the texts.
func manualPage(app *cli.App) string {
	p := &page{}
	p.macro(".TH %s 8 \"\" \"%s %s\" \"System Administration\"", app.Name, app.Name, app.Version)
	// No hyphenation and no justification: options and file names stay whole, in every paragraph.
	p.macro(".nr HY 0\n.nh\n.ad l")
	p.macro(".SH NAME")
	p.macro(`%s, %s \- %s`, app.Name, mountHelper, roff(app.Usage))
	p.macro(".SH SYNOPSIS")
	p.macro(`%s`, roff(app.UsageText))
	p.macro(".SH DESCRIPTION")
	p.text(app.Description)
	p.macro(".SH OPTIONS")
	p.options(app.VisibleFlags())
	p.macro(".SH COMMANDS")
	p.text("Each command has the option --help, too.")
	p.commands(app.Name, app.Commands)
	p.macro(".SH SEE ALSO\n.BR cgroups (7),\n.BR mount (8),\nthe files in /usr/share/doc/%s/docs", app.Name)
	return p.String()
}

// page is a manual page under construction.
type page struct{ strings.Builder }

func (p *page) macro(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// commands writes a section for each command, and for those below it; above is the text before its name.
func (p *page) commands(above string, commands []*cli.Command) {
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		name := above + " " + strings.Join(c.Names(), ", ")
		p.macro(".SS %s", roff(strings.TrimSpace(name+" "+c.ArgsUsage)))
		p.text(c.Usage)
		if c.Description != "" {
			p.macro(".PP")
			p.text(c.Description)
		}
		p.options(c.VisibleFlags())
		p.commands(name, c.Subcommands)
	}
}

// options writes flags as help shows them, without the default of flags that have no value.
func (p *page) options(flags []cli.Flag) {
	for _, f := range flags {
		term, text, _ := strings.Cut(f.String(), "\t")
		p.macro(".TP\n.B %s", roff(term))
		p.text(strings.Replace(text, " (default: false)", "", 1))
	}
}

// example begins a line of a description that stays verbatim; the lines between are paragraphs.
const example = "   "

// text writes a text: blank lines separate paragraphs, and examples are indented.
func (p *page) text(text string) {
	for i, part := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			p.macro(".PP")
		}
		inExample := false
		for line := range strings.SplitSeq(part, "\n") {
			shown, is := strings.CutPrefix(line, example)
			if is != inExample {
				inExample = is
				p.macro("%s", map[bool]string{true: ".RS 4\n.EX", false: ".EE\n.RE"}[is])
			}
			p.macro("%s", roff(shown))
		}
		if inExample {
			p.macro(".EE\n.RE")
		}
	}
}

// roff escapes a line so that it appears verbatim, and is no macro.
func roff(line string) string {
	line = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(line)
	if strings.HasPrefix(line, ".") {
		line = `\&` + line
	}
	return line
}
