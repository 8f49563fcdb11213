package integration

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What happens to the daemon here happens under load, and must not be felt: no operation fails, no byte is wrong, no thread
// hangs, and afterwards each view shows what the host has. Where the kernel does not resend what a dead worker left
// unanswered (before Linux 6.9), those requests alone may fail, with ECONNABORTED.

// scale is VCGROUPFS_SCALE, for emulated processors: 0.2 is a fifth of the guests and of the rounds, at a fifth of the pace.
func scale(t testing.TB) float64 {
	text := os.Getenv("VCGROUPFS_SCALE")
	if text == "" {
		return 1
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f <= 0 || f > 1 {
		t.Fatalf("VCGROUPFS_SCALE is %q; it must be above 0 and at most 1", text)
	}
	return f
}

// scaled is a part of n, at least least.
func scaled(t testing.TB, n, least int) int { return max(least, int(float64(n)*scale(t))) }

// underLoad starts a daemon with guests that work, lets do happen to it, and looks at what came of it.
func underLoad(t *testing.T, guests int, do func(d *daemon)) {
	h := openHost(t)
	var sites []site
	for i := range guests {
		sites = append(sites, newSite(t, h, t.Name()+"-"+strconv.Itoa(i)))
	}
	d := startDaemon(t)
	loads := d.loads(t, sites)
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	do(d)
	took := time.Since(began)
	time.Sleep(200 * time.Millisecond) // and on it goes
	sum := judge(t, loads...)
	if t.Failed() {
		return // what hangs would have the rest hang
	}
	for _, l := range loads {
		wantSameTree(t, l.site)
	}
	info := d.ready(t)
	if info.Guests != guests {
		t.Errorf("the daemon has %d guests, had %d", info.Guests, guests)
	}
	aborted := 0
	for _, n := range sum.aborted {
		aborted += n
	}
	t.Logf("%d guests, %v; %d restarts, resend %t, %d operations aborted", guests, took.Round(time.Millisecond), info.Restarts, info.Resend, aborted)
	d.stop(t)
}

// TestKill: kill -9 of the worker.
func TestKill(t *testing.T) {
	for _, c := range []struct {
		every time.Duration
		times int
	}{{100 * time.Millisecond, 200}, {20 * time.Millisecond, 400}} {
		t.Run("every "+c.every.String(), func(t *testing.T) {
			every, times := time.Duration(float64(c.every)/scale(t)), scaled(t, c.times, 20)
			if scale(t) < 1 {
				times /= 2 // each second lasts ten where processors are emulated
			}
			underLoad(t, scaled(t, 20, 2), func(d *daemon) {
				before := d.ready(t).Restarts
				last := 0
				tick := time.NewTicker(every)
				defer tick.Stop()
				for killed := 0; killed < times; <-tick.C {
					if pid := d.signal(t, unix.SIGKILL, last); pid != 0 {
						last = pid
						killed++
					}
				}
				if got := d.ready(t).Restarts - before; got < uint64(times) {
					t.Errorf("the worker was killed %d times and restarted %d times", times, got)
				}
			})
		})
	}
}

// TestStopped: a worker that is stopped is replaced by the watchdog.
func TestStopped(t *testing.T) {
	underLoad(t, scaled(t, 8, 2), func(d *daemon) {
		for range 3 {
			pid, fd := d.worker(t)
			began := time.Now()
			if err := unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0); err != nil {
				t.Fatal(err)
			}
			if !hasEnded(fd, patience) {
				t.Fatalf("the worker %d is stopped and has not been replaced", pid)
			}
			unix.Close(fd)
			eventually(t, "another worker to answer", func() bool { return d.ready(t).Pid != pid })
			t.Logf("replaced after %v", time.Since(began).Round(time.Millisecond))
			time.Sleep(500 * time.Millisecond)
		}
	})
}

// TestUpgradeUnderLoad: the program is replaced while guests work; where the new one refuses, the old one stays.
func TestUpgradeUnderLoad(t *testing.T) {
	underLoad(t, scaled(t, 20, 2), func(d *daemon) {
		pid := d.ready(t).Pid
		for i := range scaled(t, 50, 5) {
			d.run(t, "serve", "--upgrade")
			now := d.ready(t).Pid
			if now == pid {
				t.Fatalf("upgrade %d: the worker is still %d", i, pid)
			}
			pid = now
		}
		for name, program := range refusals(t) {
			if err := d.call("POST", "/v1/upgrade", map[string]string{"program": program}, nil); err == nil {
				t.Errorf("an upgrade to %s succeeded", name)
			}
			if now := d.ready(t).Pid; now != pid {
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
