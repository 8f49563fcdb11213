package integration

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestBridgeGuest: a guest of the daemon with v1 hierarchies on the host's v2 tree is listed, limited and told of as any other, and
// goes on over a worker's death and an upgrade.
func TestBridgeGuest(t *testing.T) {
	s := newBridgeSite(t, t.Name())
	d := kit.StartDaemon(t)
	events := d.FollowEvents(t)
	s.serve(t, d, "--policy", kit.FileWith(t, "version: 1\nquota: {cgroups: 4}\n"))
	limited, one, two := s.names[0], s.names[1], s.names[2]
	a, b := s.sleeper(t), s.sleeper(t)
	makeDirs(t, s.at(limited, "x"), s.at(limited, "x/y"), s.at(one, "x"), s.at(two, "z"))
	must(t, "move", kit.WriteFile(s.at(limited, "x/tasks"), strconv.Itoa(a)))
	must(t, "limit", kit.WriteFile(s.at(limited, "x", s.limit), s.values[0]))
	must(t, "chown", kit.Word(unix.Chown(s.at(one, "x"), 1000, 1000)))
	fd, err := unix.Open(s.at(one, "x/tasks"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	gone, err := unix.Open(s.at(two, "z/tasks"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(gone)
	makeDirs(t, s.at(one, "z"))
	must(t, "rmdir", kit.Rmdir(s.at(two, "z")))
	makeDirs(t, s.at(two, "z"))

	check := func(when string) {
		t.Helper()
		_, tree := d.Try(t, "guest", "tree", "bridge")
		if _, inX, _ := strings.Cut(tree, " x "); strings.Contains(tree, ".vcgroupfs") || !strings.Contains(inX, fmt.Sprint(a)) {
			t.Errorf("%s: the tree: %s", when, tree)
		}
		var top []struct{ Cgroups int }
		if err := d.Call("GET", "/v1/top", nil, &top); err != nil || len(top) != 1 || top[0].Cgroups != 3 {
			t.Errorf("%s: cgroups: %+v, %v", when, top, err)
		}
		for what, got := range map[string][2]string{
			"limit":   {strings.TrimSpace(kit.ReadFile(s.at(limited, "x", s.limit))), s.values[0]},
			"owner":   {kit.StatText(s.at(one, "x"))[len("mode 40755 "):], "nlink 2 size 0 blocks 0 blksize 4096 owner 1000:1000"},
			"links":   {kit.StatText(s.at(limited, "x"))[len("mode 40755 "):], "nlink 3 size 0 blocks 0 blksize 4096 owner 0:0"},
			"tasks":   {strings.TrimSpace(kit.ReadFile(s.at(limited, "x/tasks"))), strconv.Itoa(a)},
			"others":  {strings.TrimSpace(kit.ReadFile(s.at(one, "x/tasks"))), strconv.Itoa(a)},
			"top":     {dirsIn(s.at(two)), "z"},
			"by fd":   {kit.Word(kit.WriteFD(strconv.Itoa(a))(fd)), "ok"},
			"removed": {kit.Word(kit.WriteFD(strconv.Itoa(a))(gone)), "ENODEV"},
		} {
			if got[0] != got[1] {
				t.Errorf("%s: %s: %q, want %q", when, what, got[0], got[1])
			}
		}
	}
	check("at first")
	d.Signal(t, unix.SIGKILL, 0)
	d.Ready(t)
	check("after the worker's death")
	d.Run(t, "serve", "--upgrade")
	d.Ready(t)
	check("after an upgrade")

	d.WantTry(t, 0, s.host, "guest", "set", "bridge", s.host+"="+s.values[2])
	if got := strings.TrimSpace(kit.ReadFile(s.at(limited, s.limit))); got != s.values[2] {
		t.Errorf("the host has set the boundary's limit, and the guest reads %s", got)
	}
	makeDirs(t, s.at(two, "last"))
	// Who follows events has found the new worker some time after it serves, and is told of none before.
	kit.Eventually(t, "the refusals", func() bool {
		if got := kit.WriteFile(s.at(limited, s.limit), "-1"); got != "EPERM" {
			t.Fatalf("the guest lifts its limit: %s", got)
		}
		if got := kit.Word(unix.Mkdir(s.at(two, "more"), 0o755)); got != "EAGAIN" {
			t.Fatalf("one more than the quota: %s", got)
		}
		return containsAll(events(), `"denied"`, "/"+limited+"/"+s.limit, `"quota"`)
	})
	for _, hier := range s.names {
		must(t, "freeze", kit.Word(kit.WriteFileErr(s.at(hier, "tasks"), strconv.Itoa(b)))) // it stays
	}
	d.WantTry(t, 0, "", "guest", "freeze", "bridge")
	d.WantTry(t, 0, `"frozen": true`, "guest", "top", "--json", "--count", "1")
	d.WantTry(t, 0, "", "guest", "thaw", "bridge")
	d.WantTry(t, 0, "", "guest", "kill", "bridge")
	d.WantTry(t, 0, "", "guest", "rm", "bridge")
	if kit.IsMounted(s.view) {
		t.Error("a removed guest's view is mounted")
	}
	kit.Eventually(t, "the events", func() bool { return containsAll(events(), `"added"`, `"removed"`) })
	d.Stop(t)
}

// TestBridgeNotifies: poll and inotify on a file of a v1 hierarchy that v2 tells of wake up, also over a worker's death.
func TestBridgeNotifies(t *testing.T) {
	s := newBridgeSite(t, t.Name())
	if s.names[0] != "memory" {
		t.Skip("machine: this kernel's pids is in a v1 hierarchy")
	}
	d := kit.StartDaemon(t)
	if !d.Ready(t).Resend {
		t.Skip("kernel: before 6.9 a guest's inotify under the daemon sees only what the guest itself writes")
	}
	s.serve(t, d)
	makeDirs(t, s.at("memory", "x"), s.at("pids", "x"))
	must(t, "limit", kit.WriteFile(s.at("pids", "x/pids.max"), "1"))
	file := s.at("pids", "x/pids.events")
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, file, unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	poll := func(wait int) int16 {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		for {
			if _, err := unix.Poll(fds, wait); err != unix.EINTR {
				return fds[0].Revents
			}
		}
	}
	read := func() string {
		buf := make([]byte, 100)
		n, _ := unix.Pread(fd, buf, 0)
		return string(buf[:max(n, 0)])
	}
	const event = unix.POLLPRI | unix.POLLERR
	for i, when := range []string{"at first", "after the worker's death"} {
		read()
		kit.Eventually(t, "no event: "+when, func() bool { read(); return poll(0) == 0 })
		kit.ReadInotify(watch)
		x := kit.StartProcess(t, exec.Command("sh", "-c", "read -r _; (sleep 0); :")) // a shell that cannot fork ends
		must(t, "attach", kit.Word(s.hier.Attach(s.path+"/x", x.PID())))
		done := make(chan int16)
		go func() { done <- poll(int(kit.Patience.Milliseconds())) }()
		fmt.Fprintln(x.In)
		if got := <-done; got != event {
			t.Errorf("%s: woken with %#x", when, got)
		}
		if got := read(); got != fmt.Sprintf("max %d\n", i+1) {
			t.Errorf("%s: pids.events has %q", when, got)
		}
		kit.Eventually(t, "inotify: "+when, func() bool { return strings.HasPrefix(kit.ReadInotify(watch), "2 ") })
		if i == 0 {
			d.Signal(t, unix.SIGKILL, 0)
			d.Ready(t)
		}
	}
	d.Stop(t)
}

func containsAll(text string, words ...string) bool {
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
}
