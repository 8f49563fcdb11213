package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/texts"
)

func guestTopCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "what each guest uses, busiest first",
		Description: "A table of the guests that is drawn anew on a terminal until it is interrupted, and printed once " +
			"elsewhere. CPU% is of one\n" +
			"processor and REQ/S the requests to the view, both between two looks; DENIED counts since the daemon's worker " +
			"started.\n" +
			"On a terminal q ends it, and the first letter of a column's name sorts by it: n, c, m, p, r or d. A name that " +
			"does not fit\n" +
			"has a line of its own below the figures.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "sort", Value: "cpu", Usage: "by `COLUMN`: " + strings.Join(topColumns(), ", ")},
			&cli.DurationFlag{Name: "interval", Value: 2 * time.Second, Usage: "`TIME` between two looks"},
			&cli.IntFlag{Name: "count", Usage: "print the table `N` times (default: without end on a terminal, else once)"},
			jsonFlag(), socketFlag(),
		},
		Action: guestAction(0, 0, "no argument", top),
	}
}

// topRow is a line of the table.
type topRow struct {
	api.Usage
	CPUPercent        float64 `json:"cpuPercent"` // of one processor; -1: not known
	RequestsPerSecond float64 `json:"requestsPerSecond"`
}

// topSorts compare two lines; the lesser one comes first.
var topSorts = []struct {
	column  string
	compare func(a, b topRow) int
}{
	{"name", func(a, b topRow) int { return 0 }}, // equal lines are sorted by name
	{"cpu", func(a, b topRow) int { return cmp.Compare(b.CPUPercent, a.CPUPercent) }},
	{"memory", func(a, b topRow) int { return cmp.Compare(b.MemoryBytes, a.MemoryBytes) }},
	{"pids", func(a, b topRow) int { return cmp.Compare(b.Pids, a.Pids) }},
	{"requests", func(a, b topRow) int {
		return cmp.Or(cmp.Compare(b.RequestsPerSecond, a.RequestsPerSecond), cmp.Compare(b.Requests, a.Requests))
	}},
	{"denials", func(a, b topRow) int { return cmp.Compare(b.Denials, a.Denials) }},
}

func topColumns() (names []string) {
	for _, s := range topSorts {
		names = append(names, s.column)
	}
	return names
}

