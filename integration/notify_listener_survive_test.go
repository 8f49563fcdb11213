package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// wantLoop checks what the threads of a container were told of its view.
func wantLoop(t *testing.T, c *kit.Listened, right string, others ...string) {
	t.Helper()
	got := c.Ask(t, "loop-end")
	t.Logf("eight threads were told %s", got)
	for part := range strings.SplitSeq(got, ",") {
		what, _, _ := strings.Cut(part, ":")
		if what != right && !slices.Contains(others, what) {
			t.Errorf("statfs said %s", what)
		}
	}
	if !strings.Contains(got, right+":") {
		t.Errorf("statfs never said %s", right)
	}
}

// TestListenerKills: the worker and the process that answers are killed under eight threads that ask all the time:
// nobody hangs, and nobody hears of a type that is neither the right one nor that of FUSE.
func TestListenerKills(t *testing.T) {
	for _, who := range []string{"worker", "answerer"} {
		t.Run(who, func(t *testing.T) {
			d := kit.StartUnaidedDaemon(t)
			c := kit.StartListened(t, d, "kills", nil)
			at := kit.TopOf(kit.GuestView, c.Hierarchy)
			right := kit.ViewTypes(c.Hierarchy)[at]
			if got := c.Ask(t, "loop-begin", at); got != "ok" {
				t.Fatal(got)
			}
			last := 0
			for range kit.Scaled(t, 50, 5) {
				if who == "worker" {
					last = d.Signal(t, unix.SIGKILL, last)
				} else {
					last = d.KillAnswerer(t, last)
				}
				time.Sleep(20 * time.Millisecond)
			}
			var also []string
			if who == "worker" && !d.Ready(t).Resend {
				also = []string{"ECONNABORTED"}
			}
			wantLoop(t, c, right, append(also, kit.FUSEType)...)
			c.WantTypes(t, map[string]string{at: right})
			c.End(t)
			kit.WantNothingLeft(t, d, c.Host, c.Bundle.Cgroup)
			d.Stop(t)
		})
	}
}

// TestListenerUpgrade: an upgrade under the same threads.
func TestListenerUpgrade(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	c := kit.StartListened(t, d, "upgrade", nil)
	at := kit.TopOf(kit.GuestView, c.Hierarchy)
	right := kit.ViewTypes(c.Hierarchy)[at]
	c.Ask(t, "loop-begin", at)
	var pids []int
	for range 5 {
		d.Run(t, "serve", "--upgrade")
		time.Sleep(100 * time.Millisecond)
		pids = append(pids, kit.AnswerersOf(d.Cmd.Process.Pid)...)
	}
	wantLoop(t, c, right, kit.FUSEType)
	if slices.Sort(pids); len(slices.Compact(pids)) < 2 {
		t.Errorf("the process that answers was not replaced: %v", pids)
	}
	c.End(t)
	d.Stop(t)
}

// TestListenerReceived: the process that answers dies when it has received a call and not answered it: the next one
// answers.
func TestListenerReceived(t *testing.T) {
	const deaths = 3
	file := filepath.Join(t.TempDir(), "deaths")
	d := kit.StartDaemonWith(t, kit.FailpointProgram(t), []string{"--no-bpf"},
		fmt.Sprintf("VCGROUPFS_FAILPOINT=listener-received:%d", deaths), "VCGROUPFS_FAILPOINT_FILE="+file)
	c := kit.StartListened(t, d, "received", nil)
	at := kit.TopOf(kit.GuestView, c.Hierarchy)
	for range 2 * deaths {
		c.WantTypes(t, map[string]string{at: kit.ViewTypes(c.Hierarchy)[at]})
	}
	if st, err := os.Stat(file); err != nil || st.Size() != deaths {
		t.Errorf("it died %v times (%v), want %d", st, err, deaths)
	}
	c.End(t)
	d.Stop(t)
}

