package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// prepare is what all commands have in common, and those below them. None has the library's own command "help" (with its alias "h"): it
// would end with success for a guest of that name, or for a hook that there is not.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
		prepare(c.Subcommands)
	}
}

// group is the action of a command that only has others below it: without one of them nothing is done, which is no success.
func group(c *cli.Context) error {
	if c.NArg() > 0 {
		return noSuchCommand(c.Command.HelpName+" ", c.Args().First(), c.Command.Subcommands)
	}
	if err := cli.ShowSubcommandHelp(c); err != nil {
		return err
	}
	return exitStatus(fault.ExitUsage)
}

// noSuchCommand answers a word that is none of the commands; above is what stands before them.
func noSuchCommand(above, word string, commands []*cli.Command) error {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return usagef("no such command: %s%q%s; allowed: %s", strings.TrimPrefix(above, "vcgroupfs "), word, suggestion(word, names), strings.Join(names, ", "))
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

// commandOf is the command of this name, nil for none.
func commandOf(commands []*cli.Command, name string) *cli.Command {
	if i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(name) }); i >= 0 {
		return commands[i]
	}
	return nil
}

// completionFlag is the last word where a shell asks how a command line may go on.
const completionFlag = "--generate-bash-completion"

// completing makes such a command line one that the library completes: it executes one that has "--", with this word among its arguments.
// False for one that nothing is to be said of, since what follows "--" is another program's.
func completing(args []string) ([]string, bool) {
	last := len(args) - 1
	at := slices.Index(args, "--")
	if at < 0 || args[last] != completionFlag {
		return args, true
	}
	return append(slices.Clone(args[:at]), completionFlag), at == last-1 // the word that is being completed
}

// ordered puts the options of a command line before its arguments, where the flag package alone looks for them. What follows -- stays where
// it is, and so does the command that "run" and "notify-exec" are given, with its own options.
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
	// Whoever asks for help gets it whatever the arguments; an option without its value must not take "--" for it.
	out = append(out, options...)
	if len(plain) == 0 || asksForHelp(options) || lacksValue(flags, options) {
		return out
	}
	return append(append(out, "--"), plain...)
}

func asksForHelp(options []string) bool {
	return slices.ContainsFunc(options, func(o string) bool { return slices.Contains([]string{"-h", "-help", "--help"}, o) })
}

// lacksValue says whether the last option needs a value that the command line ends before.
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

// optionWords is of how many words the option consists that a command line begins with, 0 for none. One that no flag is called takes one:
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

// flagNames are the names of the flags that help shows.
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

// alike is how like a name a mistyped word must be to have meant it, 1 for the same letters in the same order.
const alike = 0.8

// suggestion is what a mistyped word may have meant, as the part of a message; "" where no name is like it. The library's own suggestion
// has no such bound, and is one of the names for whatever word.
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
