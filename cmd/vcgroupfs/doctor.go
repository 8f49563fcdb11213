package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/doctor"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "what works on this host, and which programs accept a view",
		Description: "Looks at this host, changes nothing, and says what to do about what is missing. Then lists the " +
			"programs that look for cgroups\n" +
			"and what each makes of a view: with FUSE's type, and where statfs says the kernel's own (by BPF or seccomp " +
			"notification). With --pid\n" +
			"it says that of what this process finds at /sys/fs/cgroup, whether the type is right for it, and whether root in " +
			"it could go around\n" +
			"a view. --json says for each program what of it was run, in which version and where. Ends with 4 when the host " +
			"cannot serve any view.\n\n" +
			"   vcgroupfs doctor --pid \"$(pgrep -o java)\"",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "pid", Usage: "judge what process `PID` finds at /sys/fs/cgroup"},
			jsonFlag(), socketFlag(),
		},
		Action: runDoctor,
	}
}

// diagnosis is the output of "doctor --json".
type diagnosis struct {
	Checks  []doctor.Check  `json:"checks"`
	Sight   doctor.Sight    `json:"sight,omitempty"`     // with --pid
	Right   doctor.Right    `json:"typeRight,omitempty"` // with --pid
	Clients []doctor.Client `json:"clients"`
}

func runDoctor(c *cli.Context) error {
	if c.NArg() > 0 {
		return usageErrorf("doctor takes no argument; --pid PID judges what a process finds")
	}
	if c.IsSet("pid") && c.Int("pid") <= 0 {
		return usageErrorf("--pid %d is no process", c.Int("pid"))
	}
	d := diagnosis{Checks: doctor.Host(c.Context, c.String("socket")), Clients: doctor.Clients()}
	if pid := c.Int("pid"); pid != 0 {
		var err error
		var bound, typed doctor.Check
		if d.Sight, err = doctor.SightOf(pid); err == nil {
			bound, err = doctor.Bound(pid)
		}
		if err != nil {
			return err
		}
		d.Right, typed = doctor.TypeOf(c.Context, c.String("socket"), pid, d.Sight)
		d.Checks = append(d.Checks, bound, typed)
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
			return exitStatus(fault.ExitUnsupported)
		}
	}
	return nil
}

func (d diagnosis) print(c *cli.Context) {
	out := c.App.Writer
	for _, check := range d.Checks {
		printFolded(out, fmt.Sprintf("%-4s  ", check.State), check.Name+": "+check.Found)
		if check.Do != "" {
			printFolded(out, "      -> ", check.Do)
		}
	}
	fmt.Fprintln(out)
	if d.Sight == "" {
		printClients(out, d.Clients)
		return
	}
	fmt.Fprintf(out, "process %d finds at /sys/fs/cgroup: %s\n\n", c.Int("pid"), d.Sight.Text())
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROGRAM\tACCEPTS IT\tASKS\tWAS\tELSE GIVE IT, OR IT NEEDS")
	for _, client := range d.Clients {
		verdict := string(client.On(d.Sight, d.Right == doctor.RightYes))
		if d.Right == doctor.RightUnknown && client.Typed[d.Sight] != client.Verdicts[d.Sight] {
			verdict += ", or " + string(client.Typed[d.Sight])
		}
		also := client.Remedy(d.Sight)
		if verdict == string(doctor.Yes) {
			also = client.Needs
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", client.Name, verdict, client.Asks, client.How(), also)
	}
	w.Flush()
	last := bytes.Index(table.Bytes(), []byte("ELSE"))
	for line := range strings.Lines(table.String()) {
		line = strings.TrimSuffix(line, "\n")
		printFolded(out, line[:last], line[last:])
	}
	if d.Right == doctor.RightUnknown {
		fmt.Fprintln(out, "\nof two the second is where its seccomp filter notifies of statfs")
	}
}

// columns is the width of doctor's output on a screen.
const columns = 100

// printFolded prints a text after the head of its first line, and indents the following lines to the same column.
func printFolded(out io.Writer, head, text string) {
	line := head
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			line += word
		case len(line)+1+len(word) > columns:
			fmt.Fprintln(out, line)
			line = strings.Repeat(" ", len(head)) + word
		default:
			line += " " + word
		}
	}
	fmt.Fprintln(out, strings.TrimRight(line, " "))
}

// printClients prints the table of the clients in 100 columns.
func printClients(out io.Writer, clients []doctor.Client) {
	names := 0
	for _, client := range clients {
		names = max(names, len(client.Name))
	}
	line := func(name, asks string, cells []string, how string) {
		fmt.Fprintf(out, "%-*s %-6s", names, name, asks)
		for _, cell := range cells {
			fmt.Fprintf(out, " %-3s", cell)
		}
		fmt.Fprintf(out, " %s\n", how)
	}
	fmt.Fprintf(out, "%-*s %-6s %-23s %s\n", names, "WHAT PROGRAMS MAKE OF A VIEW", "", "WITH FUSE'S TYPE",
		"WITH THE TYPE RIGHT")
	// In the order of Sights.
	columns := []string{"v2", "-s", "v1", "-s", "tmp", "-s"}
	line("PROGRAM", "ASKS", slices.Concat(columns, columns), "WAS")
	for _, client := range clients {
		var cells []string
		for _, typed := range []bool{false, true} {
			for _, s := range doctor.Sights {
				verdict := client.On(s.Sight, typed)
				if verdict == doctor.Ignores {
					verdict = "ign"
				}
				cells = append(cells, string(verdict))
			}
		}
		line(client.Name, string(client.Asks), cells, client.How())
	}
	fmt.Fprintln(out, "\n-s: --no-stack; tmp: v1 --tmpfs; ign: ignores. What to do about a no: docs/clients.md, or --pid")
	for _, text := range doctor.Legend {
		fmt.Fprintln(out, text)
	}
}
