package conn

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The client of a benchmark is a process of its own, as guests are: this binary, told by the environment what to do.
const (
	benchOp   = "CONN_BENCH_OP"
	benchPath = "CONN_BENCH_PATH"
	benchN    = "CONN_BENCH_N"
)

var benchOps = map[string]func(path string) func() error{
	"open+read+close": func(path string) func() error {
		return func() error { _, err := readFile(path); return err }
	},
	"pread": func(path string) func() error {
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		buf := make([]byte, 4096)
		return func() error {
			if err == nil {
				_, err = unix.Pread(fd, buf, 0)
			}
			return err
		}
	},
	"stat": func(path string) func() error {
		var st unix.Stat_t
		return func() error { return unix.Stat(path, &st) }
	},
}

// benchClient measures and prints the mean, the median and the 99th percentile in nanoseconds.
func benchClient() {
	runtime.LockOSThread()
	n, _ := strconv.Atoi(os.Getenv(benchN))
	op := benchOps[os.Getenv(benchOp)](os.Getenv(benchPath))
	took := make([]time.Duration, n)
	start := time.Now()
	for i := range took {
		before := time.Now()
		if err := op(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		took[i] = time.Since(before)
	}
	mean := time.Since(start) / time.Duration(n)
	slices.Sort(took)
	fmt.Println(int64(mean), int64(took[n/2]), int64(took[n*99/100]))
	os.Exit(0)
}

func benchmarkOps(b *testing.B, dir string) {
	for _, clients := range []int{1, 3} { // 3: more than the processors of a small machine
		for _, op := range []string{"open+read+close", "pread", "stat"} {
			b.Run(fmt.Sprintf("%s/clients=%d", op, clients), func(b *testing.B) { benchmarkOp(b, op, dir, clients) })
		}
	}
}

func benchmarkOp(b *testing.B, op, dir string, clients int) {
	results := make(chan []byte, clients)
	for range clients {
		go func() {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), benchOp+"="+op, benchPath+"="+dir+"/plain", benchN+"="+strconv.Itoa(b.N))
			out, err := cmd.CombinedOutput()
			if err != nil {
				b.Errorf("%v: %s", err, out)
			}
			results <- out
		}()
	}
	var sum [3]float64
	for range clients {
		var mean, p50, p99 float64
		fmt.Sscan(string(<-results), &mean, &p50, &p99)
		sum[0], sum[1], sum[2] = sum[0]+mean, sum[1]+p50, sum[2]+p99
	}
	for i, unit := range []string{"ns/op", "p50-ns", "p99-ns"} {
		b.ReportMetric(sum[i]/float64(clients), unit)
	}
}

// BenchmarkConn has no timeouts, so that each stat is a LOOKUP.
func BenchmarkConn(b *testing.B) {
	_, dir := mountTiny(b, newTiny(), nil)
	benchmarkOps(b, dir)
}

// BenchmarkServer is go-fuse's own server on the same file system.
func BenchmarkServer(b *testing.B) {
	dir := b.TempDir()
	s, err := fuse.NewServer(newTiny(), dir, &fuse.MountOptions{FsName: tinyName, Name: "tinytype", DirectMount: true, MaxWrite: MaxWrite})
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve()
	defer s.Unmount()
	benchmarkOps(b, dir)
}
