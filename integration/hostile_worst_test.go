package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// A guest, or somebody who looks at its view, does its worst: with a quota of a tenth of a processor, for five minutes in all
// under `make bench` and for some seconds in the tests. What it costs the neighbour and the daemon is printed as ratios.

// Who does the worst.
const (
	theGuest     = "the guest"            // in its boundary
	anotherGuest = "another guest's root" // in another boundary, through a bind mount of the same view
	aUser        = "a user of the host"   // outside any boundary, without privileges
)

// nobody is the user.
const nobody = 65534

// worstKind is a way, and who does it.
type worstKind struct {
	who string
	kit.FloodKind
}

// worstKinds are the ways to do it to a view. Each has few threads: what thousands of them cost is TestFlood's.
func worstKinds() (all []worstKind) {
	add := func(who, name, does string, allowed ...string) {
		k := kit.FloodKind{Name: name, Does: does, Processes: 2, Threads: 4, Least: 1, Allowed: append(allowed, "ok", "EAGAIN")}
		if who == aUser {
			k.UID = nobody
		}
		all = append(all, worstKind{who, k})
	}
	add(theGuest, "mkdir and rmdir", "mkdir")
	add(theGuest, "attributes", "attributes", "ENOSPC")
	add(theGuest, "times and owners", "times", "ENOSPC")
	for _, who := range []string{theGuest, anotherGuest, aUser} {
		add(who, "names that are not there", "names", "ENOENT")
		add(who, "listing", "list", "ENFILE")
		add(who, "opens that are refused", "refused", "EPERM", "EACCES")
		add(who, "files held open", "hoard", "ENFILE", "EMFILE")
		watches := []string{"ENOSPC", "EMFILE"}
		if who == aUser { // who may not read the files of mode 0200 that v2 has
			watches = append(watches, "EACCES")
		}
		add(who, "watches", "watch", watches...)
	}
	return all
}

// tenth makes a cgroup that has a tenth of a processor.
func tenth(t testing.TB, h *host.Host) (hier *host.Hierarchy, path string) {
	t.Helper()
	hier = kit.NeedHierarchy(t, h, "cpu")
	path = kit.NewBoundary(t, t.Name()+"-tenth", hier)
	giveTenth(t, hier, path)
	return hier, path
}

