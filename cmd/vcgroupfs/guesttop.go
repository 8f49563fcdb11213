package main

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/top"
)

func guestTopCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "what each guest uses, busiest first",
		Description: "A table of the guests that fills a terminal's screen until q is typed, and is printed once " +
			"elsewhere, with --json or\n" +
			"with --count. CPU% is of one processor and REQ/S the requests to the view, both between two looks; DENIED counts " +
			"since the\n" +
			"daemon's worker started. A dash: no shown hierarchy has that figure.\n\n" +
			"On the screen an arrow marks the column that sorts. What is near a limit, or denied, is coloured, unless " +
			"NO_COLOR is set.\n" +
			"While the daemon does not answer, the last figures stay and the lowest line says why. The keys:\n\n" +
			top.KeysText() +
			"\n   vcgroupfs guest top --sort memory --interval 500ms\n" +
			"   vcgroupfs guest top --json",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "sort", Value: "cpu", Usage: "by `COLUMN`: " + strings.Join(top.Orders(), ", ")},
			intervalFlag(),
			&cli.IntFlag{Name: "count",
				Usage: "print the table `N` times (default: the screen without end on a terminal, else once)"},
			jsonFlag(), socketFlag(),
		},
		Action: guestAction(0, 0, "no argument", guestTop),
	}
}

func intervalFlag() cli.Flag {
	return &cli.DurationFlag{Name: "interval", Value: 2 * time.Second, Usage: "`TIME` between two looks"}
}

// intervalOf returns the value of --interval.
func intervalOf(c *cli.Context) (time.Duration, error) {
	interval := c.Duration("interval")
	if interval < 100*time.Millisecond || interval > time.Hour {
		return 0, usageErrorf("cannot use --interval %v; allowed: 100ms to 1h", interval)
	}
	return interval, nil
}

func guestTop(c *cli.Context, daemon *api.Client, _ []string) error {
	order := slices.Index(top.Orders(), c.String("sort"))
	if order < 0 {
		return usageErrorf("cannot sort by %q; allowed: %s", c.String("sort"), strings.Join(top.Orders(), ", "))
	}
	interval, err := intervalOf(c)
	if err != nil {
		return err
	}
	count := c.Int("count")
	if count < 0 || count == 0 && c.IsSet("count") {
		return usageErrorf("cannot use --count %d; give 1 or more", count)
	}
	if screen := terminal(c.App.Writer); screen != nil && count == 0 && !c.Bool("json") {
		return top.OnScreen(c.Context, daemon, screen, order, interval)
	}
	return topPrinted(c, daemon, order, interval, max(count, 1))
}

// topPrinted prints the table count times.
func topPrinted(c *cli.Context, daemon *api.Client, order int, interval time.Duration, count int) error {
	look := top.Reader(c.Context, daemon)
	if _, err := look(); err != nil {
		return err
	}
	for range count {
		select {
		case <-c.Context.Done():
			return nil
		case <-time.After(interval):
		}
		rows, err := look()
		if err != nil {
			return err
		}
		top.Sort(rows, order)
		if c.Bool("json") {
			err = printJSON(c, rows)
		} else {
			err = top.Print(c.App.Writer, rows)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// terminal returns a writer as a file if it is a terminal on which a cursor can be moved, else nil.
func terminal(x any) *os.File {
	f, ok := x.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return f
}
