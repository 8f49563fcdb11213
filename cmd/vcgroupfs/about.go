package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/early"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version",
		Action: printVersion,
	}
}

func printVersion(c *cli.Context) error {
	_, err := fmt.Fprint(c.App.Writer, early.VersionLine())
	return err
}

// The program completes its own command lines when the last word is --generate-bash-completion.
const (
	bashCompletion = `_vcgroupfs() {
	local cur=${COMP_WORDS[COMP_CWORD]} words
	words=$("${COMP_WORDS[@]:0:COMP_CWORD}" ${cur:+"$cur"} --generate-bash-completion 2>/dev/null)
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o bashdefault -o default -F _vcgroupfs vcgroupfs
`
	zshCompletion = `#compdef vcgroupfs
_vcgroupfs() {
	local -a words_found
	words_found=("${(@f)$(${words[@]:0:$CURRENT-1} --generate-bash-completion 2>/dev/null)}")
	if [[ -n ${words_found[1]} ]]; then
		_describe 'vcgroupfs' words_found
	else
		_files
	fi
}
# Found in $fpath, this file is the body of the function itself.
if [[ ${funcstack[1]} = _vcgroupfs ]]; then
	_vcgroupfs "$@"
else
	compdef _vcgroupfs vcgroupfs
fi
`
)

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a shell's completion script", ArgsUsage: "bash|zsh|fish",
		Description: "   source <(vcgroupfs completion bash)\n   vcgroupfs completion fish > " +
			"~/.config/fish/completions/vcgroupfs.fish",
		Action: func(c *cli.Context) error {
			script, err := "", error(nil)
			switch c.Args().First() {
			case "bash":
				script = bashCompletion
			case "zsh":
				script = zshCompletion
			case "fish":
				script, err = c.App.ToFishCompletion()
			default:
				return usageErrorf("give a shell: bash, zsh or fish")
			}
			fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}