func giveTenth(t testing.TB, hier *host.Hierarchy, path string) {
	t.Helper()
	files := [][2]string{{"cpu.cfs_period_us", "100000"}, {"cpu.cfs_quota_us", "10000"}}
	if hier.Version == hierarchy.V2 {
		files = [][2]string{{"cpu.max", "10000 100000"}}
	}
	for _, f := range files {
		if err := hier.WriteFile(path, f[0], f[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// processorTime is what processes have had of the processors.
func processorTime(pids ...int) (sum time.Duration) {
	const tick = 10 * time.Millisecond // USER_HZ
	for _, pid := range pids {
		text := kit.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		var user, system int64
		fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
		if len(fields) > 12 {
			fmt.Sscan(fields[11], &user)
			fmt.Sscan(fields[12], &system)
		}
		sum += time.Duration(user+system) * tick
	}
	return sum
}

// worst is what one way cost.
type worst struct {
	who, kind, did string
	during         time.Duration // p99 of the neighbour
	guest, server  time.Duration // of the processors
	kernel         int64         // memory charged to the daemon, more than before
}

// worstCase is where all of them do it.
type worstCase struct {
	d               *kit.Daemon
	pay             kit.Account
	cpu             *host.Hierarchy
	at              string   // a tenth of a processor
	bad, good, more kit.Site // the view that it is done to, the neighbour's, and that of another guest
	bound           string   // a bind mount of the view
	wait            time.Duration
	quiet           []time.Duration // what the neighbour's requests took while nothing was done, before each of the ways
}

// measure says what it costs that something is done, for a while: start begins it, and says by which processes and how it is ended.
func (x *worstCase) measure(t testing.TB, who, kind string, start func() (pids []int, end func() string)) worst {
	t.Helper()
	w := worst{who: who, kind: kind}
	worker, fd := x.d.Worker(t)
	defer unix.Close(fd)
	x.quiet = append(x.quiet, kit.TimeNeighbour(t, x.good, x.wait/2)...)
	before := x.pay.Settled(t)
	pids, end := start()
	guest, server := processorTime(pids...), processorTime(worker)
	w.during = kit.Quantile(kit.TimeNeighbour(t, x.good, x.wait), .99)
	w.guest, w.server = processorTime(pids...)-guest, processorTime(worker)-server
	w.did = end()
	w.kernel = x.pay.Least(t, before)
	return w
}

// flood has it done to the view, in a cgroup that the host has made there.
func (x *worstCase) flood(t testing.TB, kind worstKind, name string) worst {
	t.Helper()
	within := x.bad
	within.Path, within.Dir = filepath.Join(x.bad.Path, name), x.bad.At(name)
	if err := x.bad.Pids.Create(within.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	if x.bad.Pids.Version == hierarchy.V2 {
		for _, of := range []string{x.bad.Path, within.Path} {
			if err := x.bad.Pids.Enable(of, "pids"); err != nil {
				t.Fatal(err)
			}
		}
	}
	at := x.at
	in := map[string]kit.Site{theGuest: x.bad, anotherGuest: x.more}[kind.who]
	switch {
	case in.Path == "":
	case x.cpu == in.Pids:
		at = in.Path
	default:
		kind.Join = func(pid int) error { return in.Pids.Attach(in.Path, pid) }
	}
	if kind.who == anotherGuest {
		within.Dir = filepath.Join(x.bound, name)
	}
	return x.measure(t, kind.who, kind.Name, func() (pids []int, end func() string) {
		f := kit.StartFlood(t, kind.FloodKind, within, x.cpu, at)
		f.Begun(t)
		for _, h := range f.Helpers {
			pids = append(pids, h.PID())
		}
		return pids, func() string { return fmt.Sprint(f.End(t)) }
	})
}

// user has a user of the host ask the daemon for something, as often as it can.
func (x *worstCase) user(t testing.TB, kind, role string) worst {
	t.Helper()
	return x.measure(t, aUser, kind, func() (pids []int, end func() string) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), kit.RoleVariable+"="+role, "GOMAXPROCS=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		h := kit.StartProcess(t, cmd)
		if err := x.cpu.Attach(x.at, h.PID()); err != nil {
			t.Fatal(err)
		}
		if line := h.Line(t); line != "ready" {
			t.Fatalf("%s: %q", kind, line)
		}
		return []int{h.PID()}, func() string {
			h.In.Close()
			return h.Line(t)
		}
	})
}

// doAllWorst has it done in every way, each for the same part of a while, and says what that cost.
func doAllWorst(t testing.TB, all time.Duration) (rows []worst, said string) {
	t.Helper()
	const address = "127.0.0.1:17925"
	h := kit.OpenHost(t)
	x := &worstCase{}
	x.cpu, x.at = tenth(t, h)
	x.d = kit.StartDaemonWith(t, kit.Program(t), []string{"--metrics", address, "--group", strconv.Itoa(nobody)})
	if err := os.Chmod(x.d.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	x.pay = kit.AccountFor(t, h, x.d)
	x.bad, x.good = x.d.Add(t, "bad", kit.NewSite(t, h, "worst-bad")), x.d.Add(t, "good", kit.NewSite(t, h, "worst-good"))
	x.more = x.d.Add(t, "more", kit.NewSite(t, h, "worst-more"))
	if x.cpu == x.bad.Pids {
		giveTenth(t, x.cpu, x.bad.Path)
		giveTenth(t, x.cpu, x.more.Path)
	}
	x.bound = kit.PublicDir(t)
	if err := unix.Mount(x.bad.Dir, x.bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unbind := func() { unix.Unmount(x.bound, unix.MNT_DETACH) }
	t.Cleanup(unbind)

	kinds := worstKinds()
	x.wait = all * 2 / 3 / time.Duration(len(kinds)+2) // and half as long while nothing is done
	for i, kind := range kinds {
		rows = append(rows, x.flood(t, kind, "k"+strconv.Itoa(i)))
	}
	rows = append(rows, x.user(t, "the metrics, by 32 connections", "scrape "+address))
	rows = append(rows, x.user(t, "streams of events, kept", "streams "+x.d.Socket))

	slices.Sort(x.quiet)
	quiet := kit.Quantile(x.quiet, .99) // of all of them: in a few seconds of a quiet machine it is anything from 0.3 to 1.7 ms
	var out bytes.Buffer
	tab := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "a tenth of a processor\tdoes\tneighbour's p99\tto quiet\tprocessor: its\tdaemon's\tratio\tkernel memory\tanswers")
	for _, w := range rows {
		fmt.Fprintf(tab, "%s\t%s\t%v\t%.2f\t%v\t%v\t%.2f\t%d KiB\t%v\n", w.who, w.kind,
			w.during, float64(w.during)/float64(quiet),
			w.guest, w.server, w.server.Seconds()/max(w.guest.Seconds(), 0.01), w.kernel>>10, w.did)
	}
	tab.Flush()
	load := strings.Join(strings.Fields(kit.ReadFile("/proc/loadavg"))[:3], " ")
	unbind()
	x.d.Stop(t)
	return rows, fmt.Sprintf("for %v each, the neighbour's quiet p99 %v, the machine's load in the end %s:\n%s", x.wait, quiet, load, out.String())
}

// TestWorst: what a guest or a stranger does costs the daemon no more of the kernel's memory than is allowed.
func TestWorst(t *testing.T) {
	rows, said := doAllWorst(t, 12*time.Second)
	t.Log(said)
	for _, w := range rows {
		if w.kernel > kit.MaxKernelMemory {
			t.Errorf("%s, %s: the daemon pays for %d bytes more of the kernel's memory, at most %d are allowed",
				w.who, w.kind, w.kernel, kit.MaxKernelMemory)
		}
	}
}

// BenchmarkWorst is TestWorst for five minutes.
func BenchmarkWorst(b *testing.B) {
	_, said := doAllWorst(b, 5*time.Minute)
	fmt.Print(said) // a benchmark's log is cut off after some lines
}
