package integration

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// BenchmarkOCI prints what the hook adds to a container's start and end: the runtime runs a container that ends at once, without the
// hook and with it, in turn.
func BenchmarkOCI(b *testing.B) {
	const rounds = 40
	runtime := kit.NeedRuntime(b, "runc")
	d := kit.StartDaemon(b)
	with := kit.NewBundle(b, d, runtime, "bench-with", "threads ")
	without := kit.NewBundle(b, d, runtime, "bench-without", "threads ")
	delete(without.Config, "hooks")
	took := map[*kit.Bundle][]time.Duration{}
	for _, each := range []*kit.Bundle{with, without} {
		each.Write(b)
	}
	for range rounds {
		for _, each := range []*kit.Bundle{without, with} {
			began := time.Now()
			if out, err := each.Command(runtime).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			took[each] = append(took[each], time.Since(began))
		}
	}
	for _, each := range took {
		slices.Sort(each)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "a container of runc, from start to end\tmedian\tlongest")
	fmt.Fprintf(w, "without the hook\t%v\t%v\n", kit.Quantile(took[without], .5), kit.Quantile(took[without], 1))
	fmt.Fprintf(w, "with it\t%v\t%v\n", kit.Quantile(took[with], .5), kit.Quantile(took[with], 1))
	fmt.Fprintf(w, "added\t%v\t\n", kit.Quantile(took[with], .5)-kit.Quantile(took[without], .5))
	fmt.Fprintf(w, "with to without\t%.2f\t\n", float64(kit.Quantile(took[with], .5))/float64(kit.Quantile(took[without], .5)))
	w.Flush()
	d.Stop(b)
}
