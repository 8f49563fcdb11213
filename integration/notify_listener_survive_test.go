package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// listening is a container whose calls a daemon listens to.
type listening struct {
	*helper
	d      *daemon
	h      *host.Host
	tree   *host.Hierarchy
	bundle *bundle
	run    *exec.Cmd
}

// startListening starts one with runc, whose program does what it is told.
func startListening(t *testing.T, d *daemon, id string, change func(b *bundle)) *listening {
	t.Helper()
	runtime := ociRuntimes(t)[0]
	h := openHost(t)
	c := &listening{d: d, h: h, tree: need(t, h, "pids")}
	c.bundle = newBundle(t, d, needRuntime(t, runtime), id, "commands")
	c.bundle.with("cgroup")
	c.bundle.linux()["seccomp"] = listened(d)
	if change != nil {
		change(c.bundle)
	}
	c.bundle.write(t)
	c.run = c.bundle.command(runtime)
	c.run.Stderr = os.Stderr
	c.helper = startProcess(t, c.run)
	return c
}

// end ends the container, of which nothing is left.
func (c *listening) end(t *testing.T) {
	t.Helper()
	c.in.Close()
	if err := c.run.Wait(); err != nil {
		t.Errorf("the container ended with %v", err)
	}
}

// answerersOf are the processes of a holder that answer system calls. One that is killed, and has a thread that a container's file system
// keeps, is not among them: SIGKILL is pending for its first thread.
func answerersOf(holder int) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		stat := readFile(filepath.Dir(file) + "/status")
		if strings.Contains(stat, "SigPnd:\t0000000000000100") {
			continue
		}
		if readFile(file) == "vcgroupfs\x00serve-notify\x00" && strings.Contains(stat, fmt.Sprintf("\nPPid:\t%d\n", holder)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killAnswerer kills the process that answers, another one than the last, and says which that was.
func (d *daemon) killAnswerer(t *testing.T, last int) int {
	t.Helper()
	var pid int
	eventually(t, "a process that answers", func() bool {
		pids := answerersOf(d.cmd.Process.Pid)
		if len(pids) == 1 && pids[0] != last {
			pid = pids[0]
		}
		return pid != 0
	})
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}

// wantLoop checks what the threads of a container were told of its view.
func wantLoop(t *testing.T, c *listening, right string, others ...string) {
	t.Helper()
	got := c.ask(t, "loop-end")
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
			d := startUnaided(t)
			c := startListening(t, d, "kills", nil)
			at := topOf(guestView, c.tree)
			right := viewTypes(c.tree)[at]
			if got := c.ask(t, "loop-begin", at); got != "ok" {
				t.Fatal(got)
			}
			last := 0
			for range scaled(t, 50, 5) {
				if who == "worker" {
					last = d.signal(t, unix.SIGKILL, last)
				} else {
					last = d.killAnswerer(t, last)
				}
				time.Sleep(20 * time.Millisecond)
			}
			var also []string
			if who == "worker" && !d.ready(t).Resend {
				also = []string{"ECONNABORTED"}
			}
			wantLoop(t, c, right, append(also, fuseType)...)
			c.wantTypes(t, map[string]string{at: right})
			c.end(t)
			nothingLeft(t, d, c.h, c.bundle.cgroup)
			d.stop(t)
		})
	}
}

// TestListenerUpgrade: an upgrade under the same threads.
func TestListenerUpgrade(t *testing.T) {
	d := startUnaided(t)
	c := startListening(t, d, "upgrade", nil)
	at := topOf(guestView, c.tree)
	right := viewTypes(c.tree)[at]
	c.ask(t, "loop-begin", at)
	var pids []int
	for range 5 {
		d.run(t, "serve", "--upgrade")
		time.Sleep(100 * time.Millisecond)
		pids = append(pids, answerersOf(d.cmd.Process.Pid)...)
	}
	wantLoop(t, c, right, fuseType)
	if slices.Sort(pids); len(slices.Compact(pids)) < 2 {
		t.Errorf("the process that answers was not replaced: %v", pids)
	}
	c.end(t)
	d.stop(t)
}

