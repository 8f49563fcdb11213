package integration

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// BenchmarkFlood prints what a guest feels of its neighbour's flood: open, read and close of a file in its view, while
// nothing else happens, while the neighbour floods the real cgroups, which is what it costs the machine itself, and while the
// neighbour floods its own view.
func BenchmarkFlood(b *testing.B) {
	h := openHost(b)
	cpu, place := floodPlace(b, h)
	real, good := newSite(b, h, "flood-bad"), newSite(b, h, "flood-good")
	d := startDaemon(b)
	bad, good := d.add(b, "bad", real), d.add(b, "good", good)
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "a neighbour's flood of\tquiet p50\tp99\tnatively p50\tp99\tin its view p50\tp99\tp99 to quiet\tto natively\tflooded natively\tin the view")
	for _, kind := range floodKinds(b) {
		quiet := neighbour(b, good, 5*time.Second)
		native, nativeDone := underFlood(b, kind, real, good, cpu, place)
		flooded, done := underFlood(b, kind, bad, good, cpu, place)
		fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\t%v\t%v\t%.2f\t%.2f\t%d\t%d\n", kind.name,
			quantile(quiet, .5), quantile(quiet, .99), quantile(native, .5), quantile(native, .99), quantile(flooded, .5), quantile(flooded, .99),
			float64(quantile(flooded, .99))/float64(quantile(quiet, .99)), float64(quantile(flooded, .99))/float64(quantile(native, .99)), nativeDone, done)
	}
	quiet := neighbour(b, good, 5*time.Second)
	f := startFlood(b, floodKind{name: "held descriptors", does: "hold", processes: 4, threads: 4}, bad, cpu, place)
	f.begun(b) // no thread gets another one
	held := neighbour(b, good, 5*time.Second)
	for _, h := range f.helpers {
		h.in.Close()
		h.cmd.Wait()
	}
	fmt.Fprintf(w, "descriptors, held until ENFILE\t%v\t%v\t-\t-\t%v\t%v\t%.2f\t-\t-\t-\n", quantile(quiet, .5), quantile(quiet, .99), quantile(held, .5),
		quantile(held, .99), float64(quantile(held, .99))/float64(quantile(quiet, .99)))
	w.Flush()
	os.Stdout.Write(out.Bytes())
	d.stop(b)
}

// underFlood is how long the neighbour's operations take while a site is flooded, and how often the flood did its own.
func underFlood(b *testing.B, kind floodKind, s, good site, cpu *host.Hierarchy, place string) ([]time.Duration, int) {
	f := startFlood(b, kind, s, cpu, place)
	f.begun(b)
	took := neighbour(b, good, 5*time.Second)
	total := 0
	for _, n := range f.end(b) {
		total += n
	}
	return took, total
}
