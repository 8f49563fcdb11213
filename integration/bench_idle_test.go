package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// idleFor is how long BenchmarkIdle counts what an idle daemon does.
const idleFor = 20 * time.Second

// idleFigures are what a daemon costs while nobody asks anything of it. Memory is resident, of holder and worker together,
// so the pages of the program count twice; per guest that does not matter.
type idleFigures struct {
	emptyKiB, emptyPSS     float64
	wakeups, emptyWakeups  float64       // each second
	ran                    time.Duration // each second
	idleKiB, readKiB       float64       // of a guest
	laterKiB, laterPSS     float64       // of a guest, a minute after it was read
	threads                float64
	removedKiB, removedPSS float64
}

// BenchmarkIdle prints what a daemon with 1,000 guests costs while nothing happens: wake-ups, time of processors, memory
// before and after one file of each guest was read. An older build takes part if VCGROUPFS_BEFORE names its program.
func BenchmarkIdle(b *testing.B) {
	h := kit.OpenHost(b)
	many := newManyGuests(b, kit.NeedHierarchy(b, h, "pids"), manyGuests)
	now := idle(b, many, kit.Program(b))
	was := idleFigures{}
	if before := os.Getenv("VCGROUPFS_BEFORE"); before != "" {
		was = idle(b, many, before)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	row := func(what, format string, before, now float64) {
		fmt.Fprintf(w, "%s\t"+format+"\t", what, now)
		if was.emptyKiB > 0 {
			fmt.Fprintf(w, format+"\t%.2f\t", before, now/before)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "1,000 guests\tnow\tbefore\tnow/before\t")
	row("empty daemon, resident", "%.0f KiB", was.emptyKiB, now.emptyKiB)
	row("empty daemon, proportional", "%.0f KiB", was.emptyPSS, now.emptyPSS)
	row("wake-ups a second, empty", "%.1f", was.emptyWakeups, now.emptyWakeups)
	row("wake-ups a second", "%.1f", was.wakeups, now.wakeups)
	row("processor, of a second", "%.2f ms", was.ran.Seconds()*1e3, now.ran.Seconds()*1e3)
	row("threads", "%.0f", was.threads, now.threads)
	row("a guest, idle, resident", "%.1f KiB", was.idleKiB, now.idleKiB)
	row("a guest, read once, resident", "%.1f KiB", was.readKiB, now.readKiB)
	row("a minute later, resident", "%.1f KiB", was.laterKiB, now.laterKiB)
	row("a minute later, proportional", "%.1f KiB", was.laterPSS, now.laterPSS)
	row("no guest again, resident", "%.0f KiB", was.removedKiB, now.removedKiB)
	row("no guest again, proportional", "%.0f KiB", was.removedPSS, now.removedPSS)
	w.Flush()
}

// idle measures one build.
func idle(b *testing.B, many *guestsOfOne, program string) (f idleFigures) {
	d := kit.StartDaemonWith(b, program, []string{"--watchdog", "5s"})
	empty := d.SettledUsage()
	f.emptyKiB, f.emptyPSS = float64(empty.RSSKiB), float64(empty.PSSKiB)
	f.emptyWakeups = float64(d.EffortWithin(b, idleFor/2).Wakeups) / (idleFor / 2).Seconds()
	many.add(b, d, 0, manyGuests)
	guest := func(rss, before int) float64 { return float64(rss-before) / manyGuests }
	full := d.SettledUsage()
	f.idleKiB, f.threads = guest(full.RSSKiB, empty.RSSKiB), float64(full.Threads)
	effort := d.EffortWithin(b, idleFor)
	f.wakeups, f.ran = float64(effort.Wakeups)/idleFor.Seconds(), effort.Ran/time.Duration(idleFor.Seconds())
	many.each(b, 0, manyGuests, func(i int) error {
		_, err := kit.Slurp(filepath.Join(many.root(i), benchFile))
		return err
	})
	read := d.SettledUsage()
	f.readKiB = guest(read.RSSKiB, empty.RSSKiB)
	time.Sleep(time.Minute)
	later := d.Usage()
	f.laterKiB, f.laterPSS = guest(later.RSSKiB, empty.RSSKiB), guest(later.PSSKiB, empty.PSSKiB)
	many.remove(b, d, 0, manyGuests)
	again := d.SettledUsage()
	f.removedKiB, f.removedPSS = float64(again.RSSKiB), float64(again.PSSKiB)
	d.Stop(b)
	return f
}
