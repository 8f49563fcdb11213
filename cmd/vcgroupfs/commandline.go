package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// prepare sets the common parts of all commands, and of those below them. None has the library's own command "help"
// (with its alias "h"): it would end with success for a guest of that name, or for a hook that does not exist.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
		prepare(c.Subcommands)
	}
}

// group is the action of a command that only has others below it. Without one of them it does nothing, which is no
// success.
func group(c *cli.Context) error {
	if c.NArg() > 0 {
		return noSuchCommand(c.Command.HelpName+" ", c.Args().First(), c.Command.Subcommands)
	}
	if err := cli.ShowSubcommandHelp(c); err != nil {
		return err
	}
	return exitStatus(fault.ExitUsage)
}

// noSuchCommand returns the error for a word that is no command, with the allowed ones; above is the text before them.
func noSuchCommand(above, word string, commands []*cli.Command) error {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return usageErrorf("no such command: %s%q%s; allowed: %s", strings.TrimPrefix(above, "vcgroupfs "), word,
		suggestion(word, names), strings.Join(names, ", "))
}

func helpCommand() *cli.Command {
	return &cli.Command{
		Name: "help", Usage: "tell of a command", ArgsUsage: "[COMMAND...]",
		Description: "The same as --help of that command.\n\n   vcgroupfs help guest add",
		Action: func(c *cli.Context) error {
			commands, above := c.App.Commands, ""
			for _, word := range c.Args().Slice() {
				found := commandOf(commands, word)
				if found == nil {
					return noSuchCommand(above, word, commands)
				}
				commands, above = found.Subcommands, above+word+" "
			}
			return c.App.Run(append(append([]string{c.App.Name}, c.Args().Slice()...), "--help"))
		},
	}
}

// commandOf returns the command of this name, nil for none.
func commandOf(commands []*cli.Command, name string) *cli.Command {
	if i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(name) }); i >= 0 {
		return commands[i]
	}
	return nil
}

// completionFlag is the last word of a command line that a shell asks to complete.
const completionFlag = "--generate-bash-completion"

// completing makes a command line to complete one that the library completes: with "--" before it, the library would
// execute the line, with this word among its arguments. False if there is nothing to complete, since the words after
// "--" are another program's.
func completing(args []string) ([]string, bool) {
	last := len(args) - 1
	at := slices.Index(args, "--")
	if at < 0 || args[last] != completionFlag {
		return args, true
	}
	// True if the shell completes the word "--" itself.
	return append(slices.Clone(args[:at]), completionFlag), at == last-1
}

// ordered moves the options of a command line before its arguments, the only place where the flag package finds them.
// The words after -- stay where they are, and so does the command of "run" and "notify-exec", with its own options.
func ordered(app *cli.App, args []string) []string {
	if len(args) == 0 || args[len(args)-1] == completionFlag {
		return args
	}
	out := args[:1:1]
	commands, flags, rest := app.Commands, app.Flags, args[1:]
	for len(rest) > 0 && len(commands) > 0 {
		n := optionWords(flags, rest)
		if n == 0 {
			c := commandOf(commands, rest[0])
			if c == nil {
				return args
			}
			if c.Name == "run" || c.Name == "notify-exec" {
				return args
			}
			commands, flags, n = c.Subcommands, c.Flags, 1
		}
		out, rest = append(out, rest[:n]...), rest[n:]
	}
	var options, plain []string
	for len(rest) > 0 {
		if rest[0] == "--" {
			plain, rest = append(plain, rest[1:]...), nil
			continue
		}
		if n := optionWords(flags, rest); n > 0 {
			options, rest = append(options, rest[:n]...), rest[n:]
			continue
		}
		plain, rest = append(plain, rest[0]), rest[1:]
	}
	// A request for help succeeds with any arguments. An option without its value must not take "--" for it.
	out = append(out, options...)
	if len(plain) == 0 || asksForHelp(options) || lacksValue(flags, options) {
		return out
	}
	return append(append(out, "--"), plain...)
}

func asksForHelp(options []string) bool {
	return slices.ContainsFunc(options, func(o string) bool {
		return slices.Contains([]string{"-h", "-help", "--help"},
			o)
	})
}

// lacksValue reports that the command line ends before the value of the last option.
func lacksValue(flags []cli.Flag, options []string) bool {
	for len(options) > 0 {
		n := optionWords(flags, append(slices.Clone(options), ""))
		if n > len(options) {
			return true
		}
		options = options[n:]
	}
	return false
}

// optionWords returns the number of words of the option at the beginning, 0 for no option. An unknown option has one:
// the flag package refuses it.
func optionWords(flags []cli.Flag, words []string) int {
	name, _, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(words[0], "-"), "-"), "=")
	if !strings.HasPrefix(words[0], "-") || words[0] == "-" || words[0] == "--" {
		return 0
	}
	for _, f := range flags {
		if _, alone := f.(*cli.BoolFlag); slices.Contains(f.Names(), name) && !alone && !given {
			return min(2, len(words))
		}
	}
	return 1
}

// flagNames returns the names of the flags that help shows.
func flagNames(flags []cli.Flag) (names []string) {
	for _, f := range append([]cli.Flag{cli.HelpFlag}, flags...) {
		if shown, ok := f.(cli.VisibleFlag); ok && !shown.IsVisible() {
			continue
		}
		for _, name := range f.Names() {
			if len(name) > 1 {
				names = append(names, name)
			}
		}
	}
	return names
}

// alike is the similarity to a name from which on a mistyped word means it, 1 for the same letters in the same order.
const alike = 0.8

// suggestion returns the name that a mistyped word may mean, as a part of a message; "" if no name is similar. The
// library's own suggestion has no such bound, and returns one of the names for any word.
func suggestion(word string, names []string) string {
	best, most := "", alike
	for _, name := range names {
		if like := smetrics.JaroWinkler(word, name, 0.7, 4); like >= most {
			best, most = name, like
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}
