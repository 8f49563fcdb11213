package integration

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// BenchmarkFlood prints what a guest feels of its neighbour's flood: open, read and close of a file in its view, while
// nothing else happens, while the neighbour floods the real cgroups, which is what it costs the machine itself, and while the
// neighbour floods its own view.
func BenchmarkFlood(b *testing.B) {
	h := kit.OpenHost(b)
	cpu, place := kit.FloodPlace(b, h)
	real, good := kit.NewSite(b, h, "flood-bad"), kit.NewSite(b, h, "flood-good")
	d := kit.StartDaemon(b)
	bad, good := d.Add(b, "bad", real), d.Add(b, "good", good)
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "a neighbour's flood of\tquiet p50\tp99\tnatively p50\tp99\tin its view p50\tp99\tp99 to quiet\tto natively\tflooded natively\tin the view")
	for _, kind := range kit.FloodKinds(b) {
		quiet := kit.TimeNeighbour(b, good, 5*time.Second)
		native, nativeDone := underFlood(b, kind, real, good, cpu, place)
		flooded, done := underFlood(b, kind, bad, good, cpu, place)
		fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\t%v\t%v\t%.2f\t%.2f\t%d\t%d\n", kind.Name,
			kit.Quantile(quiet, .5), kit.Quantile(quiet, .99), kit.Quantile(native, .5), kit.Quantile(native, .99), kit.Quantile(flooded, .5), kit.Quantile(flooded, .99),
			float64(kit.Quantile(flooded, .99))/float64(kit.Quantile(quiet, .99)), float64(kit.Quantile(flooded, .99))/float64(kit.Quantile(native, .99)), nativeDone, done)
	}
	quiet := kit.TimeNeighbour(b, good, 5*time.Second)
	f := kit.StartFlood(b, kit.FloodKind{Name: "held descriptors", Does: "hold", Processes: 4, Threads: 4}, bad, cpu, place)
	f.Begun(b) // no thread gets another one
	held := kit.TimeNeighbour(b, good, 5*time.Second)
	for _, h := range f.Helpers {
		h.In.Close()
		h.Cmd.Wait()
	}
	fmt.Fprintf(w, "descriptors, held until ENFILE\t%v\t%v\t-\t-\t%v\t%v\t%.2f\t-\t-\t-\n", kit.Quantile(quiet, .5), kit.Quantile(quiet, .99), kit.Quantile(held, .5),
		kit.Quantile(held, .99), float64(kit.Quantile(held, .99))/float64(kit.Quantile(quiet, .99)))
	w.Flush()
	os.Stdout.Write(out.Bytes())
	d.Stop(b)
}

// BenchmarkFloodTransport prints what a guest of "mount" feels of its neighbour's flood, by both transports, in turns.
func BenchmarkFloodTransport(b *testing.B) {
	enableURing(b)
	h := kit.OpenHost(b)
	cpu, place := kit.FloodPlace(b, h)
	transports := []string{"classic", "io_uring"}
	real := kit.NewSite(b, h, "flood-native")
	bad, good := map[string]kit.Site{}, map[string]kit.Site{}
	for _, transport := range transports {
		for name, sites := range map[string]map[string]kit.Site{"bad": bad, "good": good} {
			s := kit.NewSite(b, h, "flood-"+name+"-"+strings.ReplaceAll(transport, "_", ""))
			v := kit.MountView(b, "--transport", transport, "--boundary", s.Path, "--controllers", kit.SiteControllers)
			sites[transport] = s.Through(v.Dir)
		}
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "a neighbour's flood of\ttransport\tquiet p50\tp99\tnatively p50\tp99\tin its view p50\tp99\tp99 to natively\tflooded natively\tin the view")
	for _, kind := range kit.FloodKinds(b) {
		for _, transport := range transports {
			quiet := kit.TimeNeighbour(b, good[transport], 5*time.Second)
			native, nativeDone := underFlood(b, kind, real, good[transport], cpu, place)
			flooded, done := underFlood(b, kind, bad[transport], good[transport], cpu, place)
			fmt.Fprintf(w, "%s\t%s", kind.Name, transport)
			for _, took := range [][]time.Duration{quiet, native, flooded} {
				fmt.Fprintf(w, "\t%v\t%v", rounded(kit.Quantile(took, .5)), rounded(kit.Quantile(took, .99)))
			}
			fmt.Fprintf(w, "\t%.2f\t%d\t%d\n", float64(kit.Quantile(flooded, .99))/float64(kit.Quantile(native, .99)), nativeDone, done)
		}
	}
	w.Flush()
	os.Stdout.Write(out.Bytes())
}

// underFlood is how long the neighbour's operations take while a site is flooded, and how often the flood did its own.
func underFlood(b *testing.B, kind kit.FloodKind, s, good kit.Site, cpu *host.Hierarchy, place string) ([]time.Duration, int) {
	f := kit.StartFlood(b, kind, s, cpu, place)
	f.Begun(b)
	took := kit.TimeNeighbour(b, good, 5*time.Second)
	total := 0
	for _, n := range f.End(b) {
		total += n
	}
	return took, total
}
