package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// notifyOps are what is timed under a filter and without one: n times at a view, and beside it.
var notifyOps = []struct {
	name string
	n    int
	run  func(view string) error
}{
	{"statfs of a view", 300, func(view string) error { return unix.Statfs(view, &unix.Statfs_t{}) }},
	{"statfs of a tmpfs", 300, func(string) error { return unix.Statfs("/dev/shm", &unix.Statfs_t{}) }},
	{"open, read and close of a file in a view", 1000, func(view string) error {
		fd, err := unix.Open(filepath.Join(view, kit.Procs), unix.O_RDONLY, 0)
		if err == nil {
			_, err = unix.Read(fd, make([]byte, 64))
			unix.Close(fd)
		}
		return err
	}},
	{"open, read and close of a file beside it", 10000, func(string) error {
		fd, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0)
		if err == nil {
			_, err = unix.Read(fd, make([]byte, 64))
			unix.Close(fd)
		}
		return err
	}},
	{"open and close of a directory", 10000, func(string) error { return openAndClose("/etc", unix.O_DIRECTORY) }},
	{"open and close of /proc/self/cgroup", 300, func(string) error { return openAndClose("/proc/self/cgroup", 0) }},
	{"open and close of /proc/self/mountinfo", 300, func(string) error { return openAndClose("/proc/self/mountinfo", 0) }},
	{"getppid", 100000, func(string) error { unix.Getppid(); return nil }},
}

func openAndClose(path string, flags int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|flags, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// playNotifyBench does all of them for each line that it reads, and prints the nanoseconds of one of each.
func playNotifyBench(view string) error {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		for _, op := range notifyOps {
			began := time.Now()
			for range op.n {
				if err := op.run(view); err != nil {
					return fmt.Errorf("%s: %w", op.name, err)
				}
			}
			fmt.Printf("%d ", time.Since(began).Nanoseconds()/int64(op.n))
		}
		fmt.Println()
	}
	return nil
}

// BenchmarkNotify prints what the filter of "run" costs, what its answers cost, and the same with --proc: medians of rounds in turns, and ratios.
func BenchmarkNotify(b *testing.B) {
	h := kit.OpenHost(b)
	hier := kit.NeedHierarchy(b, h, "pids")
	path := kit.NewBoundary(b, "notify", hier)
	v := kit.MountView(b, "--no-bpf", "--boundary", path, "--controllers", "pids")
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	start := func(cmd *exec.Cmd, dir string) *kit.Helper {
		cmd.Env = append(os.Environ(), kit.RoleVariable+"=notify-bench "+dir)
		cmd.Stderr = os.Stderr
		return kit.StartProcess(b, cmd)
	}
	without := start(exec.Command(self), v.Top(hier))
	args := []string{"run", "--no-bpf", "--privileged", "--controllers", "pids"}
	with := start(exec.Command(kit.Program(b), append(args, "--", self)...), kit.TopOf(kit.GuestView, hier))
	proc := start(exec.Command(kit.Program(b), append(args, "--proc", "--", self)...), kit.TopOf(kit.GuestView, hier))
	guests := []*kit.Helper{without, with, proc}
	var times [3][][]int64
	for range benchRounds {
		for i, g := range guests {
			fmt.Fprintln(g.In)
			row := make([]int64, len(notifyOps))
			for j, word := range strings.Fields(g.Line(b)) {
				fmt.Sscan(word, &row[j])
			}
			times[i] = append(times[i], row)
		}
	}
	median := func(i, op int) float64 {
		var all []int64
		for _, row := range times[i] {
			all = append(all, row[op])
		}
		slices.Sort(all)
		return float64(all[len(all)/2])
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "operation\twithout a filter\tby notification\tratio\twith --proc\tratio")
	for i, op := range notifyOps {
		off, on, proc := median(0, i), median(1, i), median(2, i)
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%s\t%.2f\n", op.name, time.Duration(off), time.Duration(on), on/off, time.Duration(proc), proc/off)
	}
	w.Flush()
	os.Stdout.Write(out.Bytes())
	for _, g := range guests {
		g.In.Close()
		g.Cmd.Wait()
	}
}
