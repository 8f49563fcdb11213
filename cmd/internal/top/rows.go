// Package top has the table of what each guest uses: printed, or on a terminal's whole screen.
//
// A look is one request to the daemon; rates are between two looks. A row is a guest of the last look. The view is what
// the screen shows of the rows, and what the keys have made of it: order, filter, selection. Only screen.go touches the
// terminal, and its loop alone touches the view. Every text passes texts.Visible on its way to the terminal.
package top

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/texts"
)

// Row is a line of the table, and an element of the output of --json.
type Row struct {
	api.Usage
	CPUPercent        float64 `json:"cpuPercent"` // of one processor; -1: not known
	RequestsPerSecond float64 `json:"requestsPerSecond"`
}

// orders compare two lines; the lesser one comes first.
var orders = []struct {
	name    string
	compare func(a, b Row) int
}{
	{"name", func(a, b Row) int { return 0 }}, // equal lines are sorted by name
	{"cpu", func(a, b Row) int { return cmp.Compare(b.CPUPercent, a.CPUPercent) }},
	{"memory", func(a, b Row) int { return cmp.Compare(b.MemoryBytes, a.MemoryBytes) }},
	{"pids", func(a, b Row) int { return cmp.Compare(b.Pids, a.Pids) }},
	{"requests", func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.RequestsPerSecond, a.RequestsPerSecond), cmp.Compare(b.Requests, a.Requests))
	}},
	{"denials", func(a, b Row) int { return cmp.Compare(b.Denials, a.Denials) }},
}

// columns are the columns of the table, the name last.
var columns = []struct {
	title string
	order string // the name of its order; empty for none
	text  func(r Row) string
	level func(r Row) level // nil: plain
}{
	{"CPU%", "cpu", cpuText, func(r Row) level { return levelOf(r.CPUPercent, 50, 90) }},
	{"MEMORY", "memory", func(r Row) string {
		return texts.OfLimit(texts.Bytes(r.MemoryBytes), texts.Bytes(r.MemoryLimit))
	}, func(r Row) level { return nearLimit(r.MemoryBytes, r.MemoryLimit) }},
	{"TASKS", "pids", func(r Row) string { return texts.OfLimit(texts.Count(r.Pids), texts.Count(r.PidsLimit)) },
		func(r Row) level { return nearLimit(r.Pids, r.PidsLimit) }},
	{"CGROUPS", "", func(r Row) string { return texts.Count(r.Cgroups) }, nil},
	{"REQ/S", "requests", func(r Row) string { return fmt.Sprintf("%.1f", r.RequestsPerSecond) }, nil},
	{"DENIED", "denials", func(r Row) string { return fmt.Sprint(r.Denials) },
		func(r Row) level { return levelOf(float64(r.Denials), 1, 0) }},
	{"STATE", "", func(r Row) string { return texts.State(r.Frozen) }, func(r Row) level {
		if r.Frozen {
			return frozen
		}
		return plain
	}},
	{"NAME", "name", func(r Row) string { return texts.Visible(r.Name) }, nil},
}

// level is how much a figure stands out.
type level int

const (
	plain  level = iota
	high         // half a processor, three quarters of a limit, anything denied
	full         // nine tenths of a processor or of a limit
	frozen       // no process of the guest runs
)

// levelOf compares a figure with two thresholds, 0 for none.
func levelOf(n, from, fullFrom float64) level {
	switch {
	case fullFrom > 0 && n >= fullFrom:
		return full
	case n >= from:
		return high
	}
	return plain
}

// nearLimit returns the level of a figure that has a limit, plain without one.
func nearLimit(n, limit int64) level {
	if n < 0 || limit <= 0 {
		return plain
	}
	return levelOf(float64(n)/float64(limit), 0.75, 0.9)
}

func cpuText(r Row) string {
	if r.CPUPercent < 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", r.CPUPercent)
}

// Orders returns the names of the orders.
func Orders() (names []string) {
	for _, o := range orders {
		names = append(names, o.name)
	}
	return names
}

// Sort sorts lines by an index in Orders.
func Sort(rows []Row, by int) {
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(orders[by].compare(a, b), strings.Compare(a.Name, b.Name))
	})
}

// Print prints the table.
func Print(w io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	line := func(text func(i int) string) {
		for i := range columns[:len(columns)-1] {
			fmt.Fprintf(t, "%s\t", text(i))
		}
		fmt.Fprintf(t, "  %s\n", text(len(columns)-1))
	}
	line(func(i int) string { return columns[i].title })
	for _, r := range rows {
		line(func(i int) string { return columns[i].text(r) })
	}
	return t.Flush()
}

// Reader returns a function that looks: it asks the daemon, and makes rows of its answer and the one before. The
// daemon's error is the function's.
func Reader(ctx context.Context, daemon *api.Client) func() ([]Row, error) {
	var before []api.Usage
	at := time.Now()
	return func() ([]Row, error) {
		now, err := daemon.Top(ctx)
		if err != nil {
			return nil, err
		}
		rows := rowsOf(before, now, time.Since(at))
		at, before = time.Now(), now
		return rows, nil
	}
}

// rowsOf makes rows of two answers. A guest that the first one lacks, or that was made again since, has no rates yet.
func rowsOf(before, now []api.Usage, between time.Duration) []Row {
	old := map[string]api.Usage{}
	for _, u := range before {
		old[u.Name] = u
	}
	rows := make([]Row, 0, len(now))
	for _, u := range now {
		r := Row{Usage: u, CPUPercent: -1}
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
