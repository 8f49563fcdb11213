package integration

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// cgroupsBelow is how many cgroups each guest of BenchmarkScale has below its boundary.
const cgroupsBelow = 10

// BenchmarkScale prints what VCGROUPFS_GUESTS guests cost one daemon, at a tenth of them, at half and at all: each has ten cgroups, which are
// listed and read once. It says how long a killed worker's guests wait for the next one, too.
func BenchmarkScale(b *testing.B) {
	n, err := strconv.Atoi(os.Getenv("VCGROUPFS_GUESTS"))
	if err != nil {
		b.Skip("machine: VCGROUPFS_GUESTS names no number of guests")
	}
	many := newManyGuests(b, kit.NeedHierarchy(b, kit.OpenHost(b), "pids"), n)
	d := kit.StartDaemonWith(b, kit.Program(b), []string{"--max-guests", strconv.Itoa(n)})
	empty := d.SettledUsage()
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "guests\tcgroups\tadd, median\tlongest\tmemory of a guest\tread once\tdescriptors of a guest\twatches\tconnection\topen, read, close\tworker replaced in")
	from := 0
	for _, to := range []int{n / 10, n / 2, n} {
		took := many.add(b, d, from, to)
		idle := d.SettledUsage()
		many.makeBelow(b, from, to)
		many.each(b, 0, to, func(i int) error { return many.walk(i) })
		used := d.SettledUsage()
		fmt.Fprintf(w, "%d\t%d\t%v\t%v\t%.1f KiB\t%.1f KiB\t%.2f\t%d\t%v\t%v\t%v\n", to, to*(cgroupsBelow+1), took[len(took)/2], took[len(took)-1],
			float64(idle.RSSKiB-empty.RSSKiB)/float64(to), float64(used.RSSKiB-empty.RSSKiB)/float64(to),
			float64(used.FDs-empty.FDs)/float64(to), watchesOf(d.Pids()), connection(b, d), many.latency(b), replaced(b, d, many, to))
		from = to
	}
	w.Flush()
	fmt.Fprintf(&out, "no guest: %v\n", empty)
	os.Stdout.Write(out.Bytes())
	many.remove(b, d, 0, n)
	d.Stop(b)
}

// makeBelow makes cgroups in the boundaries of guests.
func (g *guestsOfOne) makeBelow(b *testing.B, from, to int) {
	for i := from; i < to; i++ {
		for k := range cgroupsBelow {
			if err := g.hier.Create(fmt.Sprintf("%s/%s/c%d", g.path, guestName(i), k), 0o755); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// walk lists a guest's cgroups and reads a file of each.
func (g *guestsOfOne) walk(i int) error {
	_, err := readBelow(g.root(i))
	return err
}

// replaced kills the worker and returns how long the last guest waits for an answer of the next one.
func replaced(b *testing.B, d *kit.Daemon, g *guestsOfOne, guests int) time.Duration {
	before := d.Ready(b)
	began := time.Now()
	if err := unix.Kill(before.Pid, unix.SIGKILL); err != nil {
		b.Fatal(err)
	}
	if err := g.walk(guests - 1); err != nil {
		b.Fatal(err)
	}
	took := time.Since(began).Round(time.Millisecond)
	kit.Eventually(b, "another worker", func() bool { info, err := d.Info(); return err == nil && info.Restarts > before.Restarts })
	return took
}

// watchesOf returns the number of inotify watches of processes.
func watchesOf(pids []int) (n int) {
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			raw, _ := os.ReadFile(dir + "/" + e.Name())
			n += strings.Count(string(raw), "inotify wd:")
		}
	}
	return n
}
