package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// attachmentFlags returns the options for the attachment of a view in a guest, which "guest add", the hooks and "nri"
// share. intoOf reads them; "nri" passes those on that no annotation replaces.
func attachmentFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "stack",
			Usage: "leave mounts of what the view shows below it, writable and of any cgroups (default: the kernel's own " +
				"mounts of the guest's cgroups, read-only, which programs look for in mountinfo)"},
		noStackFlag(),
		&cli.BoolFlag{Name: "tmpfs",
			Usage: "attach a tmpfs with a mount for each hierarchy, as hosts with cgroup v1 have it, for a systemd or crun in " +
				"the guest"},
		&cli.BoolFlag{Name: "proc-cgroups",
			Usage: "put a file over /proc/cgroups, too, that names the controllers which the guest is shown"},
	}
}

// noStackFlag is also an option of "run".
func noStackFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-stack",
		Usage: "leave nothing below the view: mountinfo names no file system of the kernel's there"}
}

// attachmentOptions returns the attachment's options that were given, as on a command line.
func attachmentOptions(c *cli.Context) (given []string) {
	for _, f := range attachmentFlags() {
		if name := f.Names()[0]; c.Bool(name) {
			given = append(given, "--"+name)
		}
	}
	return given
}

// stackOf returns the choice of --stack or --no-stack; nil for neither.
func stackOf(c *cli.Context) (*bool, error) {
	yes, no := c.Bool("stack"), c.Bool("no-stack")
	switch {
	case yes && no:
		return nil, usageErrorf("--stack and --no-stack are the opposite of each other: give one of them")
	case yes || no:
		return &yes, nil
	}
	return nil, nil
}

// intoFlags returns the place of the view in the guest; nil without --into.
func intoFlags(c *cli.Context) (*api.Into, error) {
	switch {
	case c.String("into") == "" && len(attachmentOptions(c)) > 0:
		var names []string
		for _, f := range attachmentFlags() {
			names = append(names, "--"+f.Names()[0])
		}
		last := len(names) - 1
		return nil, usageErrorf("%s and %s say how to attach the view in a guest: give --into DIR beside them",
			strings.Join(names[:last], ", "), names[last])
	case c.String("into") == "":
		return nil, nil
	case c.Int("pid") == 0:
		return nil, usageErrorf("--into is a place in the mount namespace of a process: give --pid PID beside it")
	}
	return intoOf(c, c.String("rootfs"))
}

// intoOf returns the place from the flags that "guest add" and the hooks have in common.
func intoOf(c *cli.Context, rootfs string) (*api.Into, error) {
	stack, err := stackOf(c)
	return &api.Into{Path: c.String("into"), Rootfs: rootfs, Stack: stack, Tmpfs: c.Bool("tmpfs"),
		ProcCgroups: c.Bool("proc-cgroups")}, err
}

// hookOptions returns the options that "nri" passes on to each hook. The stack and the tmpfs are the pod's to choose.
func hookOptions(c *cli.Context) []string {
	return slices.DeleteFunc(attachmentOptions(c), func(option string) bool {
		return slices.Contains([]string{"--stack", "--no-stack", "--tmpfs"}, option)
	})
}
