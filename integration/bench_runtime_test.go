package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// build is a program that takes part in a benchmark, with a number of other guests of its daemon.
type build struct {
	name, path string
	guests     int
}

// builds are the program under test, and before it an older one if VCGROUPFS_BEFORE names its file.
func builds(b *testing.B) (all []build) {
	b.Helper()
	if before := os.Getenv("VCGROUPFS_BEFORE"); before != "" {
		path, err := filepath.Abs(before)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, build{name: "before", path: path})
	}
	return append(all, build{name: "now", path: kit.AbsProgram(b)})
}

// BenchmarkOCI prints what the hook adds to a container's start and end, with each build's own daemon and hook: the runtime runs a
// container that ends at once, without the hook and with it, in turn. What the hook adds is a difference of neighbours, since what the
// machine does besides changes slowly. With VCGROUPFS_GUESTS a daemon that has so many guests already takes part. A container without the hook that is not measured comes before each that is: kernel and daemon
// go on with the end of a container while the next one starts.
func BenchmarkOCI(b *testing.B) {
	const rounds = 40
	runtime := kit.NeedRuntime(b, "runc")
	all := builds(b)
	if n, err := strconv.Atoi(os.Getenv("VCGROUPFS_GUESTS")); err == nil {
		all = append(all, build{name: "crowded", path: kit.AbsProgram(b), guests: n})
	}
	without, with, added := make([][]time.Duration, len(all)), make([][]time.Duration, len(all)), make([][]time.Duration, len(all))
	bundles := make([][2]*kit.Bundle, len(all))
	for i, p := range all {
		d := kit.StartDaemonOf(b, p.path)
		defer d.Stop(b)
		if p.guests > 0 {
			newManyGuests(b, kit.NeedHierarchy(b, kit.OpenHost(b), "pids"), p.guests).add(b, d, 0, p.guests)
		}
		bundles[i] = [2]*kit.Bundle{kit.NewBundle(b, d, runtime, "bench-without-"+p.name, "threads "),
			kit.NewBundle(b, d, runtime, "bench-with-"+p.name, "threads ")}
		delete(bundles[i][0].Config, "hooks")
		for _, each := range bundles[i] {
			each.CallHook(p.path)
			each.Write(b)
		}
	}
	for range rounds {
		for i := range all {
			var took [2]time.Duration
			for k, bundle := range bundles[i] {
				runOnce(b, runtime, bundles[i][0])
				took[k] = runOnce(b, runtime, bundle)
			}
			without[i], with[i], added[i] = append(without[i], took[0]), append(with[i], took[1]), append(added[i], took[1]-took[0])
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "a container of runc, from start to end\twithout the hook\twith it\tadded\twith to without")
	for i, p := range all {
		for _, took := range [][]time.Duration{without[i], with[i], added[i]} {
			slices.Sort(took)
		}
		plain, hooked := kit.Quantile(without[i], .5), kit.Quantile(with[i], .5)
		fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%.2f\n", p.name, plain, hooked, kit.Quantile(added[i], .5), float64(hooked)/float64(plain))
	}
	printRatios(w, all, added)
	w.Flush()
}

func runOnce(b *testing.B, runtime string, bundle *kit.Bundle) time.Duration {
	b.Helper()
	began := time.Now()
	if out, err := bundle.Command(runtime).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return time.Since(began)
}

// printRatios prints the ratio of each build's median to that of the build before it. The times are sorted.
func printRatios(w *tabwriter.Writer, all []build, took [][]time.Duration) {
	for i := 1; i < len(all); i++ {
		ratio := float64(kit.Quantile(took[i], .5)) / float64(kit.Quantile(took[i-1], .5))
		fmt.Fprintf(w, "%s to %s\t%.2f\n", all[i].name, all[i-1].name, ratio)
	}
}

// BenchmarkVersion prints what the shortest command takes, and so each call of a hook at least: the start of the program, and its end.
func BenchmarkVersion(b *testing.B) {
	const rounds = 300
	all := builds(b)
	took, faults := make([][]time.Duration, len(all)), make([]int64, len(all))
	for range rounds {
		for i, p := range all {
			cmd := exec.Command(p.path, "version")
			began := time.Now()
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(began))
			faults[i] = cmd.ProcessState.SysUsage().(*syscall.Rusage).Minflt
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "version\tmedian\tp99\tpage faults")
	for i, p := range all {
		slices.Sort(took[i])
		fmt.Fprintf(w, "%s\t%v\t%v\t%d\n", p.name, kit.Quantile(took[i], .5), kit.Quantile(took[i], .99), faults[i])
	}
	printRatios(w, all, took)
	w.Flush()
}
