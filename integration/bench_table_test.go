package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// benchRounds is how often each operation is timed on each tree, in turns, so that what else the machine does hits all
// alike; the median counts.
const benchRounds = 21

// manyCgroups is how many cgroups the listing benchmark walks.
const manyCgroups = 1000

// benchOp is one row of the table: run does n operations in the tree at root.
type benchOp struct {
	name string
	n    int
	run  func(b *testing.B, t *benchTree, n int)
}

// benchTree is one way to reach the same cgroup: natively, through a view, through LXCFS.
type benchTree struct {
	name  string
	root  string // the boundary, as this way shows it
	file  int    // kept open
	pid   int    // a process of the boundary
	extra string // name of the directory this way makes
}

// BenchmarkTable prints one table, native, view and LXCFS in the same run: medians, and ratios to native. LXCFS takes part
// when VCGROUPFS_LXCFS names its program.
func BenchmarkTable(b *testing.B) {
	trees, server := benchTrees(b)
	ops := benchOps()
	median := map[string]map[string]float64{}
	for _, op := range ops {
		median[op.name] = benchOne(b, op, trees)
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "operation")
	for _, t := range trees {
		fmt.Fprintf(w, "\t%s", t.name)
	}
	fmt.Fprint(w, "\tview/native")
	if len(trees) > 2 {
		fmt.Fprint(w, "\tview/lxcfs")
	}
	fmt.Fprintln(w)
	for _, op := range ops {
		m := median[op.name]
		fmt.Fprint(w, op.name)
		for _, t := range trees {
			fmt.Fprintf(w, "\t%s", time.Duration(m[t.name])*time.Nanosecond)
		}
		fmt.Fprintf(w, "\t%.2f", m["view"]/m["native"])
		if len(trees) > 2 {
			fmt.Fprintf(w, "\t%.2f", m["view"]/m["lxcfs"])
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	fmt.Fprintf(&out, "resident memory of the server of one view: %s\n", kit.ResidentMemory(b, server))
	os.Stdout.Write(out.Bytes())
}

// benchOne times one operation in turns and returns the median nanoseconds of one, by tree.
func benchOne(b *testing.B, op benchOp, trees []*benchTree) map[string]float64 {
	times := map[string][]float64{}
	for range benchRounds {
		for _, t := range trees {
			start := time.Now()
			op.run(b, t, op.n)
			times[t.name] = append(times[t.name], float64(time.Since(start).Nanoseconds())/float64(op.n))
		}
	}
	out := map[string]float64{}
	for name, ns := range times {
		slices.Sort(ns)
		out[name] = ns[len(ns)/2]
	}
	return out
}

const benchFile = "pids.current"

func benchOps() []benchOp {
	return []benchOp{
		{"read a kept-open statistics file", 2000, func(b *testing.B, t *benchTree, n int) {
			var buf [64]byte
			for range n {
				if _, err := unix.Pread(t.file, buf[:], 0); err != nil {
					b.Fatal(t.name, err)
				}
			}
		}},
		{"stat of a known file", 2000, func(b *testing.B, t *benchTree, n int) {
			path := filepath.Join(t.root, benchFile)
			var st unix.Stat_t
			for range n {
				if err := unix.Lstat(path, &st); err != nil {
					b.Fatal(t.name, err)
				}
			}
		}},
		{"open, read, close", 500, func(b *testing.B, t *benchTree, n int) {
			path := filepath.Join(t.root, benchFile)
			for range n {
				readOnce(b, t, path)
			}
		}},
		{"list and read one file in each of 1,000 cgroups", 1, func(b *testing.B, t *benchTree, _ int) {
			dir := filepath.Join(t.root, "many")
			names, err := os.ReadDir(dir)
			if err != nil {
				b.Fatal(t.name, err)
			}
			read := 0
			for _, e := range names {
				if e.IsDir() {
					readOnce(b, t, filepath.Join(dir, e.Name(), benchFile))
					read++
				}
			}
			if read != manyCgroups {
				b.Fatalf("%s: read %d cgroups, want %d", t.name, read, manyCgroups)
			}
		}},
		{"mkdir and rmdir", 20, func(b *testing.B, t *benchTree, n int) {
			path := filepath.Join(t.root, t.extra)
			for range n {
				if err := unix.Mkdir(path, 0o755); err != nil {
					b.Fatal(t.name, err)
				}
				if err := unix.Rmdir(path); err != nil {
					b.Fatal(t.name, err)
				}
			}
		}},
		{"move a process", 20, func(b *testing.B, t *benchTree, n int) {
			pid := []byte(strconv.Itoa(t.pid))
			for i := range n {
				path := filepath.Join(t.root, []string{"from", "to"}[i%2], "cgroup.procs")
				if err := os.WriteFile(path, pid, 0); err != nil {
					b.Fatal(t.name, err)
				}
			}
		}},
	}
}

func readOnce(b *testing.B, t *benchTree, path string) {
	var buf [64]byte
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(t.name, path, err)
	}
	if _, err := unix.Pread(fd, buf[:], 0); err != nil {
		b.Fatal(t.name, path, err)
	}
	unix.Close(fd)
}

// benchHost finds the pids hierarchy: a v1 directory, or the v2 root.
func benchHost(b *testing.B) (mount string, v1 bool) {
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) != nil {
			continue
		}
		if st.Type == unix.CGROUP_SUPER_MAGIC {
			return dir, true
		}
		if st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, false
		}
	}
	b.Skip("machine: no cgroup hierarchy has the pids controller")
	return "", false
}

