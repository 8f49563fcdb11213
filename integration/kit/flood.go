package kit

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// FloodKind is what a guest does too much of.
type FloodKind struct {
	Name, Does         string
	Processes, Threads int
	Least              int      // times that each thread does it
	Allowed            []string // errnos
	UID                int
	Join               func(pid int) error // where else its processes belong; nil for nowhere
}

// FloodKinds are the floods of a guest.
func FloodKinds(t testing.TB) []FloodKind {
	return []FloodKind{
		{Name: "threads that open, read and close", Does: "open", Processes: Scaled(t, 20, 2), Threads: 500, Least: 1,
			Allowed: []string{"ok", "ENFILE", "EAGAIN"}},
		{Name: "mkdir and rmdir", Does: "mkdir", Processes: Scaled(t, 20, 2), Threads: 50, Least: 10,
			Allowed: []string{"ok", "EAGAIN"}},
		{Name: "writes of 4 and 64 KiB", Does: "write", Processes: Scaled(t, 20, 2), Threads: 50, Least: 10,
			Allowed: []string{"EINVAL", "E2BIG"}},
	}
}

// Flood is the processes of one.
type Flood struct {
	kind    FloodKind
	Helpers []*Helper
}

// FloodPlace makes a cgroup in which all of a flood together has the weight of an eighth of a process: thousands of
// runnable threads would starve everybody with no daemon at all. With the least weight that there is, they would get
// nothing themselves beside other work. (A quota would not do: what Linux needs to throttle 10,000 threads and to let
// them go again, period by period, everybody feels.)
func FloodPlace(t testing.TB, h *host.Host) (hier *host.Hierarchy, path string) {
	return WeighedPlace(t, h, "128", "12")
}

// WeighedPlace makes a cgroup of a weight, as v1 and as v2 say it.
func WeighedPlace(t testing.TB, h *host.Host, shares, weight string) (hier *host.Hierarchy, path string) {
	t.Helper()
	hier = NeedHierarchy(t, h, "cpu")
	path = NewBoundary(t, t.Name()+"-flooders", hier)
	file, value := "cpu.shares", shares
	if hier.Version == hierarchy.V2 {
		file, value = "cpu.weight", weight
	}
	if err := hier.WriteFile(path, file, value); err != nil {
		t.Fatal(err)
	}
	return hier, path
}

// StartFlood floods the cgroups f0, f1… of a site, one process each. They begin when all have their threads: what one
// has yet to make, the flood of another would starve.
func StartFlood(t testing.TB, kind FloodKind, s Site, cpu *host.Hierarchy, place string) *Flood {
	t.Helper()
	f := &Flood{kind: kind}
	for i := range kind.Processes {
		name := "f" + strconv.Itoa(i)
		err := s.Pids.Create(s.Path+"/"+name, 0o755)
		if err == nil && s.Pids.Version == hierarchy.V2 {
			err = s.Pids.Enable(s.Path+"/"+name, "pids")
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=flood %s %d %d %s", RoleVariable, kind.Does, kind.Threads,
			kind.Least, s.At(name)),
			"GOGC=off", "GODEBUG=asyncpreemptoff=1")
		cmd.Stderr = os.Stderr
		if kind.UID != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(kind.UID), Gid: uint32(kind.UID)}}
		}
		f.Helpers = append(f.Helpers, StartProcess(t, cmd))
	}
	for _, h := range f.Helpers {
		if got := f.line(t, h); got != "ready\n" {
			t.Fatalf("a process of the flood says %q", got)
		}
		err := cpu.Attach(place, h.PID())
		if err == nil && kind.Join != nil {
			err = kind.Join(h.PID())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range f.Helpers {
		fmt.Fprintln(h.In)
	}
	return f
}

// Begun waits until every process says that it floods, or what it holds.
func (f *Flood) Begun(t testing.TB) (lines []string) {
	t.Helper()
	for _, h := range f.Helpers {
		lines = append(lines, f.line(t, h))
	}
	return lines
}

// End ends the flood and says how often each errno came.
func (f *Flood) End(t testing.TB) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, h := range f.Helpers {
		h.In.Close()
	}
	for _, h := range f.Helpers {
		AddCounts(got, f.line(t, h))
		h.Cmd.Wait()
	}
	for name := range got {
		if !slices.Contains(f.kind.Allowed, name) {
			t.Errorf("%s: %d times %s", f.kind.Name, got[name], name)
		}
	}
	return got
}

// AddCounts adds what a process of a flood prints at its end: each errno and how often it came.
func AddCounts(to map[string]int, line string) {
	words := strings.Fields(line)
	for i := 0; i+1 < len(words); i += 2 {
		var n int
		fmt.Sscan(words[i+1], &n)
		to[words[i]] += n
	}
}

// line reads a line of a process of the flood, which is slow: thousands of threads share half a processor.
func (f *Flood) line(t testing.TB, h *Helper) string {
	t.Helper()
	read := make(chan string, 1)
	go func() {
		s, _ := h.Out.ReadString('\n')
		read <- s
	}()
	select {
	case s := <-read:
		return s
	case <-time.After(6 * Patience):
		t.Fatalf("%s: the process %d says nothing: it hangs", f.kind.Name, h.PID())
		return ""
	}
}

// TimeNeighbour opens, reads and closes a file for a while, on a thread of its own, and says how long each time took.
func TimeNeighbour(t testing.TB, s Site, wait time.Duration) []time.Duration {
	t.Helper()
	var took []time.Duration
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		path := s.At("pids.current")
		for end := time.Now().Add(wait); ; {
			began := time.Now()
			if began.After(end) {
				done <- nil
				return
			}
			if _, err := Slurp(path); err != nil {
				done <- err
				return
			}
			took = append(took, time.Since(began))
			time.Sleep(200 * time.Microsecond) // it is no flood
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the neighbour got %v", err)
		}
	case <-time.After(wait + Patience):
		t.Fatal("the neighbour hangs")
	}
	slices.Sort(took)
	return took
}

// Quantile is one of sorted times.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(math.Ceil(q*float64(len(sorted))))-1)]
}
