package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// policyFlags are the flags that decide what a view shows.
func policyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "controllers", Usage: "show these only: `LIST` such as memory,pids,name=systemd"},
		&cli.StringFlag{Name: "policy", Usage: "read the policy from `FILE`", TakesFile: true},
		&cli.StringFlag{Name: "layout", Value: "auto",
			Usage: "v1 (a directory per hierarchy) or v2 (one tree), also on a host with the other; hybrid; or auto: as the " +
				"host"},
	}
}

func layoutFlag(c *cli.Context) (hierarchy.Layout, error) {
	l, err := hierarchy.ParseLayout(c.String("layout"))
	return l, fault.With(fault.Invalid, err)
}

// policyFlag reads --policy and --controllers. The host must have the named controllers.
func policyFlag(c *cli.Context) (*policy.Policy, error) {
	p, err := loadPolicy(c.String("policy"))
	if err != nil || !c.IsSet("controllers") {
		return p, err
	}
	names := spec.ControllerNames(c.String("controllers"))
	if len(names) == 0 {
		return nil, usageErrorf("no controller in --controllers; as in: --controllers memory,pids")
	}
	if p, err = p.WithControllers(names); err != nil {
		return nil, fault.With(fault.Invalid, err)
	}
	h, err := host.Open()
	if err != nil {
		return nil, fault.With(fault.Unsupported, err)
	}
	defer h.Close()
	layout, err := layoutFlag(c)
	if err != nil {
		return nil, err
	}
	return p, views.CheckControllers(h, names, layout)
}

// loadPolicy reads a policy's file; "" is the default.
func loadPolicy(file string) (*policy.Policy, error) {
	p, _, err := readPolicy(file)
	return p, err
}

// readPolicy is loadPolicy with the file's text for the daemon, "" for the default.
func readPolicy(file string) (*policy.Policy, string, error) {
	if file == "" {
		return policy.Default(), "", nil
	}
	text, err := os.ReadFile(file)
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return nil, "", fault.With(fault.BadPolicy,
			&fs.PathError{Op: "cannot read the policy", Path: file, Err: pathError.Err})
	}
	if err != nil {
		return nil, "", fault.With(fault.BadPolicy, err)
	}
	p, err := policy.Parse(file, text)
	return p, string(text), fault.With(fault.BadPolicy, err)
}
