package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/doctor"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/exitcode"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "what works on this host, and which programs accept a view",
		Description: "Looks at this host, changes nothing, and says what to do about what is missing. Then lists the programs that look for cgroups\n" +
			"and what each makes of a view: yes; no, it fails; or it ignores the view and takes the host's values for its limits. With --pid it\n" +
			"says that of what this process finds at /sys/fs/cgroup, and whether root in it could go around a view. Ends with 4 when the host\n" +
			"cannot serve any view.\n\n" +
			"   vcgroupfs doctor --pid \"$(pgrep -o java)\"",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "pid", Usage: "judge what process `PID` finds at /sys/fs/cgroup"},
			jsonFlag(), socketFlag(),
		},
		Action: runDoctor,
	}
}

// diagnosis is "doctor --json".
type diagnosis struct {
	Checks  []doctor.Check  `json:"checks"`
	Sight   doctor.Sight    `json:"sight,omitempty"` // with --pid
	Clients []doctor.Client `json:"clients"`
}

func runDoctor(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("doctor takes no argument; --pid PID judges what a process finds")
	}
	if c.IsSet("pid") && c.Int("pid") <= 0 {
		return usagef("--pid %d is no process", c.Int("pid"))
	}
	d := diagnosis{Checks: doctor.Host(c.Context, c.String("socket")), Clients: doctor.Clients}
	if pid := c.Int("pid"); pid != 0 {
		var err error
		var bound, kind doctor.Check
		if d.Sight, err = doctor.SightOf(pid); err == nil {
			bound, err = doctor.Bound(pid)
		}
		if err == nil {
			kind, err = doctor.TypeOf(pid)
		}
		if err != nil {
			return err
		}
		d.Checks = append(d.Checks, bound, kind)
	}
	if c.Bool("json") {
		enc := json.NewEncoder(c.App.Writer)
		enc.SetIndent("", "  ")
		if err := enc.Encode(d); err != nil {
			return err
		}
	} else {
		d.print(c)
	}
	for _, check := range d.Checks {
		if check.State == doctor.Bad {
			return exitStatus(exitcode.Unsupported)
		}
	}
	return nil
}

func (d diagnosis) print(c *cli.Context) {
	out := c.App.Writer
	for _, check := range d.Checks {
		fmt.Fprintf(out, "%-4s  %s: %s\n", check.State, check.Name, check.Found)
		if check.Do != "" {
			fmt.Fprintf(out, "      -> %s\n", check.Do)
		}
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	if d.Sight == "" {
		fmt.Fprint(w, "WHAT IT MAKES OF A VIEW OF")
		for _, s := range doctor.Sights {
			fmt.Fprintf(w, "\t%s", s.How)
		}
		fmt.Fprintln(w, "\tELSE GIVE IT")
		for _, client := range d.Clients {
			fmt.Fprint(w, client.Name)
			for _, s := range doctor.Sights {
				fmt.Fprintf(w, "\t%s", client.Verdicts[s.Sight])
			}
			fmt.Fprintf(w, "\t%s\n", client.Instead)
		}
		return
	}
	fmt.Fprintf(out, "process %d finds at /sys/fs/cgroup: %s\n\n", c.Int("pid"), d.Sight)
	fmt.Fprintln(w, "PROGRAM\tACCEPTS IT\tLOOKS BY\tELSE GIVE IT")
	for _, client := range d.Clients {
		instead := client.Instead
		if client.Verdicts[d.Sight] == doctor.Yes {
			instead = ""
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", client.Name, client.Verdicts[d.Sight], client.Looks, instead)
	}
}
