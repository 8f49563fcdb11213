package holder

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// script plays events to a supervisor and compares what it does.
type script struct {
	t         *testing.T
	s         supervisor
	at        time.Time
	beat      uint64
	beatAt    time.Time
	listeners int
}

func newScript(t *testing.T) *script {
	at := time.Unix(1e9, 0)
	return &script{t: t, at: at, s: supervisor{watchdog: 5 * time.Second, giveUp: 30 * time.Second, own: "/own"}}
}

// on plays an event and compares the actions. Of what is logged the beginning is enough, and signs of life go without
// saying.
func (x *script) on(e event, want ...string) {
	x.t.Helper()
	s, actions := step(x.s, reading{x.at, x.beat, x.beatAt, x.listeners}, e)
	x.s = s
	var got []string
	for _, a := range actions {
		if a.verb != notifyAlive {
			got = append(got, a.String())
		}
	}
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = got[i] == want[i] || strings.HasPrefix(want[i], "log ") && strings.HasPrefix(got[i], want[i])
	}
	if !same {
		x.t.Errorf("%s %+v:\n got %q\nwant %q", e.kind, e, got, want)
	}
}

// pass lets time pass, with a heartbeat at its end.
func (x *script) pass(d time.Duration, want ...string) {
	x.t.Helper()
	x.beat, x.beatAt = x.beat+1, x.at.Add(d)
	x.hang(d, want...)
}

// hang lets time pass without a heartbeat.
func (x *script) hang(d time.Duration, want ...string) {
	x.t.Helper()
	x.at = x.at.Add(d)
	x.on(event{kind: timePassed}, want...)
}

// spawned, says and exits are what happens to a child.
func (x *script) spawned(id int, want ...string) {
	x.t.Helper()
	x.on(event{kind: childSpawned, child: id, pid: 100 + id}, want...)
}

func (x *script) says(id int, kind eventKind, want ...string) {
	x.t.Helper()
	x.on(event{kind: kind, child: id}, want...)
}

func (x *script) exits(id int, how exit, want ...string) {
	x.t.Helper()
	text := [...]string{"status 0", "exit status 1", "signal: killed"}[how]
	x.on(event{kind: childExited, child: id, text: text, exit: how}, want...)
}

// serving brings a new holder to where its first worker serves.
func serves(t *testing.T) *script {
	t.Helper()
	x := newScript(t)
	x.on(event{kind: began}, "spawn worker 1")
	x.spawned(1)
	x.says(1, childPrepared, "resume worker 1")
	x.says(1, childServes, "notify ready", "announce")
	x.wantPhase(serving)
	if !x.s.due().IsZero() {
		t.Errorf("something is due at %v", x.s.due())
	}
	return x
}

func (x *script) wantPhase(p phase) {
	x.t.Helper()
	if x.s.current.phase != p {
		x.t.Errorf("the worker is %s, want %s", x.s.current.phase, p)
	}
}

// TestReplace: a worker that dies is replaced at once, and the next one is told how it died.
func TestReplace(t *testing.T) {
	x := serves(t)
	x.exits(1, exitedKilled, "log warning: the worker (process 101) ended with signal: killed", "spawn worker 2")
	if x.s.crashed || x.s.reason != "signal: killed" || x.s.restarts != 1 || x.s.outage != x.at {
		t.Errorf("%+v", x.s)
	}
	x.spawned(2)
	x.says(2, childPrepared, "resume worker 2")
	x.says(2, childServes, "notify ready") // announced once
	x.exits(2, exitedByItself, "log warning: the worker (process 102) ended with exit status 1", "spawn worker 3")
	if !x.s.crashed {
		t.Error("it did not fail by itself")
	}
	x.says(2, childServes) // is gone
	x.says(3, childServes) // without having been told to
	x.wantPhase(starting)
	x.says(3, linkClosed, "kill 3")
}

// TestFailures: workers that end before they serve are replaced ever more slowly, but at least once a second.
func TestFailures(t *testing.T) {
	x := serves(t)
	x.exits(1, exitedKilled, "log warning", "spawn worker 2")
	id := 2
	for _, want := range []time.Duration{20, 40, 60} {
		x.exits(id, exitedByItself, "log warning")
		if due := x.s.due().Sub(x.s.outage); due != want*time.Millisecond {
			t.Errorf("the next worker is due %v after the outage began, want %v ms", due, want)
		}
		id++
		x.hang(failurePause, fmt.Sprintf("spawn worker %d", id))
	}
	x.on(event{kind: spawnFailed, child: id, text: "no memory"}, "log error: cannot spawn a worker: no memory")
	if x.s.reason != "no memory" {
		t.Errorf("the reason is %q", x.s.reason)
	}
	x.hang(80*time.Millisecond, "spawn worker 6")
	x.says(6, childPrepared, "resume worker 6")
	x.says(6, childServes, "notify ready")
	x.exits(6, exitedKilled, "log warning", "spawn worker 7") // the pause is forgotten
	x.pass(time.Second)
	for id := 7; id < 100; id++ { // killed faster than they start: each is replaced at once
		x.exits(id, exitedKilled, "log warning", fmt.Sprintf("spawn worker %d", id+1))
	}
	for n, want := range map[int]time.Duration{
		0: 0, 1: 20 * time.Millisecond, 10: 200 * time.Millisecond, 1000: time.Second,
	} {
		if got := pause(n); got != want {
			t.Errorf("after %d deaths: %v, want %v", n, got, want)
		}
	}
}

