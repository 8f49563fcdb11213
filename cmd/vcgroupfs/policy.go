package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

func policyCommand() *cli.Command {
	return &cli.Command{
		Name:  "policy",
		Usage: "the policy tools",
		Description: "A policy says which controllers a guest sees and what it may do with each control file. None is " +
			"needed: the built-in\n" +
			"default covers every control file known, and a policy only says where it differs.",
		Action: group,
		Subcommands: []*cli.Command{
			{
				Name: "default", Usage: "print the built-in policy",
				Description: "Prints the default policy as YAML, with comments that teach the format: the start of a policy of " +
					"your own.",
				Action: func(c *cli.Context) error {
					_, err := c.App.Writer.Write(policy.DefaultText())
					return err
				},
			},
			{
				Name: "check", Usage: "check policies", ArgsUsage: "FILE...",
				Description: "Says every fault of each policy, with line and column, what is wrong and what is allowed.",
				Action:      checkPolicies,
			},
			{
				Name: "explain", Usage: "say the verdict on a control file, and why", ArgsUsage: "CONTROL-FILE...",
				Description: "Says what a guest may do with a control file at the boundary and below it, on v1 and v2, which " +
					"rule says so, and why.\n" +
					"Where a host has only the other version: the host's file that it stands for, the formula and what is " +
					"lost, or why it is\n" +
					"not shown.\n\n" +
					"   vcgroupfs policy explain memory.max devices.allow",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "policy", Usage: "of the policy in `FILE`", TakesFile: true},
					&cli.StringFlag{Name: "controllers", Usage: "with these controllers only: `LIST`"},
					&cli.BoolFlag{Name: "json", Usage: "as JSON"},
				},
				Action: explain,
			},
		},
	}
}

func checkPolicies(c *cli.Context) error {
	if c.NArg() == 0 {
		return usageErrorf("give the policies to check; as in: vcgroupfs policy check policy.yaml")
	}
	var faults []error
	for _, file := range c.Args().Slice() {
		if _, err := loadPolicy(file); err != nil {
			faults = append(faults, err)
			continue
		}
		fmt.Fprintf(c.App.Writer, "%s: ok\n", file)
	}
	return fault.With(fault.BadPolicy, joinPlain(faults))
}

// joinPlain joins errors without their codes.
func joinPlain(all []error) error {
	var plain []error
	for _, err := range all {
		plain = append(plain, errors.New(err.Error()))
	}
	return errors.Join(plain...)
}

// explanation is a line of "policy explain --json".
type explanation struct {
	File    string `json:"file"`
	Version int    `json:"version"`
	Place   string `json:"place"`
	Verdict string `json:"verdict"`
	Rule    string `json:"rule"`
	Reason  string `json:"reason"`

	Translation *translation `json:"translation,omitempty"`
}

func explain(c *cli.Context) error {
	if c.NArg() == 0 {
		return usageErrorf("give a control file; as in: vcgroupfs policy explain memory.max")
	}
	p, err := loadPolicy(c.String("policy"))
	if err != nil {
		return err
	}
	if c.IsSet("controllers") {
		if p, err = p.WithControllers(spec.ControllerNames(c.String("controllers"))); err != nil {
			return fault.With(fault.Invalid, err)
		}
	}
	list := []explanation{}
	for _, file := range c.Args().Slice() {
		all, err := p.Explain(file)
		if err != nil {
			return fault.With(fault.Invalid, err)
		}
		for _, e := range all {
			place := "below"
			if e.Place == hierarchy.Boundary {
				place = "boundary"
			}
			list = append(list, explanation{file, int(e.Version), place, e.Verdict.String(), e.Rule, e.Reason,
				translationOf(e.Version, file)})
		}
	}
	if c.Bool("json") {
		enc := json.NewEncoder(c.App.Writer)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	printExplanations(c.App.Writer, list)
	return nil
}

// printExplanations prints a line for each place and, after those of a version, one for the translation, which is the
// same at both.
func printExplanations(w io.Writer, list []explanation) {
	for i, e := range list {
		fmt.Fprintf(w, "%s on v%d, %s: %s (%s): %s\n", e.File, e.Version, e.Place, e.Verdict, e.Rule, e.Reason)
		last := i == len(list)-1 || list[i+1].File != e.File || list[i+1].Version != e.Version
		if last && e.Translation != nil {
			fmt.Fprintf(w, "%s, %s\n", e.File, e.Translation)
		}
	}
}
