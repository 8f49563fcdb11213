package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/texts"
)

// printJSON prints the output of --json.
func printJSON(c *cli.Context, what any) error {
	e := json.NewEncoder(c.App.Writer)
	e.SetIndent("", "  ")
	return e.Encode(what)
}

func newTable(c *cli.Context) *tabwriter.Writer {
	return tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
}

func guestListCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "list the guests", Flags: []cli.Flag{jsonFlag(), socketFlag()},
		Description: "Lists the guests with their boundaries and views. OPEN is how many descriptors a guest has open in " +
			"its view; BY is who\n" +
			"made it and alone removes it by its name: hand, hook (a runtime's), nri, declared (a file of the guests' " +
			"directory) or self.",
		Action: guestAction(0, 0, "no argument", func(c *cli.Context, daemon *api.Client, _ []string) error {
			all, err := daemon.Guests(c.Context)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c, all)
			}
			w := newTable(c)
			fmt.Fprintln(w, "NAME\tBOUNDARY\tTARGET\tHIERARCHIES\tOPEN\tSINCE\tBY")
			for _, g := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", g.Name, texts.Visible(boundaryOf(g.Spec)),
					texts.Visible(g.Spec.Place().String()), texts.Dash(strings.Join(g.Hierarchies, " ")),
					g.Open, stamp(g.Since), makerOf(g).By)
			}
			return w.Flush()
		}),
	}
}

func boundaryOf(s api.GuestSpec) string {
	if s.Pid != 0 {
		return "pid " + strconv.Itoa(s.Pid)
	}
	return s.Boundary
}

func stamp(t time.Time) string { return t.Local().Format(time.RFC3339) }

func guestShowCommand() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "show one guest as the daemon has it", ArgsUsage: "NAME",
		Description: "Prints the guest's settings, hierarchies and open descriptors. With --watch it goes on until it is " +
			"interrupted, and\n" +
			"prints a line for each value that has changed: when, which, the old one and the new one. A guest that was " +
			"removed and added\n" +
			"again meanwhile is shown in full. With --json that is a line for each change, with the whole guest as one JSON " +
			"object.\n" +
			"It ends with status 6 when the guest is removed, and waits for a daemon that does not answer.\n\n" +
			"   vcgroupfs guest show web --watch --interval 500ms",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Usage: "go on, and show what changes"},
			intervalFlag(), jsonFlag(), socketFlag(),
		},
		Action: guestAction(1, 1, "one guest", func(c *cli.Context, daemon *api.Client, args []string) error {
			if err := checkName(args[0]); err != nil {
				return err
			}
			interval, err := intervalOf(c)
			if err != nil {
				return err
			}
			if c.Bool("watch") {
				return watchGuest(c, daemon, args[0], interval)
			}
			if c.IsSet("interval") {
				return usageErrorf("--interval is for --watch: give both")
			}
			g, err := daemon.Guest(c.Context, args[0])
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c, g)
			}
			return showGuest(c, g)
		}),
	}
}

// callsText describes the answers to the system calls that a seccomp profile stops.
func callsText(c api.Calls) string {
	if c == (api.Calls{}) {
		return "no listener"
	}
	return fmt.Sprintf("%d answered, %d passed on, by %d listeners", c.Answered, c.PassedOn, c.Listeners)
}

func makerOf(g api.Guest) api.Maker { return api.MakerBy(&g.Maker, g.Declared, g.Rule) }

// showLine is a line of "guest show".
type showLine struct{ key, value string }

// showLines returns what "guest show" says of a guest, but for the text of its policy.
func showLines(g api.Guest) (lines []showLine) {
	line := func(key, value string) { lines = append(lines, showLine{key, value}) }
	line("name", texts.Visible(g.Name))
	line("boundary", texts.Visible(boundaryOf(g.Spec)))
	for _, h := range slices.Sorted(maps.Keys(g.Boundaries)) {
		line("  in "+texts.Visible(h), texts.Visible(g.Boundaries[h]))
	}
	line("target", texts.Visible(g.Spec.Place().String()))
	if into := g.Spec.Into; into != nil {
		line("into", fmt.Sprintf("%s of process %d", texts.Visible(filepath.Join(into.Rootfs, into.Path)), g.Spec.Pid))
	}
	line("hierarchies", texts.Dash(texts.Visible(strings.Join(g.Hierarchies, " "))))
	controllers := strings.Join(g.Spec.Controllers, ",")
	if controllers == "" {
		controllers = "as the policy says"
	}
	line("controllers", texts.Visible(controllers))
	line("layout", orElse(texts.Visible(g.Spec.Layout), "auto"))
	line("owner", orElse(texts.Visible(g.Spec.Owner),
		"as the boundary says: 0:0, or the root of the process's user namespace"))
	for _, file := range slices.Sorted(maps.Keys(g.Spec.Limits)) {
		line("limit", texts.Visible(file+"="+g.Spec.Limits[file]))
	}
	line("since", stamp(g.Since))
	line("made by", texts.Visible(makerOf(g).String()))
	if g.Rule != "" {
		line("by self", "its cgroup matches "+texts.Visible(g.Rule))
	}
	line("open", strconv.Itoa(g.Open))
	line("calls", callsText(g.Calls))
	policyIs := "the default"
	if g.Spec.Policy != "" {
		policyIs = "its own:"
	}
	line("policy", policyIs)
	return lines
}