// TestListenerReceived: the process that answers dies when it has received a call and not answered it: the next one
// answers.
func TestListenerReceived(t *testing.T) {
	const deaths = 3
	file := filepath.Join(t.TempDir(), "deaths")
	d := startDaemonWith(t, failpointProgram(t), []string{"--no-bpf"},
		fmt.Sprintf("VCGROUPFS_FAILPOINT=listener-received:%d", deaths), "VCGROUPFS_FAILPOINT_FILE="+file)
	c := startListening(t, d, "received", nil)
	at := topOf(guestView, c.tree)
	for range 2 * deaths {
		c.wantTypes(t, map[string]string{at: viewTypes(c.tree)[at]})
	}
	if st, err := os.Stat(file); err != nil || st.Size() != deaths {
		t.Errorf("it died %v times (%v), want %d", st, err, deaths)
	}
	c.end(t)
	d.stop(t)
}

// TestListenerStop: when the daemon has ended its containers go on with the kernel's answers, and what passes their
// calls on ends with the last of them.
func TestListenerStop(t *testing.T) {
	d := startUnaided(t)
	c := startListening(t, d, "stop", func(b *bundle) {
		b.config["hooks"] = nil // the hook after its end would find no daemon
	})
	c.wantTypes(t, map[string]string{"/proc": procType})
	before := answerersOf(d.cmd.Process.Pid)
	if len(before) != 1 {
		t.Fatalf("these answer: %v", before)
	}
	c.ask(t, "loop-begin", "/proc")
	d.stop(t)
	time.Sleep(300 * time.Millisecond)
	wantLoop(t, c, procType)
	if got := c.ask(t, "mkdir", "/tmp/x") + c.ask(t, "mount", "/tmp/x", "tmpfs", ""); got != "okEPERM" {
		t.Errorf("mount without CAP_SYS_ADMIN: %s", got)
	}
	cgroup := readFile(fmt.Sprintf("/proc/%d/cgroup", before[0]))
	for line := range strings.Lines(cgroup) {
		if _, of, ok := strings.Cut(line, "0::"); ok && !strings.HasPrefix(of, "/vcgroupfs/serve-notify-") {
			t.Errorf("it has not left the daemon's cgroup: %s", line)
		}
	}
	c.end(t)
	eventually(t, "the end of the process that passed calls on", func() bool { return !exists(fmt.Sprintf("/proc/%d", before[0])) })
	for _, tree := range c.h.Hierarchies() {
		if at := fmt.Sprintf("/vcgroupfs/serve-notify-%d", before[0]); tree.Exists(at) {
			t.Errorf("%s is left in %s", at, tree)
		}
	}
}

// TestListenerOrphans: the holder is killed and nobody starts another. Calls are answered while the worker serves,
// then passed on.
func TestListenerOrphans(t *testing.T) {
	d := startUnaided(t)
	c := startListening(t, d, "orphans", nil)
	at := topOf(guestView, c.tree)
	want := map[string]string{at: viewTypes(c.tree)[at]}
	c.wantTypes(t, want)
	answerer := answerersOf(d.cmd.Process.Pid)[0]
	pid, worker := d.worker(t)
	if err := d.cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-d.ended
	c.wantTypes(t, want)
	if err := unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if !hasEnded(worker, patience) {
		t.Fatalf("the worker %d does not end", pid)
	}
	unix.Close(worker)
	if got := c.ask(t, "type", at); got != "ENOTCONN" && got != "ECONNABORTED" {
		t.Errorf("statfs of a dead view: %s", got)
	}
	c.wantTypes(t, map[string]string{"/proc": procType})
	c.bundle.config["hooks"] = nil
	c.in.Close()
	_ = c.run.Wait() // its last hook finds no daemon
	eventually(t, "the end of the process that answered", func() bool { return !exists(fmt.Sprintf("/proc/%d", answerer)) })
	if err := unix.Unmount(filepath.Join(d.dir, "views", c.bundle.id), unix.MNT_DETACH); err != nil { // nobody is there to do it
		t.Error(err)
	}
}

// TestListenerNoGuest: a container that has the profile and no view is as without either.
func TestListenerNoGuest(t *testing.T) {
	d := startUnaided(t)
	c := startListening(t, d, "noguest", func(b *bundle) {
		b.config["hooks"] = nil
		b.allow(allCapabilities(t))
	})
	c.wantTypes(t, map[string]string{"/proc": procType, "/tmp": typeOf(c.bundle.dir)})
	if got := c.ask(t, "mkdir", "/tmp/x") + c.ask(t, "mount", "/tmp/x", "tmpfs", ""); got != "okok" {
		t.Errorf("mount: %s", got)
	}
	c.end(t)
	d.stop(t)
}