// TestLinger: a worker whose first thread has ended is replaced when it is reaped, or is not for some time.
func TestLinger(t *testing.T) {
	x := serves(t)
	x.says(1, lifelineBroke)
	x.hang(10 * time.Millisecond)
	x.exits(1, exitedKilled, "log warning: the worker (process 101) ended with signal: killed", "spawn worker 2")
	x.spawned(2)
	x.says(2, childPrepared, "resume worker 2")
	x.says(2, childServes, "notify ready")
	x.on(event{kind: lifelineBroke, child: 2, text: "signal: killed", exit: exitedKilled})
	x.hang(lingerWait, "log warning: the worker (process 102) is dead, but a thread of it waits in the kernel",
		"log warning: the worker (process 102) ended with signal: killed", "spawn worker 3")
	if len(x.s.lingering) != 1 || x.s.lingering[0].pid != 102 || x.s.crashed {
		t.Errorf("lingering: %+v, crashed %t", x.s.lingering, x.s.crashed)
	}
	x.exits(2, exitedKilled)
	if len(x.s.lingering) != 0 {
		t.Errorf("still lingering: %+v", x.s.lingering)
	}
	x.spawned(3)
	x.says(3, childPrepared, "resume worker 3")
	x.on(event{kind: lifelineBroke, child: 3, text: "exit status 2", exit: exitedByItself})
	x.hang(lingerWait, "log warning: the worker (process 103) is dead",
		"log warning: the worker (process 103) ended with exit status 2", "spawn worker 4")
	if !x.s.crashed {
		t.Error("a worker that crashed and lingers is taken for one that was killed")
	}
}

// TestWatchdog: a worker without heartbeat is killed, once each time; one that never began to beat as well. While the
// kernel loads programs nothing is expected of it.
func TestWatchdog(t *testing.T) {
	x := serves(t)
	for range 10 {
		x.pass(4 * time.Second)
	}
	x.hang(4 * time.Second)
	x.hang(time.Second, "log error: the worker (process 101) has not beaten for 5s", "kill 1")
	x.hang(time.Second)
	x.exits(1, exitedKilled, "log warning", "spawn worker 2")
	x.spawned(2)
	x.hang(9 * time.Second) // doubted, and not killed before it had a tick
	x.hang(time.Second, "log error: the worker (process 102)", "kill 2")

	x = newScript(t)
	x.s.loading = true
	x.on(event{kind: began}, "spawn worker 1")
	x.says(1, childPrepared)
	x.hang(10 * time.Second)
	x.on(event{kind: programsLoaded}, "resume worker 1")
	x.hang(4 * time.Second)
	x.hang(time.Second, "log error", "kill 1")
}

// looksIn plays looks only when they are due, with the worker's beats in between, and returns the number within a time.
// stop is when the worker stops beating.
func (x *script) looksIn(within, beat, stop time.Duration) (looks int, killed time.Duration) {
	const tick = 5 * time.Second / 8
	began := x.at
	for {
		x.at = x.s.looks(tick)
		since := x.at.Sub(began)
		if since >= within {
			return looks, killed
		}
		if last := min(since, stop) / beat; last > 0 && !began.Add(last*beat).Equal(x.beatAt) {
			x.beat, x.beatAt = x.beat+1, began.Add(last*beat)
		}
		looks++
		s, actions := step(x.s, reading{x.at, x.beat, x.beatAt, x.listeners}, event{kind: timePassed})
		x.s = s
		if slices.ContainsFunc(actions, func(a action) bool { return a.verb == killChild }) && killed == 0 {
			killed = since
		}
	}
}