// TestListenerStop: when the daemon has ended its containers go on with the kernel's answers, and what passes their
// calls on ends with the last of them.
func TestListenerStop(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	c := kit.StartListened(t, d, "stop", func(b *kit.Bundle) {
		b.Config["hooks"] = nil // the hook after its end would find no daemon
	})
	c.WantTypes(t, map[string]string{"/proc": kit.ProcType})
	before := kit.AnswerersOf(d.Cmd.Process.Pid)
	if len(before) != 1 {
		t.Fatalf("these answer: %v", before)
	}
	c.Ask(t, "loop-begin", "/proc")
	d.Stop(t)
	time.Sleep(300 * time.Millisecond)
	wantLoop(t, c, kit.ProcType)
	if got := c.Ask(t, "mkdir", "/tmp/x") + c.Ask(t, "mount", "/tmp/x", "tmpfs", ""); got != "okEPERM" {
		t.Errorf("mount without CAP_SYS_ADMIN: %s", got)
	}
	cgroup := kit.ReadFile(fmt.Sprintf("/proc/%d/cgroup", before[0]))
	for line := range strings.Lines(cgroup) {
		if _, of, ok := strings.Cut(line, "0::"); ok && !strings.HasPrefix(of, "/vcgroupfs/serve-notify-") {
			t.Errorf("it has not left the daemon's cgroup: %s", line)
		}
	}
	c.End(t)
	kit.Eventually(t, "the end of the process that passed calls on", func() bool { return !kit.Exists(fmt.Sprintf("/proc/%d", before[0])) })
	for _, hier := range c.Host.Hierarchies() {
		if at := fmt.Sprintf("/vcgroupfs/serve-notify-%d", before[0]); hier.Exists(at) {
			t.Errorf("%s is left in %s", at, hier)
		}
	}
}

// TestListenerOrphans: the holder is killed and nobody starts another. Calls are answered while the worker serves,
// then passed on.
func TestListenerOrphans(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	c := kit.StartListened(t, d, "orphans", nil)
	at := kit.TopOf(kit.GuestView, c.Hierarchy)
	want := map[string]string{at: kit.ViewTypes(c.Hierarchy)[at]}
	c.WantTypes(t, want)
	answerer := kit.AnswerersOf(d.Cmd.Process.Pid)[0]
	pid, worker := d.Worker(t)
	if err := d.Cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-d.Ended
	c.WantTypes(t, want)
	if err := unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if !kit.HasEnded(worker, kit.Patience) {
		t.Fatalf("the worker %d does not end", pid)
	}
	unix.Close(worker)
	if got := c.Ask(t, "type", at); got != "ENOTCONN" && got != "ECONNABORTED" {
		t.Errorf("statfs of a dead view: %s", got)
	}
	c.WantTypes(t, map[string]string{"/proc": kit.ProcType})
	c.Bundle.Config["hooks"] = nil
	c.In.Close()
	_ = c.Run.Wait() // its last hook finds no daemon
	kit.Eventually(t, "the end of the process that answered", func() bool { return !kit.Exists(fmt.Sprintf("/proc/%d", answerer)) })
	if err := unix.Unmount(filepath.Join(d.Dir, "views", c.Bundle.ID), unix.MNT_DETACH); err != nil { // nobody is there to do it
		t.Error(err)
	}
}

// TestListenerNoGuest: a container that has the profile and no view is as without either.
func TestListenerNoGuest(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	c := kit.StartListened(t, d, "noguest", func(b *kit.Bundle) {
		b.Config["hooks"] = nil
		b.Allow(kit.AllCapabilities(t))
	})
	c.WantTypes(t, map[string]string{"/proc": kit.ProcType, "/tmp": kit.TypeOf(c.Bundle.Dir)})
	if got := c.Ask(t, "mkdir", "/tmp/x") + c.Ask(t, "mount", "/tmp/x", "tmpfs", ""); got != "okok" {
		t.Errorf("mount: %s", got)
	}
	c.End(t)
	d.Stop(t)
}

