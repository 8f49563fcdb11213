package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestRefusedUpgrades: programs that cannot go on leave nothing open in the holder.
func TestRefusedUpgrades(t *testing.T) {
	d := kit.StartDaemon(t)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	open := func() []string {
		dir := fmt.Sprintf("/proc/%d/fd", d.Cmd.Process.Pid)
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, e := range entries {
			to, _ := os.Readlink(filepath.Join(dir, e.Name()))
			all = append(all, to)
		}
		return all
	}
	refuse := func() {
		for _, to := range []string{plain, "/bin/true", "/bin"} {
			d.WantTry(t, 1, "stays", "serve", "--upgrade", "--program", to)
		}
	}
	refuse() // what the first opens for good is no leak
	before := open()
	for range 4 {
		refuse()
	}
	if after := open(); len(after) > len(before) {
		t.Errorf("after 12 refused upgrades the holder has %d descriptors, %d before:\n%s", len(after), len(before), strings.Join(after, "\n"))
	}
	d.Stop(t)
}

// TestPaused: a machine that stands still for longer than the watchdog waits costs no worker.
func TestPaused(t *testing.T) {
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--watchdog", "500ms"})
	pid, worker := d.Worker(t)
	defer unix.Close(worker)
	holder := d.Cmd.Process
	for _, err := range []error{holder.Signal(unix.SIGSTOP), unix.PidfdSendSignal(worker, unix.SIGSTOP, nil, 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Second)
	// The holder is first to go on.
	if err := holder.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if err := unix.PidfdSendSignal(worker, unix.SIGCONT, nil, 0); err != nil {
		t.Fatal(err)
	}
	if info := d.Ready(t); info.Pid != pid || info.Restarts != 0 {
		t.Errorf("%+v, want worker %d: %s", info, pid, d.Log())
	}
	d.Stop(t)
}

// TestUnhealthy: a worker whose holder is gone says so.
func TestUnhealthy(t *testing.T) {
	d := kit.StartDaemon(t)
	if err := d.Call("GET", "/healthz", nil, nil); err != nil {
		t.Error(err)
	}
	pid, worker := d.Worker(t)
	defer unix.Close(worker)
	if err := d.Cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-d.Ended
	kit.Eventually(t, "the worker to say that its holder has ended", func() bool {
		err := d.Call("GET", "/healthz", nil, nil)
		return err != nil && strings.Contains(err.Error(), "the holder has ended")
	})
	if err := unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if !kit.HasEnded(worker, kit.Patience) {
		t.Fatalf("the worker %d does not end", pid)
	}
}
