package integration

import (
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestManager: a service manager is told how the daemon is; it keeps the guests' connections, and when holder and worker are
// both killed the next daemon goes on with them.
func TestManager(t *testing.T) {
	m := kit.NewServiceManager(t)
	d := kit.StartDaemonWith(t, kit.Program(t), nil, "NOTIFY_SOCKET="+m.Path, "WATCHDOG_USEC=600000")
	p := kit.NewPlace(t, d, "manager")
	d.WantTry(t, 0, "", p.Add("web")...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the manager was told %q; the log: %s", m.States[:min(4, len(m.States))], d.Log())
		}
	})
	kit.Eventually(t, "the manager to be told", func() bool {
		return m.Said("READY=1")() && m.Said("WATCHDOG=1")() && m.Said("FDSTORE=1\nFDPOLL=0\nFDNAME=arena")() && m.Said("FDSTORE=1\nFDPOLL=0\nFDNAME=device-0")()
	})
	if err := unix.Mkdir(p.At("a"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := "pids.max"
	if p.Hierarchy.Version == 2 {
		file = "cgroup.max.depth"
	}
	reading, err1 := unix.Open(p.At("cgroup.procs"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	writing, err2 := unix.Open(p.At("a/"+file), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	defer unix.Close(reading)
	defer unix.Close(writing)
	_, worker := d.Worker(t)
	defer unix.Close(worker)
	d.Cmd.Process.Kill()
	<-d.Ended
	// The worker alone still serves, and keeps another daemon from its guests.
	if got := kit.ReadFile(p.At("a/" + file)); got != "max\n" {
		t.Errorf("without its holder the worker says %q", got)
	}
	out, _ := exec.Command(kit.Program(t), "serve", "--socket", d.Socket, "--guests", "").CombinedOutput()
	if !strings.Contains(string(out), "serve-worker") {
		t.Errorf("a second daemon says %q", out)
	}
	unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0)
	if !kit.HasEnded(worker, kit.Patience) {
		t.Fatal("the worker is still there")
	}

	next := m.Restart(t, d)
	next.Ready(t)
	next.WantTry(t, 0, "web", "guest", "ls")
	if _, err := unix.Pread(reading, make([]byte, 64), 0); err != nil {
		t.Errorf("a kept reading descriptor: %v", err)
	}
	if _, err := unix.Pwrite(writing, []byte("7"), 0); err != nil {
		t.Errorf("a kept writing descriptor: %v", err)
	}
	if got := kit.ReadFile(p.At("a/" + file)); got != "7\n" {
		t.Errorf("it wrote %q", got)
	}
	if err := unix.Mkdir(p.At("b"), 0o755); err != nil {
		t.Error(err)
	}
	next.WantTry(t, 0, "", "guest", "rm", "web")
	kit.Eventually(t, "the guest's connection to leave the store", m.Said("FDSTOREREMOVE=1\nFDNAME=device-0"))
	next.Stop(t)
	if !m.Said("STOPPING=1")() {
		t.Error("the manager was not told of the end")
	}
}
