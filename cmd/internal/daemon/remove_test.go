package daemon

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// sleeper starts a process, which ends with the test at the latest.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// processRecord returns the record of a guest with a process.
func processRecord(t *testing.T, name string, pid int) record {
	t.Helper()
	start, err := host.StartOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	return record{Name: name, Spec: api.GuestSpec{Pid: pid, Target: "/" + name}, PidStart: start}
}

// TestMayRemove: a guest is removed by its maker, by force, or by anybody once its process has ended.
func TestMayRemove(t *testing.T) {
	x := newParts(t)
	hand, hook, nri := api.Maker{By: api.ByHand}, api.Maker{By: api.ByHook, Of: "/a"}, api.Maker{By: api.ByNRI, Of: "/a"}
	living := processRecord(t, "lives", sleeper(t).Process.Pid)
	living.Maker = &hook
	dead := living
	dead.PidStart++
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for what, c := range map[string]struct {
		r     record
		by    api.Maker
		force bool
		says  string
	}{
		"by hand":                           {record{Maker: &hand}, hand, false, ""},
		"a declared one":                    {record{Declared: true}, hand, false, "a file of /etc/guests declares it; remove the file"},
		"a declared one, by force":          {record{Declared: true}, hand, true, "a file of /etc/guests declares it"},
		"a hook's, by hand":                 {record{Maker: &hook}, hand, false, "it was made by hook of /a, which removes it; to end its view all the same give --force"},
		"a hook's, by force":                {record{Maker: &hook}, hand, true, ""},
		"a hook's, by itself":               {record{Maker: &hook}, hook, false, ""},
		"a hook's, by another container's":  {record{Maker: &hook}, api.Maker{By: api.ByHook, Of: "/b"}, false, "not the one of this container"},
		"a hook's, by NRI":                  {record{Maker: &hook}, nri, false, "not the one of this container; it was made by hook of /a"},
		"one of old, by a hook":             {record{}, hook, false, ""},
		"self's, by hand":                   {record{Rule: "/lxc/*"}, hand, false, "made by self of /lxc/*"},
		"one whose process lives":           {living, hook, false, "its process"},
		"one whose process lives, by force": {living, hand, true, ""},
		"one whose process has ended":       {dead, nri, false, ""},
	} {
		g := x.newGuest(c.r)
		err := x.mayRemove(canceled, g, c.by, c.force)
		wantFault(t, what, err, c.says)
		if err != nil && fault.Of(err) != fault.Conflict && (fault.Of(err) != fault.Busy || what != "one whose process lives") {
			t.Errorf("%s: kind %d", what, fault.Of(err))
		}
	}
}

// TestAwaitEnd: the last hook of a container waits for its process, which the runtime has killed.
func TestAwaitEnd(t *testing.T) {
	x := newParts(t)
	cmd := sleeper(t)
	g := x.newGuest(processRecord(t, "web", cmd.Process.Pid))
	ended := make(chan error)
	go func() { ended <- g.awaitEnd(t.Context()) }()
	cmd.Process.Kill()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	cmd.Wait()
	if err := g.awaitEnd(t.Context()); err != nil {
		t.Error(err)
	}
	if err := x.newGuest(record{}).awaitEnd(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRemove: what is left of a guest, and what others hear of it.
func TestRemove(t *testing.T) {
	x := newParts(t)
	next := x.events(t)
	hand := api.Maker{By: api.ByHand}
	if err := x.byName(t.Context(), "web", hand, false); fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
	hook := api.Maker{By: api.ByHook}
	x.standing(record{Name: "web", Maker: &hook})
	if err := x.byName(t.Context(), "web", hand, false); fault.Of(err) != fault.Conflict {
		t.Error(err)
	}
	if err := x.byName(t.Context(), "web", hand, true); err != nil || x.named("web") != nil {
		t.Error(err)
	}
	if got := next(); got != "removed web" {
		t.Error(got)
	}
	g := x.standing(record{Name: "db"})
	x.remove(g, api.EventGone, "why")
	x.remove(g, api.EventGone, "again")
	if got := next(); got != "gone db why" || x.named("db") != nil {
		t.Error(got)
	}
	// Removed between the search and the lock.
	g = x.standing(record{Name: "web"})
	g.gone = true
	if err := x.byName(t.Context(), "web", hand, false); fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
}

// TestFollowProcess: a guest ends with its process, and is left to the next worker when this one ends.
func TestFollowProcess(t *testing.T) {
	x := newParts(t)
	next := x.events(t)
	for name, closing := range map[string]bool{"web": false, "left": true} {
		cmd := sleeper(t)
		g := x.standing(processRecord(t, name, cmd.Process.Pid))
		x.followProcess(g)
		if g.process == nil {
			t.Skip("kernel: no PIDFD_NONBLOCK (Linux 5.10)")
		}
		if closing {
			g.unfollow()
		}
		cmd.Process.Kill()
		cmd.Wait()
		if closing {
			continue
		}
		if got := next(); got != "gone web its process ended" || x.named("web") != nil {
			t.Error(got)
		}
	}
	if x.named("left") == nil {
		t.Error("a guest that is not followed was removed")
	}
	// The number is another process's, or none was given.
	r := processRecord(t, "reused", os.Getpid())
	r.PidStart++
	for _, r := range []record{r, {Name: "none"}, {Spec: api.GuestSpec{Pid: 1 << 30}}} {
		g := x.newGuest(r)
		x.followProcess(g)
		if g.process != nil {
			t.Errorf("%+v is followed", r)
		}
		g.unfollow()
	}
}

// TestSettle: a worker waits for the end of those before it.
func TestSettle(t *testing.T) {
	settle([]int{1 << 30})()
	cmd := sleeper(t)
	wait := settle([]int{cmd.Process.Pid})
	settled := make(chan struct{})
	go func() {
		wait()
		close(settled)
	}()
	select {
	case <-settled:
		t.Error("did not wait")
	case <-time.After(10 * time.Millisecond):
	}
	cmd.Process.Kill()
	select {
	case <-settled:
	case <-time.After(time.Minute):
		t.Error("waits still")
	}
}

// TestAbandon: of a guest that cannot be resumed no descriptor, region or mount is left.
func TestAbandon(t *testing.T) {
	x := newParts(t)
	r, err := x.arena.Allocate(nil)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	held := map[uint64]int{1: fd}
	x.kept.fail = errTest
	abandon(x.told().log, x.making.keepers, r, &x.guest("web").at, held)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF || len(held) > 0 || len(x.arena.Regions()) > 0 {
		t.Error(err, held)
	}
	if log := x.log.since(); len(x.kept.forgot) != 1 || x.kept.forgot[0] != r.Index() || !strings.Contains(log, "cannot tell the holder") {
		t.Error(x.kept.forgot, log)
	}
}
