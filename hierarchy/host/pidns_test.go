package host

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// bothWays runs a test with the ioctls and with what stands for them before Linux 6.11.
func bothWays(t *testing.T, test func(t *testing.T, c *pidNamespaces)) {
	ways := []bool{true}
	if havePidnsIoctl(t) {
		ways = []bool{false, true}
	}
	for _, scan := range ways {
		t.Run(fmt.Sprintf("scan=%t", scan), func(t *testing.T) {
			c := &pidNamespaces{scan: scan}
			t.Cleanup(c.close)
			test(t, c)
		})
	}
}

// havePidnsIoctl says whether the kernel has the ioctls (Linux 6.11).
func havePidnsIoctl(t testing.TB) bool {
	f, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, errno := pidnsIoctl(f.Fd(), unix.NS_GET_PID_FROM_PIDNS, os.Getpid())
	return errno != unix.ENOTTY
}

func namespaceOf(t testing.TB, c *pidNamespaces, tid int) *PidNamespace {
	t.Helper()
	ns, err := c.of(tid)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestOwnPidNamespace(t *testing.T) {
	bothWays(t, func(t *testing.T, c *pidNamespaces) {
		pid, tids := startRole(t, "threads 2", 0)
		ns := namespaceOf(t, c, tids[0])
		if !ns.Own() {
			t.Fatal("a thread of a child is said to be in another pid namespace")
		}
		if again := namespaceOf(t, c, pid); again != ns {
			t.Error("two tasks of one namespace got two of them")
		}
		for _, x := range []struct {
			nr     int
			thread bool
			want   int
		}{{pid, false, pid}, {pid, true, pid}, {tids[1], true, tids[1]}, {tids[1], false, pid}} {
			if got, err := ns.ToHost(x.nr, x.thread); err != nil || got != x.want {
				t.Errorf("ToHost(%d, %t) = %d, %v; want %d", x.nr, x.thread, got, err, x.want)
			}
			if got := ns.FromHost([]int{x.nr}, x.thread); got[0] != x.want {
				t.Errorf("FromHost(%d, %t) = %d, want %d", x.nr, x.thread, got[0], x.want)
			}
		}
	})
}

func TestNestedPidNamespaces(t *testing.T) {
	for generations := 1; generations <= 3; generations++ {
		t.Run(strconv.Itoa(generations), func(t *testing.T) {
			top, inner := startRole(t, "nest "+strconv.Itoa(generations), 0)
			bothWays(t, func(t *testing.T, c *pidNamespaces) {
				chain := []int{top} // host pids, from the one in the server's own namespace inward
				for range generations {
					chain = append(chain, childOf(t, chain[len(chain)-1]))
				}
				testNested(t, c, chain, inner)
			})
		})
	}
}

// testNested looks from every namespace of a chain at every process of it. Each but the first is number 1 of its own.
func testNested(t *testing.T, c *pidNamespaces, chain, inner []int) {
	last := len(chain) - 1
	for depth, pid := range chain {
		ns := namespaceOf(t, c, pid)
		if ns.Own() != (depth == 0) {
			t.Errorf("depth %d: Own() = %t", depth, ns.Own())
		}
		for of, host := range chain {
			nr := ns.FromHost([]int{host}, false)[0]
			switch {
			case of < depth && nr != 0:
				t.Errorf("depth %d sees process %d of depth %d as %d", depth, host, of, nr)
			case of >= depth:
				if back, err := ns.ToHost(nr, false); err != nil || back != host {
					t.Errorf("depth %d calls %d of depth %d %d, which is back %d, %v", depth, host, of, nr, back, err)
				}
			}
			if of == depth && depth > 0 && nr != 1 {
				t.Errorf("depth %d: its first process is %d, want 1", depth, nr)
			}
		}
	}
	ns := namespaceOf(t, c, chain[last])
	for _, nr := range inner[1:] { // threads, in their own numbers
		tid, err := ns.ToHost(nr, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := ns.FromHost([]int{tid, tid}, true); !slices.Equal(got, []int{nr, nr}) {
			t.Errorf("thread %d came back as %v", nr, got)
		}
		if pid, err := ns.ToHost(nr, false); err != nil || pid != chain[last] {
			t.Errorf("thread %d belongs to process %d, %v; want %d", nr, pid, err, chain[last])
		}
		if namespaceOf(t, c, tid) != ns {
			t.Errorf("thread %d is said to be in another namespace than its process", tid)
		}
	}
}

func TestPidNumbersThatAreNobodys(t *testing.T) {
	top, _ := startRole(t, "nest 1", 0)
	sibling, _ := startRole(t, "nest 1", 0)
	inner, other := childOf(t, top), childOf(t, sibling)
	bothWays(t, func(t *testing.T, c *pidNamespaces) {
		ns := namespaceOf(t, c, inner)
		for _, nr := range []int{0, -1, math.MinInt32, math.MaxInt32, 1<<32 + 1, other} {
			if got, err := ns.ToHost(nr, true); !errors.Is(err, unix.ESRCH) {
				t.Errorf("ToHost(%d) = %d, %v; want ESRCH", nr, got, err)
			}
		}
		hidden := []int{0, -1, 1<<32 + inner, other, os.Getpid(), top}
		if got := ns.FromHost(hidden, false); slices.ContainsFunc(got, func(nr int) bool { return nr != 0 }) {
			t.Errorf("FromHost(%v) = %v, want nothing visible", hidden, got)
		}
		for _, tid := range []int{0, -1, math.MaxInt32} {
			if _, err := c.of(tid); !errors.Is(err, unix.ESRCH) {
				t.Errorf("pid namespace of %d: %v, want ESRCH", tid, err)
			}
		}
	})
}

// A zombie has its number until it is reaped, and so has its namespace.
func TestPidOfZombie(t *testing.T) {
	pid, reap := startSleep(t)
	makeZombie(t, pid)
	bothWays(t, func(t *testing.T, c *pidNamespaces) {
		ns := namespaceOf(t, c, pid)
		if got, err := ns.ToHost(pid, false); err != nil || got != pid {
			t.Errorf("ToHost of a zombie = %d, %v", got, err)
		}
	})
	reap()
	bothWays(t, func(t *testing.T, c *pidNamespaces) {
		if got, err := namespaceOf(t, c, os.Getpid()).ToHost(pid, false); !errors.Is(err, unix.ESRCH) {
			t.Errorf("ToHost of a reaped process = %d, %v; want ESRCH", got, err)
		}
	})
}

// unshare(CLONE_NEWPID) is for children; the caller reads and writes numbers as before (pid_namespaces(7)).
func TestUnshareKeepsNamespace(t *testing.T) {
	_, tids := startRole(t, "unshared", 0)
	bothWays(t, func(t *testing.T, c *pidNamespaces) {
		if !namespaceOf(t, c, tids[0]).Own() {
			t.Error("a thread that unshared its children's pid namespace is said to have left its own")
		}
	})
}

func TestPidNamespaceOutlivesItsTasks(t *testing.T) {
	c := &pidNamespaces{}
	var ns *PidNamespace
	t.Run("alive", func(t *testing.T) {
		top, _ := startRole(t, "nest 1", 0)
		ns = namespaceOf(t, c, childOf(t, top))
	})
	if _, err := ns.ToHost(1, false); !errors.Is(err, unix.ESRCH) {
		t.Errorf("ToHost(1) in a dead namespace: %v, want ESRCH", err)
	}
	c.close()
	if _, err := ns.ToHost(1, false); !errors.Is(err, os.ErrClosed) {
		t.Errorf("ToHost after the host was closed: %v, want os.ErrClosed", err)
	}
	if got := ns.FromHost([]int{os.Getpid()}, false); got[0] != 0 {
		t.Errorf("FromHost after the host was closed: %v", got)
	}
	if _, err := c.of(os.Getpid()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a new namespace after the host was closed: %v", err)
	}
}

func TestPidNamespacesAreBounded(t *testing.T) {
	c := &pidNamespaces{}
	t.Cleanup(c.close)
	own := namespaceOf(t, c, os.Getpid())
	for i := range uint64(3 * maxPidNamespaces) { // names of namespaces that there are not
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.keep(&PidNamespace{file: f, inode: i + 1}); err != nil {
			t.Fatal(err)
		}
		if i%8 == 0 && namespaceOf(t, c, os.Getpid()) != own {
			t.Fatal("the namespace in use was forgotten")
		}
	}
	if n := len(c.entries); n != maxPidNamespaces {
		t.Errorf("%d namespaces are kept, want %d", n, maxPidNamespaces)
	}
}

func TestParsePidNumbers(t *testing.T) {
	const status = "Name:\tNSpid:\t7\nTgid:\t40\nGroups:\t0 1 \nNStgid:\t40\t5\t1\nNSpid:\t41\t6\t2\nThreads:\t3\n"
	n := parsePidNumbers([]byte(status))
	if !slices.Equal(n.pids, []int{41, 6, 2}) || !slices.Equal(n.tgids, []int{40, 5, 1}) || n.threads != 3 {
		t.Errorf("got %+v", n)
	}
}

func benchmarkNested(b *testing.B, scan bool) (*PidNamespace, int) {
	top, _ := startRole(b, "nest 1", 0)
	c := &pidNamespaces{scan: scan}
	b.Cleanup(c.close)
	pid := childOf(b, top)
	return namespaceOf(b, c, pid), pid
}

func BenchmarkToHost(b *testing.B) {
	for _, scan := range []bool{!havePidnsIoctl(b), true} {
		b.Run(fmt.Sprintf("scan=%t", scan), func(b *testing.B) {
			ns, _ := benchmarkNested(b, scan)
			for b.Loop() {
				ns.ToHost(1, false)
			}
		})
	}
}

func BenchmarkFromHost(b *testing.B) {
	const many = 100
	for _, scan := range []bool{!havePidnsIoctl(b), true} {
		b.Run(fmt.Sprintf("scan=%t", scan), func(b *testing.B) {
			ns, pid := benchmarkNested(b, scan)
			for b.Loop() {
				ns.FromHost(slices.Repeat([]int{pid}, many), false)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/many, "ns/pid")
		})
	}
}

func FuzzPidNumbers(f *testing.F) {
	f.Add([]byte("Name:\tx\nNStgid:\t40\t5\nNSpid:\t41\t6\nThreads:\t3\n"))
	f.Add([]byte("NSpid\nNSpid:\n:\nThreads:\t99999999999999999999\n"))
	f.Fuzz(func(t *testing.T, status []byte) { parsePidNumbers(status) })
}

func BenchmarkPidNamespaceOf(b *testing.B) {
	_, pid := benchmarkNested(b, false)
	c := &pidNamespaces{}
	b.Cleanup(c.close)
	for b.Loop() {
		c.of(pid)
	}
}