// TestLooks: the holder of a worker that beats looks seldom. It kills one that does not beat just when its bound has
// passed since the last beat, whenever that was between two looks.
func TestLooks(t *testing.T) {
	if looks, killed := serves(t).looksIn(time.Minute, time.Second, time.Hour); looks > 20 || killed != 0 {
		t.Errorf("%d looks in a minute, killed after %v", looks, killed)
	}
	for stop := 10 * time.Second; stop < 16*time.Second; stop += time.Second / 4 {
		_, killed := serves(t).looksIn(time.Minute, time.Second, stop)
		if bound := stop.Truncate(time.Second) + 5*time.Second; killed < bound || killed > bound+time.Second/8 {
			t.Errorf("last beat at %v, killed at %v, want %v", stop, killed, bound)
		}
	}
}

// TestLateLook: a holder that the machine did not run for long does not kill a worker that it did not run either.
func TestLateLook(t *testing.T) {
	x := serves(t)
	x.hang(30 * time.Second)
	x.pass(100 * time.Millisecond)
	x.hang(4 * time.Second)
	x.hang(600 * time.Millisecond)
	x.hang(400*time.Millisecond, "log error", "kill 1")
}

// TestGiveUpStep: guests do not wait longer for a worker than they are to; killed workers are awaited, but not for
// ever.
func TestGiveUpStep(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		x := serves(t)
		x.exits(1, exitedByItself, "log warning", "spawn worker 2")
		if due := x.s.due().Sub(x.at); due != 30*time.Second {
			t.Errorf("something is due in %v", due)
		}
		x.pass(29 * time.Second)
		x.pass(time.Second, "kill 2")
		end := []string{"end views", "forget arena"}
		if stuck {
			x.hang(abandonWait, end...)
		} else {
			x.exits(2, exitedKilled, end...)
		}
		want := "cannot keep a worker alive: the last one ended with exit status 1; the guests' connections are ended"
		if x.s.mode != ended || x.s.failure != want {
			t.Errorf("mode %d, %q", x.s.mode, x.s.failure)
		}
	}
}

// TestGiveUpFirst: where the first worker is never ready, the failure says so.
func TestGiveUpFirst(t *testing.T) {
	x := newScript(t)
	x.on(event{kind: began}, "spawn worker 1")
	x.spawned(1)
	x.pass(29 * time.Second)
	x.pass(time.Second, "kill 1")
	x.exits(1, exitedKilled, "end views", "forget arena")
	const want = "cannot keep a worker alive: the first one was not ready after 30s; the guests' connections are ended"
	if x.s.mode != ended || x.s.failure != want {
		t.Errorf("mode %d, %q", x.s.mode, x.s.failure)
	}
}

// TestStop: the worker removes all guests, and is killed if it does not exit.
func TestStop(t *testing.T) {
	stop := event{kind: stopWanted, text: "terminated"}
	x := serves(t)
	x.on(stop, "log info: terminated", "notify stop", "stop worker 1")
	x.on(stop)
	x.on(event{kind: upgradeWanted}, "log error: cannot upgrade: vcgroupfs serve is ending", "notify ready",
		"report upgrade 1: cannot upgrade: vcgroupfs serve is ending")
	x.hang(stopWait - time.Second)
	x.exits(1, exitedZero, "end views")
	if x.s.mode != ended || x.s.failure != "" {
		t.Errorf("mode %d, %q", x.s.mode, x.s.failure)
	}

	x = serves(t)
	x.on(stop, "log info", "notify stop", "stop worker 1")
	x.hang(stopWait, "kill 1")
	x.exits(1, exitedKilled,
		"log error: the worker (process 101) ended with signal: killed while it removed the guests", "end views")

	x = serves(t)
	x.on(event{kind: upgradeWanted}, "spawn worker 2 program 2: /own")
	x.on(stop, "log info", "notify stop", "kill 2", "stop worker 1")
	x.exits(1, exitedZero)
	x.exits(2, exitedKilled, "close program 2", "end views")

	x = newScript(t)
	x.on(event{kind: began}, "spawn worker 1")
	x.exits(1, exitedByItself, "log warning")
	x.on(stop, "log info", "notify stop", "end views")
}

// TestStepIsPure: a step leaves the state that it was given as it was.
func TestStepIsPure(t *testing.T) {
	x := serves(t)
	x.says(1, lifelineBroke)
	x.hang(lingerWait, "log warning", "log warning", "spawn worker 2")
	x.says(2, childPrepared, "resume worker 2")
	before := x.s
	before.lingering = slices.Clone(x.s.lingering)
	for _, e := range []event{
		{kind: childExited, child: 1}, {kind: childServes, child: 2}, {kind: lifelineBroke, child: 2},
	} {
		step(x.s, reading{x.at.Add(time.Hour), 7, x.at, 3}, e)
		if !reflect.DeepEqual(x.s, before) {
			t.Errorf("%s changed %+v to %+v", e.kind, before, x.s)
		}
	}
}
