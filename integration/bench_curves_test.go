package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// BenchmarkCurves writes what an operation costs, by the number of guests, of cgroups in a directory, and of directories above, to
// the file named by VCGROUPFS_CURVES: lines of curve, number, operation and median in µs, which .ci/curves.sh draws.
func BenchmarkCurves(b *testing.B) {
	out := os.Stdout
	if name := os.Getenv("VCGROUPFS_CURVES"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		out = f
	}
	point := func(curve string, x int, operation string, median time.Duration) {
		fmt.Fprintf(out, "%s\t%d\t%s\t%.1f\n", curve, x, operation, float64(median.Nanoseconds())/1000)
	}
	curveOfGuests(b, point)
	curveOfTrees(b, "cgroups in a directory", []int{1, 10, 100, 1000, 5000}, siblings, point)
	curveOfTrees(b, "depth", []int{1, 2, 4, 6, 8, 10}, chain, point)
}

type pointFunc func(curve string, x int, operation string, median time.Duration)

// curveOfGuests measures in one guest while others are added.
func curveOfGuests(b *testing.B, point pointFunc) {
	const curve = "guests"
	many := newManyGuests(b, kit.NeedHierarchy(b, kit.OpenHost(b), "pids"), manyGuests)
	d := kit.StartDaemon(b)
	had := 0
	for _, n := range []int{1, 10, 100, 300, manyGuests} {
		took := many.add(b, d, had, n)
		had = n
		point(curve, n, "add a guest", took[len(took)/2])
		point(curve, n, "a connection to the API", connection(b, d))
		for _, op := range treeOps(many.root(0)) {
			point(curve, n, op.name, medianTime(b, 300, op.once))
		}
	}
	many.remove(b, d, 0, had)
	d.Stop(b)
}

// curveOfTrees measures in trees of several sizes, natively and through a view, in turns.
func curveOfTrees(b *testing.B, curve string, sizes []int, makeTree func(top string, n int) (dir string, err error), point pointFunc) {
	hier := kit.NeedHierarchy(b, kit.OpenHost(b), "pids")
	path := kit.NewBoundary(b, strings.ReplaceAll(curve, " ", "-"), hier)
	native := kit.HostDir(hier, path)
	policy := filepath.Join(b.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\ncontrollers: [pids]\nquota: {cgroups: 100000}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	view := kit.MountView(b, "--boundary", path, "--policy", policy).Top(hier)
	b.Cleanup(func() { removeCgroups(b, native) })
	dirs := map[int]string{}
	for _, n := range sizes {
		top := fmt.Sprintf("n%d", n)
		dir, err := makeTree(filepath.Join(native, top), n)
		if err != nil {
			b.Fatal(err)
		}
		dirs[n] = strings.TrimPrefix(dir, native)
	}
	type place struct {
		operation string
		n         int
	}
	took := map[place][]time.Duration{}
	var operations []string
	for round := range 11 {
		for i, n := range sizes {
			for _, kind := range []struct{ name, root string }{{"natively", native}, {"in a view", view}} {
				for _, op := range treeOps(kind.root + dirs[n]) {
					at := place{op.name + " " + kind.name, n}
					if round == 0 && i == 0 {
						operations = append(operations, at.operation)
					}
					took[at] = append(took[at], medianTime(b, 30, op.once))
				}
			}
		}
	}
	for _, operation := range operations {
		for _, n := range sizes {
			all := took[place{operation, n}]
			slices.Sort(all)
			point(curve, n, operation, all[len(all)/2])
		}
	}
}

// siblings makes a directory with n cgroups.
func siblings(top string, n int) (string, error) {
	if err := os.Mkdir(top, 0o755); err != nil {
		return "", err
	}
	for i := range n {
		if err := os.Mkdir(fmt.Sprintf("%s/c%d", top, i), 0o755); err != nil {
			return "", err
		}
	}
	return top, nil
}

// chain makes a directory n levels below another.
func chain(top string, n int) (string, error) {
	dir := top + strings.Repeat("/d", n-1)
	return dir, os.MkdirAll(dir, 0o755)
}

// treeOp is a measured operation.
type treeOp struct {
	name string
	once func() error
}

// treeOps are the measured operations in a directory.
func treeOps(dir string) []treeOp {
	return []treeOp{
		{"open, read, close", func() error { return readOnce(dir + "/" + benchFile) }},
		{"mkdir and rmdir", func() error {
			if err := unix.Mkdir(dir+"/made", 0o755); err != nil {
				return err
			}
			return unix.Rmdir(dir + "/made")
		}},
	}
}

// medianTime is the median time of n calls.
func medianTime(b *testing.B, n int, once func() error) time.Duration {
	var took []time.Duration
	for range n {
		began := time.Now()
		if err := once(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[n/2]
}