// TestListenerExec: a process that the runtime executes in the container has a listener of its own.
func TestListenerExec(t *testing.T) {
	d := startUnaided(t)
	c := startListening(t, d, "exec", nil)
	at := topOf(guestView, c.tree)
	c.wantTypes(t, map[string]string{at: viewTypes(c.tree)[at]}) // it runs
	for range 5 {
		cmd := exec.Command(ociRuntimes(t)[0], "exec", "--env", roleVariable+"=script", c.bundle.id, "/program")
		rootfs := filepath.Join(c.bundle.dir, "rootfs")
		s := scripted{lines: []string{fmt.Sprintf("type %q", at)}, want: []string{"=" + viewTypes(c.tree)[at]}}
		s.put(t, rootfs)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("exec: %v: %s", err, out)
		}
		if got := strings.Split(readFile(filepath.Join(rootfs, "out")), "\n")[0]; got != s.want[0] {
			t.Errorf("statfs: %s, want %s", got, s.want[0])
		}
	}
	if t.Failed() {
		t.Log(d.log())
	}
	c.wantTypes(t, map[string]string{at: viewTypes(c.tree)[at]})
	c.end(t)
	nothingLeft(t, d, c.h, c.bundle.cgroup)
	d.stop(t)
}

// TestListenerManager: the holder is killed with all its children, under a service manager: the next one has the
// listeners from its store, and what was received is answered.
func TestListenerManager(t *testing.T) {
	m := newManager(t)
	d := startUnaided(t, "NOTIFY_SOCKET="+m.path)
	c := startListening(t, d, "manager", nil)
	at := topOf(guestView, c.tree)
	right := viewTypes(c.tree)[at]
	c.ask(t, "loop-begin", at)
	time.Sleep(200 * time.Millisecond)
	_, worker := d.worker(t)
	defer unix.Close(worker)
	answerer := answerersOf(d.cmd.Process.Pid)
	d.cmd.Process.Kill()
	<-d.ended
	unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0)
	for _, pid := range answerer {
		unix.Kill(pid, unix.SIGKILL)
	}
	if len(answerer) != 1 || !hasEnded(worker, patience) {
		t.Fatalf("the worker is still there, or not one process has answered: %v", answerer)
	}
	next := m.restart(t, d)
	next.ready(t)
	// A thread of the one that answered may have waited for the view, which only the next worker ends.
	eventually(t, "the end of the process that answered", func() bool { return !exists(fmt.Sprintf("/proc/%d", answerer[0])) })
	wantLoop(t, c, right, fuseType, "ECONNABORTED")
	c.wantTypes(t, map[string]string{at: right})
	c.end(t)
	eventually(t, "the listener to leave the store", m.said("FDSTOREREMOVE=1\nFDNAME=listener-1-listener."))
	nothingLeft(t, next, c.h, c.bundle.cgroup)
	next.stop(t)
}

// TestListenerOlder: with VCGROUPFS_OLDER, a program of before there were listeners: it takes over from this version
// and hands over to it, and containers' calls go on being answered. Where it began, there is no socket for listeners
// until the next start.
func TestListenerOlder(t *testing.T) {
	older := os.Getenv("VCGROUPFS_OLDER")
	if older == "" {
		t.Skip("machine: VCGROUPFS_OLDER names no older program")
	}
	d := startDaemon(t)
	c := startListening(t, d, "older", nil)
	at := topOf(guestView, c.tree)
	right := viewTypes(c.tree)[at]
	for _, to := range []string{older, program(t), older, program(t)} {
		c.ask(t, "loop-begin", at)
		d.run(t, "serve", "--upgrade", "--program", to)
		time.Sleep(time.Second)
		wantLoop(t, c, right, fuseType)
	}
	c.end(t)
	d.stop(t)

	d = startDaemonOf(t, older)
	p := newPlace(t, d, "older")
	d.wantTry(t, 0, "", p.add("web")...)
	for _, to := range []string{program(t), older, program(t)} {
		d.run(t, "serve", "--upgrade", "--program", to)
		if err := unix.Mkdir(p.at("a"), 0o755); err != nil {
			t.Error(err)
		}
		if err := unix.Rmdir(p.at("a")); err != nil {
			t.Error(err)
		}
	}
	if exists(d.listeners()) {
		t.Error("there is a socket that nobody made")
	}
	d.stop(t)
}
