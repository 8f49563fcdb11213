package main

import (
	"encoding/json"
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/texts"
)

// watchGuest shows a guest, and then what changes of it, until a signal asks the program to end. After the first look
// only the guest's removal is an error.
func watchGuest(c *cli.Context, daemon *api.Client, name string, interval time.Duration) error {
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	before, err := daemon.Guest(ctx, name)
	if err == nil {
		err = printGuest(c, before)
	}
	for unanswered := false; err == nil; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		var now api.Guest
		if now, err = daemon.Guest(ctx, name); err == nil {
			if unanswered {
				fmt.Fprintln(c.App.ErrWriter, "vcgroupfs: the daemon answers again")
			}
			unanswered = false
			err = printGuestChange(c, before, now)
			before = now
		} else if fault.Of(err) != fault.NotFound && ctx.Err() == nil {
			if !unanswered {
				fmt.Fprintf(c.App.ErrWriter, "vcgroupfs: %s; trying again every %v\n", texts.Visible(err.Error()), interval)
			}
			unanswered, err = true, nil
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// printGuest prints a whole guest, with --json in one line.
func printGuest(c *cli.Context, g api.Guest) error {
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(g)
	}
	return showGuest(c, g)
}

// printGuestChange prints what has changed between two looks, nothing if nothing has.
func printGuestChange(c *cli.Context, before, now api.Guest) error {
	if c.Bool("json") {
		was, _ := json.Marshal(before)
		if is, _ := json.Marshal(now); string(is) == string(was) {
			return nil
		}
		return printGuest(c, now)
	}
	if !now.Since.Equal(before.Since) {
		// Another guest of that name, whose policy may differ, too.
		return printGuest(c, now)
	}
	for _, change := range changedLines(showLines(before), showLines(now)) {
		if _, err := fmt.Fprintf(c.App.Writer, "%s %s\n", stamp(time.Now()), change); err != nil {
			return err
		}
	}
	return nil
}

// changedLines returns a line for each key whose values differ. A key, such as limit, may have several values.
func changedLines(before, now []showLine) (changes []string) {
	var keys []string
	for _, l := range slices.Concat(now, before) {
		if !slices.Contains(keys, l.key) {
			keys = append(keys, l.key)
		}
	}
	for _, key := range keys {
		if was, is := valuesOf(before, key), valuesOf(now, key); is != was {
			changes = append(changes, fmt.Sprintf("%s: %s -> %s", strings.TrimSpace(key), was, is))
		}
	}
	return changes
}

// valuesOf returns the values of a key, a dash for none.
func valuesOf(lines []showLine, key string) string {
	var values []string
	for _, l := range lines {
		if l.key == key {
			values = append(values, l.value)
		}
	}
	return texts.Dash(strings.Join(values, ", "))
}
