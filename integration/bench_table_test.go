package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
	"github.com/vcgroupfs/vcgroupfs/integration/kit/uring"
)

// benchRounds is how often each operation is timed on each tree, in turns, so that what else the machine does hits all
// alike.
const benchRounds = 21

// manyCgroups is how many cgroups the listing benchmark walks.
const manyCgroups = 1000

// benchOp is one row of the table: once does the operation a single time in the tree, n times in a round. Several
// clients do it at the same time, each with a number of its own.
type benchOp struct {
	name string
	n    int
	once func(b *testing.B, t *benchTree, client, i int)
}

// benchTree is one way to reach the same cgroup: natively, through a view, classic or by io_uring, through the view of an older
// build, through LXCFS.
type benchTree struct {
	name string
	root string // the boundary, as this way shows it
	file int    // kept open
	pids []int  // a process of the boundary for each client
}

// benchClients are the numbers of clients that each operation is timed with.
var benchClients = []int{1, 2}

// BenchmarkTable prints one table of all trees in the same run: the median of each with the 99th percentile as a multiple of it, the
// view's ratios to the others, and the spread of its rounds' medians. An older build takes part if VCGROUPFS_BEFORE names its program,
// LXCFS if VCGROUPFS_LXCFS does, the view by io_uring if the kernel has it.
func BenchmarkTable(b *testing.B) {
	trees, server := benchTrees(b)
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "operation\tclients")
	for _, t := range trees {
		fmt.Fprintf(w, "\t%s", t.name)
	}
	for _, t := range trees[:len(trees)-1] {
		fmt.Fprintf(w, "\tview/%s", t.name)
	}
	fmt.Fprintln(w, "\tspread of view")
	for _, op := range benchOps() {
		for _, clients := range benchClients {
			m := benchOne(b, op, trees, clients)
			view := m["view"]
			fmt.Fprintf(w, "%s\t%d", op.name, clients)
			for _, t := range trees {
				fmt.Fprintf(w, "\t%s ×%.1f", rounded(m[t.name].median),
					float64(m[t.name].p99)/float64(m[t.name].median))
			}
			for _, t := range trees[:len(trees)-1] {
				fmt.Fprintf(w, "\t%.2f", float64(view.median)/float64(m[t.name].median))
			}
			fmt.Fprintf(w, "\t%s to %s\n", rounded(view.least), rounded(view.most))
		}
	}
	w.Flush()
	fmt.Fprintf(&out, "resident memory of the server of one view: %s\n", kit.ResidentMemory(b, server))
	os.Stdout.Write(out.Bytes())
}

// rounded leaves a time four digits or so.
func rounded(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(10 * time.Nanosecond)
	}
	return d.Round(10 * time.Microsecond)
}

// benchTimes are the times of one operation in one tree; least and most are the lowest and the highest median of a round.
type benchTimes struct{ median, p99, least, most time.Duration }

// benchOne times one operation in turns, by tree.
func benchOne(b *testing.B, op benchOp, trees []*benchTree, clients int) map[string]benchTimes {
	all, medians := map[string][]time.Duration{}, map[string][]time.Duration{}
	for range benchRounds {
		for _, t := range trees {
			round := benchRound(b, op, t, clients)
			all[t.name] = append(all[t.name], round...)
			slices.Sort(round)
			medians[t.name] = append(medians[t.name], round[len(round)/2])
		}
	}
	out := map[string]benchTimes{}
	for name, d := range all {
		slices.Sort(d)
		out[name] = benchTimes{d[len(d)/2], d[len(d)*99/100], slices.Min(medians[name]), slices.Max(medians[name])}
	}
	return out
}

