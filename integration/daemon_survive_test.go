package integration

import (
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// What happens to the daemon here happens under load, and must not be felt: no operation fails, no byte is wrong, no thread
// hangs, and afterwards each view shows what the host has. Where the kernel does not resend what a dead worker left
// unanswered (before Linux 6.9), those requests alone may fail, with ECONNABORTED.

// underLoad starts a daemon with guests that work, lets do happen to it, and looks at what came of it.
func underLoad(t *testing.T, guests int, do func(d *kit.Daemon)) {
	h := kit.OpenHost(t)
	var sites []kit.Site
	for i := range guests {
		sites = append(sites, kit.NewSite(t, h, t.Name()+"-"+strconv.Itoa(i)))
	}
	d := kit.StartDaemon(t)
	loads := d.StartLoads(t, sites)
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	do(d)
	took := time.Since(began)
	time.Sleep(200 * time.Millisecond) // and on it goes
	sum := kit.JudgeLoads(t, loads...)
	if t.Failed() {
		return // what hangs would have the rest hang
	}
	for _, l := range loads {
		kit.WantSame(t, l.Site)
	}
	info := d.Ready(t)
	if info.Guests != guests {
		t.Errorf("the daemon has %d guests, had %d", info.Guests, guests)
	}
	aborted := 0
	for _, n := range sum.Aborted {
		aborted += n
	}
	t.Logf("%d guests, %v; %d restarts, resend %t, %d operations aborted", guests, took.Round(time.Millisecond), info.Restarts, info.Resend, aborted)
	d.Stop(t)
}

// TestKill: kill -9 of the worker.
func TestKill(t *testing.T) {
	for _, c := range []struct {
		every time.Duration
		times int
	}{{100 * time.Millisecond, 200}, {20 * time.Millisecond, 400}} {
		t.Run("every "+c.every.String(), func(t *testing.T) {
			every, times := time.Duration(float64(c.every)/kit.Scale(t)), kit.Scaled(t, c.times, 20)
			if kit.Scale(t) < 1 {
				times /= 4 // each second lasts ten where processors are emulated
			}
			underLoad(t, kit.Scaled(t, 20, 2), func(d *kit.Daemon) {
				before := d.Ready(t).Restarts
				last := 0
				tick := time.NewTicker(every)
				defer tick.Stop()
				for killed := 0; killed < times; <-tick.C {
					if pid := d.Signal(t, unix.SIGKILL, last); pid != 0 {
						last = pid
						killed++
					}
				}
				if got := d.Ready(t).Restarts - before; got < uint64(times) {
					t.Errorf("the worker was killed %d times and restarted %d times", times, got)
				}
			})
		})
	}
}

// TestStopped: a worker that is stopped is replaced by the watchdog.
func TestStopped(t *testing.T) {
	underLoad(t, kit.Scaled(t, 8, 2), func(d *kit.Daemon) {
		for range 3 {
			pid, fd := d.Worker(t)
			began := time.Now()
			if err := unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0); err != nil {
				t.Fatal(err)
			}
			if !kit.HasEnded(fd, kit.Patience) {
				t.Fatalf("the worker %d is stopped and has not been replaced", pid)
			}
			unix.Close(fd)
			kit.Eventually(t, "another worker to answer", func() bool { return d.Ready(t).Pid != pid })
			t.Logf("replaced after %v", time.Since(began).Round(time.Millisecond))
			time.Sleep(500 * time.Millisecond)
		}
	})
}

// TestUpgradeUnderLoad: the program is replaced while guests work; where the new one refuses, the old one stays.
func TestUpgradeUnderLoad(t *testing.T) {
	underLoad(t, kit.Scaled(t, 20, 2), func(d *kit.Daemon) {
		pid := d.Ready(t).Pid
		for i := range kit.Scaled(t, 50, 3) {
			d.Run(t, "serve", "--upgrade")
			now := d.Ready(t).Pid
			if now == pid {
				t.Fatalf("upgrade %d: the worker is still %d", i, pid)
			}
			pid = now
		}
		for name, program := range refusals(t) {
			if err := d.Call("POST", "/v1/upgrade", map[string]string{"program": program}, nil); err == nil {
				t.Errorf("an upgrade to %s succeeded", name)
			}
			if now := d.Ready(t).Pid; now != pid {
				t.Errorf("after a refused upgrade to %s the worker is %d, was %d", name, now, pid)
			}
		}
	})
}

// refusals are programs that do not take over.
func refusals(t *testing.T) map[string]string {
	missing := t.TempDir() + "/missing"
	found := map[string]string{"nothing": missing}
	for _, name := range []string{"false", "true"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = path
	}
	return found
}