func top(c *cli.Context, daemon *api.Client, _ []string) error {
	sorted := slices.Index(topColumns(), c.String("sort"))
	if sorted < 0 {
		return usageErrorf("cannot sort by %q; allowed: %s", c.String("sort"), strings.Join(topColumns(), ", "))
	}
	interval, count := c.Duration("interval"), c.Int("count")
	if interval < 100*time.Millisecond || interval > time.Hour {
		return usageErrorf("cannot use --interval %v; allowed: 100ms to 1h", interval)
	}
	if count < 0 || count == 0 && c.IsSet("count") {
		return usageErrorf("cannot use --count %d; give 1 or more", count)
	}
	screen := terminal(c.App.Writer)
	if c.Bool("json") {
		screen = nil
	}
	if screen != nil {
		return topOnScreen(c, daemon, screen, sorted, interval, count)
	}
	look := topReader(c.Context, daemon)
	if _, err := look(); err != nil {
		return err
	}
	for n := 0; n < max(count, 1); n++ {
		select {
		case <-c.Context.Done():
			return nil
		case <-time.After(interval):
		}
		rows, err := look()
		if err != nil {
			return err
		}
		sortTop(rows, sorted)
		if c.Bool("json") {
			err = printJSON(c, rows)
		} else {
			err = printTop(c.App.Writer, rows)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// topOnScreen draws the first table at once, without rates, and then one after each interval and each key.
func topOnScreen(c *cli.Context, daemon *api.Client, screen *os.File, sorted int, interval time.Duration,
	count int) error {
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	keys, restore, err := readKeys(c.App.Reader)
	if err != nil {
		return err
	}
	defer restore()
	look := topReader(ctx, daemon)
	rows, err := look()
	if err != nil {
		return err
	}
	defer fmt.Fprintln(screen)
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for n := 0; ; {
		sortTop(rows, sorted)
		if err := drawTop(screen, rows); err != nil || n > 0 && n == count {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case key := <-keys:
			if key == 'q' {
				return nil
			}
			if i := slices.IndexFunc(topColumns(), func(column string) bool { return column[0] == key }); i >= 0 {
				sorted = i
			}
		case <-ticks.C:
			if rows, err = look(); err != nil {
				return err
			}
			n++
		}
	}
}

// topReader returns a function that asks the daemon, and makes lines of its answer and the one before.
func topReader(ctx context.Context, daemon *api.Client) func() ([]topRow, error) {
	var before []api.Usage
	at := time.Now()
	return func() ([]topRow, error) {
		now, err := daemon.Top(ctx)
		if err != nil {
			return nil, err
		}
		rows := topRows(before, now, time.Since(at))
		at, before = time.Now(), now
		return rows, nil
	}
}

// readKeys has a terminal pass each key on at once, without echo, until restore. A file that is no terminal gives no
// keys.
func readKeys(in io.Reader) (keys <-chan byte, restore func(), err error) {
	f := terminal(in)
	if f == nil {
		return nil, func() {}, nil
	}
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, nil, err
	}
	now := *old
	now.Lflag &^= unix.ICANON | unix.ECHO
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &now); err != nil {
		return nil, nil, err
	}
	pressed := make(chan byte)
	// The goroutine runs until the program ends.
	go func() {
		for key := make([]byte, 1); ; pressed <- key[0] {
			if n, err := f.Read(key); n == 0 || err != nil {
				return
			}
		}
	}()
	return pressed, func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}

func sortTop(rows []topRow, by int) {
	slices.SortFunc(rows, func(a, b topRow) int {
		return cmp.Or(topSorts[by].compare(a, b), strings.Compare(a.Name, b.Name))
	})
}

// topRows makes lines of two answers. A guest that the first one lacks, or that was made again since, has no rates yet.
func topRows(before, now []api.Usage, between time.Duration) []topRow {
	old := map[string]api.Usage{}
	for _, u := range before {
		old[u.Name] = u
	}
	rows := make([]topRow, 0, len(now))
	for _, u := range now {
		r := topRow{Usage: u, CPUPercent: -1}
		o, was := old[u.Name]
		if was && o.CPUUsec >= 0 && u.CPUUsec >= o.CPUUsec {
			r.CPUPercent = 100 * float64(u.CPUUsec-o.CPUUsec) / float64(between.Microseconds())
		}
		if was && u.Requests >= o.Requests {
			// A new worker counts from 0.
			r.RequestsPerSecond = float64(u.Requests-o.Requests) / between.Seconds()
		}
		rows = append(rows, r)
	}
	return rows
}

func printTop(w io.Writer, rows []topRow) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "CPU%\tMEMORY\tTASKS\tCGROUPS\tREQ/S\tDENIED\tSTATE\t  NAME")
	for _, r := range rows {
		percent := "-"
		if r.CPUPercent >= 0 {
			percent = fmt.Sprintf("%.1f", r.CPUPercent)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.1f\t%d\t%s\t  %s\n", percent,
			texts.OfLimit(texts.Bytes(r.MemoryBytes), texts.Bytes(r.MemoryLimit)),
			texts.OfLimit(texts.Count(r.Pids), texts.Count(r.PidsLimit)), texts.Count(r.Cgroups), r.RequestsPerSecond, r.Denials,
			texts.State(r.Frozen), r.Name)
	}
	return t.Flush()
}

// terminal returns a reader or writer as a file if it is a terminal, else nil.
func terminal(x any) *os.File {
	f, ok := x.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return f
}

// drawTop draws the table over the one before, cut to the height of the screen.
func drawTop(screen *os.File, rows []topRow) error {
	height, width := 24, 80
	if size, err := unix.IoctlGetWinsize(int(screen.Fd()), unix.TIOCGWINSZ); err == nil && size.Row > 4 && size.Col > 20 {
		height, width = int(size.Row), int(size.Col)
	}
	var table bytes.Buffer
	if err := printTop(&table, rows[:min(len(rows), height-2)]); err != nil {
		// Each guest has at least one line.
		return err
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	// The first line is no guest.
	lines, shown := 0, -1
	for line := range strings.Lines(table.String()) {
		parts := foldTop(strings.TrimSuffix(line, "\n"), width)
		if lines += len(parts); lines > height-1 {
			break
		}
		shown++
		for _, part := range parts {
			// The line is ASCII.
			b.WriteString(part + "\x1b[K\n")
		}
	}
	fmt.Fprintf(&b, "%d of %d guests, %s\x1b[K\x1b[J", shown, len(rows), time.Now().Format(time.TimeOnly))
	_, err := io.WriteString(screen, b.String())
	return err
}

// foldTop divides a line of the table that is wider than the screen: the name begins a new line.
func foldTop(line string, width int) (lines []string) {
	if name := strings.LastIndexByte(line, ' ') + 1; len(line) > width {
		lines, line = []string{strings.TrimRight(line[:min(name, width)], " ")}, "  "+line[name:]
	}
	for ; len(line) > width; line = line[width:] {
		lines = append(lines, line[:width])
	}
	return append(lines, line)
}