func showGuest(c *cli.Context, g api.Guest) error {
	w := newTable(c)
	for _, l := range showLines(g) {
		fmt.Fprintf(w, "%s\t%s\n", l.key, l.value)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for text := range strings.Lines(g.Spec.Policy) {
		fmt.Fprintf(c.App.Writer, "    %s\n", texts.Visible(strings.TrimRight(text, "\r\n")))
	}
	return nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func guestTreeCommand() *cli.Command {
	return &cli.Command{
		Name: "tree", Usage: "show the cgroups and processes of a guest", ArgsUsage: "NAME",
		Flags: []cli.Flag{jsonFlag(), socketFlag()},
		Description: "Draws the guest's cgroups as the host sees them, each with its processes by the host's numbers and " +
			"with what it uses: CPU time\n" +
			"since it was made, memory and its limit, tasks and their limit. A dash: no shown hierarchy has that figure.",
		Action: guestAction(1, 1, "one guest", func(c *cli.Context, daemon *api.Client, args []string) error {
			if err := checkName(args[0]); err != nil {
				return err
			}
			var t api.Cgroup
			err := daemon.Do(c.Context, api.Tree, args[0], &t)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c, t)
			}
			t.Name = args[0]
			return printTree(c.App.Writer, t)
		}),
	}
}

func printTree(out io.Writer, t api.Cgroup) error {
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CGROUP\tCPU\tMEMORY\tTASKS\tSTATE\tHIERARCHIES")
	drawTree(w, t, "", "")
	w.Flush()
	for line := range strings.Lines(table.String()) {
		// tabwriter fills empty cells with spaces.
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// drawTree draws a cgroup, its processes and the cgroups below it. first is the text before its own name, rest the text
// before the lines below it.
func drawTree(w *tabwriter.Writer, g api.Cgroup, first, rest string) {
	fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\t%s\n", first, texts.Visible(g.Name), texts.CPUTime(g.CPUUsec),
		texts.OfLimit(texts.Bytes(g.MemoryBytes), texts.Bytes(g.MemoryLimit)),
		texts.OfLimit(texts.Count(g.Pids), texts.Count(g.PidsLimit)), texts.State(g.Frozen), strings.Join(g.Hierarchies, " "))
	for i, p := range g.Processes {
		branch := "├─ "
		if i == len(g.Processes)-1 && len(g.Children) == 0 {
			branch = "└─ "
		}
		fmt.Fprintf(w, "%s%s%d %s\t\t\t\t\t\n", rest, branch, p.Pid, texts.Visible(p.Command))
	}
	for i, child := range g.Children {
		if i == len(g.Children)-1 {
			drawTree(w, child, rest+"└─ ", rest+"   ")
		} else {
			drawTree(w, child, rest+"├─ ", rest+"│  ")
		}
	}
}

func printChanges(c *cli.Context, changes []api.Change) error {
	if c.Bool("json") {
		return printJSON(c, changes)
	}
	if len(changes) == 0 {
		fmt.Fprintln(c.App.Writer, "nothing to change")
		return nil
	}
	w := newTable(c)
	fmt.Fprintln(w, "CGROUP\tFILE\tFROM\tTO")
	for _, ch := range changes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", texts.Visible(ch.Path), texts.Visible(ch.File),
			texts.Visible(strings.TrimSpace(ch.From)), texts.Visible(strings.TrimSpace(ch.To)))
	}
	return w.Flush()
}

func guestEventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "follow what happens to guests",
		Description: "Prints a line for each event until it is interrupted: guests added, removed and gone, requests that " +
			"a policy denied, quotas and\n" +
			"limits reached, out-of-memory kills. A line \"dropped\" counts what came too fast to be told. It goes on while " +
			"the daemon is\n" +
			"upgraded. With --json it is a JSON object a line.",
		Flags: []cli.Flag{&cli.StringFlag{Name: "guest", Usage: "of the guest `NAME` only"}, jsonFlag(),
			readyFlag("when no event is missed from now on"), socketFlag()},
		Action: guestAction(0, 0, "no argument, or --guest NAME", func(c *cli.Context, daemon *api.Client, _ []string) error {
			name := c.String("guest")
			if name != "" {
				if err := checkName(name); err != nil {
					return err
				}
				if _, err := daemon.Guest(c.Context, name); err != nil {
					// Otherwise the command would wait for the events of a mistyped name.
					return err
				}
			}
			follows, err := readyFDTeller(c)
			if err != nil {
				return err
			}
			lines := json.NewEncoder(c.App.Writer)
			return daemon.Events(c.Context, name, follows, func(e api.Event) error {
				if c.Bool("json") {
					return lines.Encode(e)
				}
				_, err := fmt.Fprintln(c.App.Writer, eventLine(e))
				return err
			})
		}),
	}
}

// eventLine returns an event in one line.
func eventLine(e api.Event) string {
	words := []string{stamp(e.Time), texts.Dash(e.Guest), e.Kind}
	add := func(key, value string) {
		if value != "" {
			words = append(words, key+"="+texts.Visible(value))
		}
	}
	if e.Pid != 0 {
		add("uid", strconv.FormatUint(uint64(e.UID), 10))
		add("pid", strconv.Itoa(e.Pid))
	}
	add("operation", e.Operation)
	add("path", e.Path)
	add("rule", e.Rule)
	if e.Count != 0 {
		add("count", strconv.FormatUint(e.Count, 10))
	}
	if e.Reason != "" {
		words = append(words, "("+texts.Visible(e.Reason)+")")
	}
	return strings.Join(words, " ")
}
