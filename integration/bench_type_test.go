package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// typeRounds is how often the programs are loaded and taken away again. In each of these states every operation is timed
// in many short batches, and the lowest counts: on a machine that is emulated, and has others beside it, all else is what
// those cost.
const typeRounds = 7

// typeOp is a row of the table: a batch does it n times, in the view where it needs one.
type typeOp struct {
	name    string
	batches int
	n       int
	run     func(b *testing.B, view, other string)
}

var typeOps = []typeOp{
	{"statfs of a view", 400, 1, func(b *testing.B, view, _ string) { statfsOnce(b, view) }},
	{"statfs of a tmpfs", 40, 100, func(b *testing.B, _, other string) { statfsOnce(b, other) }},
	{"open, read, close", 40, 50, func(b *testing.B, _, other string) {
		var buf [64]byte
		fd, err := unix.Open(filepath.Join(other, "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = unix.Read(fd, buf[:])
			unix.Close(fd)
		}
		if err != nil {
			b.Fatal(err)
		}
	}},
	{"getppid", 40, 1000, func(*testing.B, string, string) { unix.Getppid() }},
}

func statfsOnce(b *testing.B, path string) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkType prints what the programs of statfs cost the calls that they follow, and others: with and without them
// in turns.
func BenchmarkType(b *testing.B) {
	kit.NeedType(b)
	hier := kit.NeedHierarchy(b, kit.OpenHost(b), "pids")
	path := kit.NewBoundary(b, "type-bench", hier)
	tmpfs := b.TempDir()
	if err := unix.Mount("type-bench", tmpfs, "tmpfs", 0, ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Unmount(tmpfs, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(tmpfs, "file"), []byte("content"), 0o644); err != nil {
		b.Fatal(err)
	}
	args := []string{"--boundary", path, "--controllers", "pids"}
	times := map[string]*[2][]float64{}
	for _, op := range typeOps {
		times[op.name] = &[2][]float64{}
	}
	for range typeRounds {
		for with, flags := range [][]string{{"--no-bpf"}, nil} { // a server of the same age each time
			withServer(b, slices.Concat(args, flags), func(dir string) { typeRound(b, times, with, kit.TopOf(dir, hier), tmpfs) })
		}
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "operation\toff\tby BPF\tBPF/off\tmedian of off")
	for _, op := range typeOps {
		off, on := times[op.name][0], times[op.name][1]
		slices.Sort(off)
		slices.Sort(on)
		median := time.Duration(off[len(off)/2])
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%s\n",
			op.name, time.Duration(off[0]), time.Duration(on[0]), on[0]/off[0], median)
	}
	w.Flush()
	os.Stdout.Write(out.Bytes())
}

func typeRound(b *testing.B, times map[string]*[2][]float64, with int, view, other string) {
	for _, op := range typeOps {
		for range op.batches {
			began := time.Now()
			for range op.n {
				op.run(b, view, other)
			}
			took := float64(time.Since(began).Nanoseconds()) / float64(op.n)
			times[op.name][with] = append(times[op.name][with], took)
		}
	}
}

// withServer has a view, and its server the programs unless args say otherwise, for as long as do lasts.
func withServer(b *testing.B, args []string, do func(dir string)) {
	before, dir := kit.TypePrograms(), kit.PublicDir(b)
	cmd := exec.Command(kit.Program(b), append(append([]string{"mount"}, args...), dir)...)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	kit.Eventually(b, "the view", func() bool { return kit.IsFUSE(dir) })
	do(dir)
	cmd.Process.Signal(unix.SIGTERM)
	if err := cmd.Wait(); err != nil {
		b.Error(err)
	}
	kit.WantNoPrograms(b, before)
}

// BenchmarkTypeRun prints what programs of its own add to the start of "run": each with and without, in turns.
func BenchmarkTypeRun(b *testing.B) {
	kit.NeedType(b)
	kit.NeedHierarchy(b, kit.OpenHost(b), "pids")
	times := map[string][]float64{}
	for range typeRounds {
		for name, flags := range map[string][]string{"without": {"--no-bpf"}, "with its own": nil} {
			began := time.Now()
			args := slices.Concat([]string{"run", "--controllers", "pids"}, flags, []string{"--", "true"})
			if out, err := exec.Command(kit.Program(b), args...).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			times[name] = append(times[name], float64(time.Since(began)))
		}
	}
	for _, name := range []string{"without", "with its own"} {
		slices.Sort(times[name])
		fmt.Printf("run -- true, %s programs: %v\n", name, time.Duration(times[name][typeRounds/2]).Round(time.Millisecond))
	}
}

// BenchmarkTypeHolder prints what the programs cost the daemon: the holder's memory, and the time until it answers.
func BenchmarkTypeHolder(b *testing.B) {
	kit.NeedType(b)
	for _, c := range []struct {
		name  string
		flags []string
	}{{"without", []string{"--no-bpf"}}, {"with", nil}} {
		began := time.Now()
		d := kit.StartDaemonWith(b, kit.Program(b), c.flags)
		took := time.Since(began)
		time.Sleep(time.Second)
		fmt.Printf("serve %s programs: answers after %v, resident memory of the holder %s\n",
			c.name, took.Round(time.Millisecond), kit.ResidentMemory(b, d.Cmd.Process.Pid))
		d.Stop(b)
	}
}