// TestListenerExec: a process that the runtime executes in the container has a listener of its own.
func TestListenerExec(t *testing.T) {
	d := kit.StartUnaidedDaemon(t)
	c := kit.StartListened(t, d, "exec", nil)
	at := kit.TopOf(kit.GuestView, c.Hierarchy)
	c.WantTypes(t, map[string]string{at: kit.ViewTypes(c.Hierarchy)[at]}) // it runs
	for range 5 {
		cmd := exec.Command(kit.OCIRuntimes(t)[0], "exec", "--env", kit.RoleVariable+"=script", c.Bundle.ID, "/program")
		rootfs := filepath.Join(c.Bundle.Dir, "rootfs")
		s := kit.Script{Lines: []string{fmt.Sprintf("type %q", at)}, Want: []string{"=" + kit.ViewTypes(c.Hierarchy)[at]}}
		s.Put(t, rootfs)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("exec: %v: %s", err, out)
		}
		if got := strings.Split(kit.ReadFile(filepath.Join(rootfs, "out")), "\n")[0]; got != s.Want[0] {
			t.Errorf("statfs: %s, want %s", got, s.Want[0])
		}
	}
	if t.Failed() {
		t.Log(d.Log())
	}
	c.WantTypes(t, map[string]string{at: kit.ViewTypes(c.Hierarchy)[at]})
	c.End(t)
	kit.WantNothingLeft(t, d, c.Host, c.Bundle.Cgroup)
	d.Stop(t)
}

// TestListenerManager: the holder is killed with all its children, under a service manager: the next one has the
// listeners from its store, and what was received is answered.
func TestListenerManager(t *testing.T) {
	m := kit.NewServiceManager(t)
	d := kit.StartUnaidedDaemon(t, "NOTIFY_SOCKET="+m.Path)
	c := kit.StartListened(t, d, "manager", nil)
	at := kit.TopOf(kit.GuestView, c.Hierarchy)
	right := kit.ViewTypes(c.Hierarchy)[at]
	c.Ask(t, "loop-begin", at)
	time.Sleep(200 * time.Millisecond)
	_, worker := d.Worker(t)
	defer unix.Close(worker)
	answerer := kit.AnswerersOf(d.Cmd.Process.Pid)
	d.Cmd.Process.Kill()
	<-d.Ended
	unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0)
	for _, pid := range answerer {
		unix.Kill(pid, unix.SIGKILL)
	}
	if len(answerer) != 1 || !kit.HasEnded(worker, kit.Patience) {
		t.Fatalf("the worker is still there, or not one process has answered: %v", answerer)
	}
	next := m.Restart(t, d)
	next.Ready(t)
	// A thread of the one that answered may have waited for the view, which only the next worker ends.
	kit.Eventually(t, "the end of the process that answered", func() bool { return !kit.Exists(fmt.Sprintf("/proc/%d", answerer[0])) })
	wantLoop(t, c, right, kit.FUSEType, "ECONNABORTED")
	c.WantTypes(t, map[string]string{at: right})
	c.End(t)
	kit.Eventually(t, "the listener to leave the store", m.Said("FDSTOREREMOVE=1\nFDNAME=listener-1-listener."))
	kit.WantNothingLeft(t, next, c.Host, c.Bundle.Cgroup)
	next.Stop(t)
}

// TestListenerOlder: with VCGROUPFS_OLDER, a program of before there were listeners: it takes over from this version
// and hands over to it, and containers' calls go on being answered. Where it began, there is no socket for listeners
// until the next start.
func TestListenerOlder(t *testing.T) {
	older := os.Getenv("VCGROUPFS_OLDER")
	if older == "" {
		t.Skip("machine: VCGROUPFS_OLDER names no older program")
	}
	d := kit.StartDaemon(t)
	c := kit.StartListened(t, d, "older", nil)
	at := kit.TopOf(kit.GuestView, c.Hierarchy)
	right := kit.ViewTypes(c.Hierarchy)[at]
	for _, to := range []string{older, kit.Program(t), older, kit.Program(t)} {
		c.Ask(t, "loop-begin", at)
		d.Run(t, "serve", "--upgrade", "--program", to)
		time.Sleep(time.Second)
		wantLoop(t, c, right, kit.FUSEType)
	}
	c.End(t)
	d.Stop(t)

	d = kit.StartDaemonOf(t, older)
	p := kit.NewPlace(t, d, "older")
	d.WantTry(t, 0, "", p.Add("web")...)
	for _, to := range []string{kit.Program(t), older, kit.Program(t)} {
		d.Run(t, "serve", "--upgrade", "--program", to)
		if err := unix.Mkdir(p.At("a"), 0o755); err != nil {
			t.Error(err)
		}
		if err := unix.Rmdir(p.At("a")); err != nil {
			t.Error(err)
		}
	}
	if kit.Exists(d.ListenerSocket()) {
		t.Error("there is a socket that nobody made")
	}
	d.Stop(t)
}
