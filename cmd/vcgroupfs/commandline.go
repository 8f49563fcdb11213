package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/exitcode"
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
	return exitStatus(exitcode.Usage)
}

// noSuchCommand answers a word that is none of the commands; above is what stands before them.
func noSuchCommand(above, word string, commands []*cli.Command) error {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return usagef("no such command: %s%q; allowed: %s", strings.TrimPrefix(above, "vcgroupfs "), word, strings.Join(names, ", "))
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