// benchRound returns the time of each operation of a round, by threads that begin together.
func benchRound(b *testing.B, op benchOp, t *benchTree, clients int) (all []time.Duration) {
	times := make([][]time.Duration, clients)
	var begin, wg sync.WaitGroup
	begin.Add(clients)
	for c := range clients {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begin.Done()
			begin.Wait()
			for i := range op.n {
				start := time.Now()
				op.once(b, t, c, i)
				times[c] = append(times[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	return slices.Concat(times...)
}

const benchFile = "pids.current"

func benchOps() []benchOp {
	return []benchOp{
		{"read a kept-open statistics file", 2000, func(b *testing.B, t *benchTree, _, _ int) {
			var buf [64]byte
			if _, err := unix.Pread(t.file, buf[:], 0); err != nil {
				b.Error(t.name, err)
			}
		}},
		{"stat of a known file", 2000, func(b *testing.B, t *benchTree, _, _ int) {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(t.root, benchFile), &st); err != nil {
				b.Error(t.name, err)
			}
		}},
		{"open, read, close", 500, func(b *testing.B, t *benchTree, _, _ int) {
			if err := readOnce(filepath.Join(t.root, benchFile)); err != nil {
				b.Error(t.name, err)
			}
		}},
		{"list and read one file in each of 1,000 cgroups", 1, func(b *testing.B, t *benchTree, _, _ int) {
			read, err := readBelow(filepath.Join(t.root, "many"))
			if err != nil {
				b.Error(t.name, err)
			}
			if read != manyCgroups {
				b.Errorf("%s: read %d cgroups, want %d", t.name, read, manyCgroups)
			}
		}},
		{"mkdir and rmdir", 40, func(b *testing.B, t *benchTree, client, _ int) {
			path := filepath.Join(t.root, fmt.Sprintf("made-by-%s-%d", t.name, client))
			if err := unix.Mkdir(path, 0o755); err != nil {
				b.Error(t.name, err)
			}
			if err := unix.Rmdir(path); err != nil {
				b.Error(t.name, err)
			}
		}},
		{"move a process", 40, func(b *testing.B, t *benchTree, client, i int) {
			path := filepath.Join(t.root, []string{"from", "to"}[i%2], "cgroup.procs")
			if err := os.WriteFile(path, []byte(strconv.Itoa(t.pids[client])), 0); err != nil {
				b.Error(t.name, err)
			}
		}},
	}
}

// readBelow lists a directory and reads a file of each cgroup in it, until one cannot be read.
func readBelow(dir string) (read int, err error) {
	names, err := os.ReadDir(dir)
	for _, e := range names {
		if e.IsDir() {
			if err := readOnce(filepath.Join(dir, e.Name(), benchFile)); err != nil {
				return read, err
			}
			read++
		}
	}
	return read, err
}

// readOnce opens, reads and closes a file.
func readOnce(path string) error {
	var buf [64]byte
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Pread(fd, buf[:], 0)
	return err
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

// benchTrees makes the trees, and returns the server of the view. Each has a boundary of its own: a view follows what others change in
// its boundary.
func benchTrees(b *testing.B) (trees []*benchTree, server int) {
	mount, v1 := benchHost(b)
	if !v1 {
		if err := os.WriteFile(filepath.Join(mount, "cgroup.subtree_control"), []byte("+pids"), 0); err != nil {
			b.Fatal(err)
		}
	}
	add := func(name string, open func(boundary string) string) {
		boundary := fmt.Sprintf("vcgroupfs-test-%d-bench-%s", os.Getpid(), name)
		t := &benchTree{name: name, pids: benchBoundary(b, filepath.Join(mount, boundary), v1)}
		t.root = open(boundary)
		fd, err := unix.Open(filepath.Join(t.root, benchFile), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { unix.Close(fd) })
		t.file = fd
		trees = append(trees, t)
	}
	view := func(program string, args ...string) func(boundary string) string {
		return func(boundary string) (dir string) {
			if dir, server = benchView(b, program, "/"+boundary, args...); v1 {
				dir = filepath.Join(dir, filepath.Base(mount))
			}
			return dir
		}
	}
	add("native", func(boundary string) string { return filepath.Join(mount, boundary) })
	if program := os.Getenv("VCGROUPFS_LXCFS"); program != "" && v1 {
		lxcfs := benchLXCFS(b, program)
		add("lxcfs", func(boundary string) string { return filepath.Join(lxcfs, "cgroup/pids", boundary) })
	}
	if program := os.Getenv("VCGROUPFS_BEFORE"); program != "" {
		add("before", view(program))
	}
	if restore, err := uring.Enable(); err == nil {
		b.Cleanup(restore)
		add("io_uring", view(kit.Program(b), "--transport", "io_uring"))
	}
	add("view", view(kit.Program(b), "--transport", "classic"))
	return trees, server
}

// benchBoundary makes a boundary with 1,000 cgroups, and a process for each client, whose numbers it returns.
func benchBoundary(b *testing.B, dir string, v1 bool) (pids []int) {
	must := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	must(os.Mkdir(dir, 0o755))
	b.Cleanup(func() { removeCgroups(b, dir) })
	for _, d := range []string{"from", "to", "many"} {
		must(os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	if !v1 {
		must(os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+pids"), 0))
		must(os.WriteFile(filepath.Join(dir, "many", "cgroup.subtree_control"), []byte("+pids"), 0))
	}
	for i := range manyCgroups {
		must(os.Mkdir(filepath.Join(dir, "many", fmt.Sprintf("c%04d", i)), 0o755))
	}
	for range slices.Max(benchClients) {
		sleeper := exec.Command("sleep", "3600")
		must(sleeper.Start())
		b.Cleanup(func() { sleeper.Process.Kill(); sleeper.Wait() })
		must(os.WriteFile(filepath.Join(dir, "from", "cgroup.procs"), []byte(strconv.Itoa(sleeper.Process.Pid)), 0))
		pids = append(pids, sleeper.Process.Pid)
	}
	return pids
}

// benchView mounts a view and returns its directory and the server's pid.
func benchView(b *testing.B, program, boundary string, args ...string) (string, int) {
	dir := b.TempDir()
	cmd := exec.Command(program, slices.Concat([]string{"mount"}, args, []string{"--boundary", boundary, "--controllers", "pids", dir})...)
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