// benchTrees makes a boundary with 1,000 cgroups and a process, and opens it in each way.
func benchTrees(b *testing.B) ([]*benchTree, int) {
	mount, v1 := benchHost(b)
	name := fmt.Sprintf("vcgroupfs-test-%d-bench", os.Getpid())
	boundary := filepath.Join(mount, name)
	must := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	must(os.Mkdir(boundary, 0o755))
	b.Cleanup(func() { removeCgroups(b, boundary) })
	if !v1 {
		must(os.WriteFile(filepath.Join(mount, "cgroup.subtree_control"), []byte("+pids"), 0))
		must(os.WriteFile(filepath.Join(boundary, "cgroup.subtree_control"), []byte("+pids"), 0))
	}
	for _, d := range []string{"from", "to", "many"} {
		must(os.Mkdir(filepath.Join(boundary, d), 0o755))
	}
	if !v1 {
		must(os.WriteFile(filepath.Join(boundary, "many", "cgroup.subtree_control"), []byte("+pids"), 0))
	}
	for i := range manyCgroups {
		must(os.Mkdir(filepath.Join(boundary, "many", fmt.Sprintf("c%04d", i)), 0o755))
	}
	sleeper := exec.Command("sleep", "3600")
	must(sleeper.Start())
	b.Cleanup(func() { sleeper.Process.Kill(); sleeper.Wait() })
	must(os.WriteFile(filepath.Join(boundary, "from", "cgroup.procs"), []byte(strconv.Itoa(sleeper.Process.Pid)), 0))

	trees := []*benchTree{{name: "native", root: boundary}}
	view, server := benchView(b, "/"+name)
	if v1 {
		view = filepath.Join(view, filepath.Base(mount))
	}
	trees = append(trees, &benchTree{name: "view", root: view})
	if program := os.Getenv("VCGROUPFS_LXCFS"); program != "" && v1 {
		trees = append(trees, &benchTree{name: "lxcfs", root: filepath.Join(benchLXCFS(b, program), "cgroup/pids", name)})
	}
	for _, t := range trees {
		fd, err := unix.Open(filepath.Join(t.root, benchFile), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(err)
		b.Cleanup(func() { unix.Close(fd) })
		t.file, t.pid, t.extra = fd, sleeper.Process.Pid, "made-by-"+t.name
	}
	return trees, server
}

// benchView mounts a view and returns its directory and the server's pid.
func benchView(b *testing.B, boundary string) (string, int) {
	dir := b.TempDir()
	cmd := exec.Command(kit.Program(b), "mount", "--boundary", boundary, "--controllers", "pids", dir)
	startMounted(b, cmd, dir)
	return dir, cmd.Process.Pid
}

// benchLXCFS starts LXCFS on a directory of its own.
func benchLXCFS(b *testing.B, program string) string {
	dir, run := b.TempDir(), b.TempDir()
	cmd := exec.Command(program, "-f", "-p", filepath.Join(run, "pid"), dir)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+os.Getenv("VCGROUPFS_LXCFS_LIBS"))
	startMounted(b, cmd, dir)
	return dir
}

// startMounted starts a server and waits until it is mounted at dir.
func startMounted(b *testing.B, cmd *exec.Cmd, dir string) {
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	b.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-exited
		}
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	for range 1000 {
		if kit.IsFUSE(dir) {
			return
		}
		select {
		case err := <-exited:
			exited <- err
			b.Fatalf("%s ended before it was mounted: %v", cmd.Path, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	b.Fatalf("%s is not mounted after 10 s", cmd.Path)
}

// removeCgroups removes a cgroup that the benchmark made, children first.
func removeCgroups(b *testing.B, dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroups(b, filepath.Join(dir, e.Name()))
		}
	}
	var err error
	for range 100 {
		if err = unix.Rmdir(dir); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Errorf("cannot remove %s: %v", dir, err)
}
